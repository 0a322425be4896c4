//! What a cell is to do.

use std::path::PathBuf;

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_host::limits::Limits;
use cowbird_vm::accel::Accel;
use cowbird_vm::command::{DEFAULT_CPUS, DEFAULT_MEMORY_MIB, TapeMode};
use cowbird_vm::emulator::Emulator;
use serde::{Deserialize, Serialize};

use crate::input::CaseInput;

/// The longest name of a kernel, release, case or mutant.
const MAX_WORD_CHARS: usize = 128;

/// What a guest may be told to have; QEMU would try to give it.
const CPUS: std::ops::RangeInclusive<u32> = 1..=256;
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=65_536;
const SLOWDOWN: std::ops::RangeInclusive<u32> = 1..=100;

/// How long a cell may be told to go on, and how often to start again.
const SOAK_MINUTES: std::ops::RangeInclusive<u32> = 1..=7 * 24 * 60;
const CUTS: std::ops::RangeInclusive<u32> = 1..=10_000;

/// Everything that decides what a cell does. A bundle keeps it as `plan.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellPlan {
    /// Name of the kernel in the catalogue.
    pub kernel_name: String,
    /// Its release (`uname -r`); the guest must say the same.
    pub kernel_release: String,
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// The kernel's modules to load at boot, name and decompressed file, in order.
    pub boot_modules: Vec<(String, PathBuf)>,
    /// The module under test.
    pub cowbird_ko: PathBuf,
    /// The guest's init: a static `cowbird-guest`.
    pub guest_init: PathBuf,
    /// The control tool, static.
    pub cowbirdctl: PathBuf,
    /// The tracer, static.
    pub tracer: PathBuf,
    /// The program that puts the tracer on trial, static.
    pub tracer_trial: PathBuf,
    /// Name of the case.
    pub case: String,
    /// What the case is given.
    #[serde(flatten)]
    pub input: CaseInput,
    /// Whether the tracer records beside the case, to be compared with the witness and the journal.
    #[serde(default)]
    pub traced: bool,
    /// Name of the fault that the module was built with.
    pub mutant: Option<String>,
    /// Seed of everything random.
    pub seed: u64,
    /// Acceleration.
    pub accel: Accel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory of the guest, MiB.
    pub memory_mib: u32,
    /// Folder of this cell alone; made, and removed when the cell passes.
    pub work_dir: PathBuf,
    /// Where the evidence goes when the cell does not pass; replaced.
    pub bundle_dir: PathBuf,
    /// Limits.
    pub limits: Limits,
    /// Whether a tape of the cell is made or played.
    #[serde(default)]
    pub tape: Option<TapePlan>,
}

impl CellPlan {
    /// A plan for tests, which boots nothing.
    #[must_use]
    pub fn example() -> Self {
        Self {
            kernel_name: "bookworm-6.1-cloud".into(),
            kernel_release: "6.1.0-0-cloud-amd64".into(),
            vmlinuz: "/nonexistent/vmlinuz".into(),
            boot_modules: Vec::new(),
            cowbird_ko: "/nonexistent/cowbird.ko".into(),
            guest_init: "/nonexistent/init".into(),
            cowbirdctl: "/nonexistent/cowbirdctl".into(),
            tracer: "/nonexistent/cowbird-trace".into(),
            tracer_trial: "/nonexistent/trial".into(),
            case: "raw-writers".into(),
            input: CaseInput::USUAL,
            traced: false,
            mutant: None,
            seed: 7,
            accel: Accel::Tcg,
            cpus: DEFAULT_CPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            work_dir: "/nonexistent/work".into(),
            bundle_dir: "/nonexistent/bundle".into(),
            limits: Limits::default(),
            tape: None,
        }
    }
}

/// That a cell is recorded or replayed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapePlan {
    /// The QEMU that does it.
    pub emulator: Emulator,
    /// The bundle whose tape is played; none: a tape is made.
    pub bundle: Option<PathBuf>,
}

impl TapePlan {
    /// What is done with the tape.
    #[must_use]
    pub fn mode(&self) -> TapeMode {
        match self.bundle {
            None => TapeMode::Record,
            Some(_) => TapeMode::Replay,
        }
    }
}

/// Checks what a plan says that came with a bundle and will be part of names, or of what QEMU is asked for.
///
/// # Errors
/// Names the first value that no plan of this harness has.
pub fn check_plan(plan: &CellPlan) -> HarnessResult<()> {
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
        ("soak_minutes", plan.input.soak_minutes(), SOAK_MINUTES),
        ("cuts", plan.input.cuts(), CUTS),
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
            input: CaseInput::Lengths {
                soak_minutes: Some(u32::MAX),
                cuts: None,
            },
            ..CellPlan::example()
        };
        assert!(check_plan(&endless).is_err());
        let many = CellPlan {
            input: CaseInput::Lengths {
                soak_minutes: None,
                cuts: Some(0),
            },
            ..CellPlan::example()
        };
        assert!(check_plan(&many).is_err());
    }
}
