//! What somebody else may have made: the files of a bundle come from a customer or a CI engine as often as from this
//! machine, and what a guest says comes from a kernel that is being tried.
//!
//! Such input decides what a guest does and nothing about the host: not which file is written, not which program runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::plan::CellPlan;

/// The largest file of a bundle that is read whole: the journal of a long soak has 300 MB.
pub(crate) const MAX_TEXT_BYTES: u64 = 2 << 30;

/// The longest name of a kernel, release, case or mutant.
const MAX_WORD_CHARS: usize = 128;

/// What a guest may be told to have; QEMU would try to give it.
const CPUS: std::ops::RangeInclusive<u32> = 1..=256;
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=65_536;
const SLOWDOWN: std::ops::RangeInclusive<u32> = 1..=100;

/// How long a cell may be told to go on, and how often to start again.
const SOAK_MINUTES: std::ops::RangeInclusive<u32> = 1..=7 * 24 * 60;
const CUTS: std::ops::RangeInclusive<u32> = 1..=10_000;

/// Opens a regular file. A link at the end of the name is not followed, and a pipe does not hold the reader up.
///
/// # Errors
/// When it cannot be opened, or is anything else.
pub(crate) fn open(path: &Path) -> HarnessResult<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).on("open", path)?);
    if !file.metadata().on("look at", path)?.is_file() {
        return Err(io::Error::other("it is not a regular file")).on("read", path);
    }
    Ok(file)
}

/// Reads a regular file of a bounded size.
///
/// # Errors
/// When it cannot be read, is no text, or is larger.
pub(crate) fn read_text(path: &Path) -> HarnessResult<String> {
    let mut text = String::new();
    let taken = open(path)?
        .take(MAX_TEXT_BYTES + 1)
        .read_to_string(&mut text)
        .on("read", path)?;
    if taken as u64 > MAX_TEXT_BYTES {
        let too_large = io::Error::other(format!("it has more than {MAX_TEXT_BYTES} bytes"));
        return Err(too_large).on("read", path);
    }
    Ok(text)
}

/// A path below a folder of the host for a path in the guest.
///
/// # Errors
/// When it would lead out of the folder.
pub(crate) fn below(folder: &Path, path: &str) -> HarnessResult<PathBuf> {
    let inside = Path::new(path.trim_start_matches('/'));
    let plain = inside
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if plain && inside.file_name().is_some() {
        return Ok(folder.join(inside));
    }
    Err(HarnessError::Plan {
        detail: format!(
            "{path:?} is no name of a file in an initramfs, and nothing is written there"
        ),
    })
}

/// Checks what a plan says that came with a bundle and will be part of names, or of what QEMU is asked for.
///
/// # Errors
/// Names the first value that no plan of this harness has.
pub(crate) fn check_plan(plan: &CellPlan) -> HarnessResult<()> {
    let words = [
        ("kernel_name", Some(&plan.kernel_name)),
        ("kernel_release", Some(&plan.kernel_release)),
        ("case", Some(&plan.case)),
        ("mutant", plan.mutant.as_ref()),
    ];
    for (what, word) in words {
        if let Some(word) = word
            && !is_word(word)
        {
            return Err(unlikely(what, word));
        }
    }
    let numbers = [
        ("cpus", plan.cpus, CPUS),
        ("memory_mib", plan.memory_mib, MEMORY_MIB),
        ("slowdown", plan.limits.slowdown, SLOWDOWN),
    ];
    let wanted = [
        ("soak_minutes", plan.soak_minutes, SOAK_MINUTES),
        ("cuts", plan.cuts, CUTS),
    ];
    let wanted = wanted
        .into_iter()
        .filter_map(|(what, number, range)| Some((what, number?, range)));
    for (what, number, range) in numbers.into_iter().chain(wanted) {
        if !range.contains(&number) {
            return Err(unlikely(what, &number.to_string()));
        }
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    text.chars().all(plain)
        && (1..=MAX_WORD_CHARS).contains(&text.len())
        && !text.starts_with(['.', '-'])
}

fn unlikely(what: &str, value: &str) -> HarnessError {
    let value: String = value.chars().take(MAX_WORD_CHARS).collect();
    HarnessError::Plan {
        detail: format!(
            "its {what} is {value:?}, which no plan of a cell says; it was damaged or forged"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a guest or a plan names does not lead out of the folder for it.
    #[test]
    fn a_path_stays_below_its_folder() {
        let folder = Path::new("/s");
        let inside = below(folder, "/etc/cowbird/a.json").expect("it is plain");
        assert_eq!(inside, Path::new("/s/etc/cowbird/a.json"));
        for bad in [
            "/etc/cowbird/../../../tmp/x.json",
            "..",
            "../x",
            "/",
            "",
            "./x",
        ] {
            assert!(below(folder, bad).is_err(), "{bad:?}");
        }
    }

    /// Goal: a plan whose values would be part of a path, or take all of the host, is refused by name.
    #[test]
    fn a_forged_plan_is_refused() {
        check_plan(&CellPlan::example()).expect("it is as the harness writes them");
        for release in ["../../../etc", "a/b", "", ".", "-x", "a b", "a\u{1b}[2J"] {
            let plan = CellPlan {
                kernel_release: release.into(),
                ..CellPlan::example()
            };
            let error = check_plan(&plan).expect_err(release).to_string();
            assert!(error.contains("kernel_release"), "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
        let large = CellPlan {
            memory_mib: u32::MAX,
            ..CellPlan::example()
        };
        assert!(check_plan(&large).is_err());
        let mut slow = CellPlan::example();
        slow.limits.slowdown = u32::MAX;
        assert!(check_plan(&slow).is_err());
        let endless = CellPlan {
            soak_minutes: Some(u32::MAX),
            ..CellPlan::example()
        };
        assert!(check_plan(&endless).is_err());
        let many = CellPlan {
            cuts: Some(0),
            ..CellPlan::example()
        };
        assert!(check_plan(&many).is_err());
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "text").expect("it can be written");
        std::os::unix::fs::symlink(&file, &link).expect("a link can be made");
        assert_eq!(read_text(&file).expect("it is regular"), "text");
        for other in [link.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert!(read_text(other).is_err(), "{}", other.display());
        }
    }
}
