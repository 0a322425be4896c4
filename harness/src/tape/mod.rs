//! Tapes: a cell that is recorded, so that what happened in it once happens again exactly.
//!
//! QEMU keeps a log of all that reaches its guest from outside, and at which instruction; that is the *tape*. With the
//! kernel, the initramfs and the disks of the start it is the whole cell. A replay runs the cell over again as any other
//! one, with the guest of the tape in place of a new one, and ends with a verdict of its own; besides, every file that
//! the guest had a part in is compared, to the byte, with that of the recording.

pub mod culprit;
mod digests;
mod emulator;
mod file_digest;
mod keep;
mod search;

use std::path::Path;

use cowbird_host::background::in_background;
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_session::plan::CellPlan;
use cowbird_vm::command::SAID_FILE;
use cowbird_vm::disks::{Bus, Disk};
use cowbird_vm::layout::Layout;
use digests::{differences, digests_of};
use keep::{keep, unpack};

use crate::artifacts::CellArtifacts;
use crate::outcome::CellOutcome;

pub use emulator::{MIN_QEMU, check_emulator};
pub use file_digest::{Difference, FileDigest, Replayed};
pub use keep::{Kept, TAPE_DIR};

/// Virtual CPUs of a taped guest: QEMU replays one.
pub const CPUS: u32 = 1;

/// How many times longer everything may take while a tape is made or played.
pub const SLOWDOWN: u32 = 6;

/// Why a cell with these disks cannot be recorded.
pub(crate) fn unfit(disks: &[Disk]) -> Option<String> {
    let other = disks.iter().find(|disk| disk.bus != Bus::Virtio)?;
    Some(format!(
        "a recorded guest has virtio disks only, and this case has one on {:?}, whose timing QEMU does not record",
        other.bus
    ))
}

/// How a cell begins, as far as tapes are concerned.
pub(crate) enum Beginning {
    /// There is none.
    NoTape,
    /// One is made, beginning with these disks.
    Record(Vec<FileDigest>),
    /// One is played; all that it needs is in the work folder and in the plan.
    Replay,
    /// None can be made.
    Unfit(String),
}

/// Begins a tape, when the disks are made and nothing else is in the work folder.
///
/// # Errors
/// When a tape that is to be played is damaged, or not of this QEMU, or began with other disks.
pub(crate) async fn begin(
    plan: &mut CellPlan,
    layout: &Layout,
    files: &CellFiles,
) -> HarnessResult<Beginning> {
    let Some(tape) = plan.tape.clone() else {
        return Ok(Beginning::NoTape);
    };
    let (mut own, layout, files) = (plan.clone(), *layout, files.clone());
    let (begun, own) = in_background(move || {
        let begun = match &tape.bundle {
            None => start_of(&layout, &files, own.seed)?,
            Some(bundle) => {
                let kept = Kept::of(bundle)?;
                kept.check_qemu(&tape.emulator)?;
                check_start(&kept.start, &files.dir)?;
                unpack(&kept, bundle, &mut own)?;
                Beginning::Replay
            }
        };
        Ok((begun, own))
    })
    .await?;
    *plan = own;
    Ok(begun)
}

/// Ends a tape: keeps the one of a cell that failed, and compares a replay with its recording.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) async fn finish(
    plan: &CellPlan,
    outcome: &mut CellOutcome,
    artifacts: &CellArtifacts,
) -> HarnessResult<()> {
    let Some(tape) = plan.tape.clone() else {
        return Ok(());
    };
    let (plan, ended, start) = (plan.clone(), outcome.clone(), artifacts.start.clone());
    outcome.replayed = in_background(move || match (&tape.bundle, start) {
        (Some(bundle), _) if plan.work_dir.join(SAID_FILE).exists() => {
            compare(&Kept::of(bundle)?, &plan, &ended).map(Some)
        }
        (None, Some(start)) if !ended.is_settled() => {
            keep(
                &plan,
                &tape.emulator,
                &ended,
                start,
                digests_of(&plan.work_dir)?,
            )?;
            Ok(None)
        }
        _ => Ok(None),
    })
    .await?;
    Ok(())
}

fn compare(kept: &Kept, plan: &CellPlan, outcome: &CellOutcome) -> HarnessResult<Replayed> {
    let compared = digests_of(&plan.work_dir)?;
    let mut differences = differences(&kept.end, &compared);
    let (was, is) = (
        format!("{} of {} blocks", kept.verdict, kept.blocks_bad),
        format!("{} of {} blocks", outcome.verdict, outcome.blocks_bad),
    );
    if was != is {
        differences.push(Difference {
            name: "verdict".into(),
            detail: format!("it was {was}, and is {is}"),
        });
    }
    Ok(Replayed {
        compared,
        differences,
    })
}

/// The digests of the disks that a cell starts with. They are not kept but made again from the seed; whether that
/// gives the same ones is tried.
fn start_of(layout: &Layout, files: &CellFiles, seed: u64) -> HarnessResult<Beginning> {
    let start = digests_of(&files.dir)?;
    let again = CellFiles {
        dir: files.dir.join("again"),
    };
    std::fs::create_dir(&again.dir).on("create", &again.dir)?;
    layout.create(&again, seed)?;
    let differing = differences(&start, &digests_of(&again.dir)?);
    std::fs::remove_dir_all(&again.dir).on("remove", &again.dir)?;
    Ok(match differing.first() {
        None => Beginning::Record(start),
        Some(first) => Beginning::Unfit(format!(
            "a replay could not begin with the same disks, which are others each time that they are made: {first}"
        )),
    })
}

/// Checks that the disks made for a replay are those of the recording.
fn check_start(start: &[FileDigest], dir: &Path) -> HarnessResult<()> {
    match differences(start, &digests_of(dir)?).first() {
        None => Ok(()),
        Some(first) => Err(HarnessError::Plan {
            detail: format!(
                "the disks that the recording began with cannot be made again: {first}; use the harness and the mkfs \
                 that recorded it"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a seed's disks can be made again, and one byte that is another is seen before a replay begins with it.
    #[test]
    fn a_replay_begins_with_the_disks_of_the_recording() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let files = CellFiles {
            dir: folder.path().to_owned(),
        };
        let layout = Layout::raw_without_cow(4);
        layout.create(&files, 7).expect("it can be made");
        let Ok(Beginning::Record(start)) = start_of(&layout, &files, 7) else {
            panic!("the same seed makes the same disks");
        };
        check_start(&start, &files.dir).expect("nothing was changed");
        let mut disk = std::fs::read(files.origin()).expect("it was made");
        disk[3 << 20] ^= 1;
        std::fs::write(files.origin(), disk).expect("it can be written");
        let error = check_start(&start, &files.dir).expect_err("a byte was changed");
        let text = error.to_string();
        assert!(
            text.contains("origin.raw: its 6291456 bytes are others"),
            "{text}"
        );
        // Another seed makes others, as tools do that write the time.
        let started = start_of(&layout, &files, 8).expect("they can be made");
        assert!(matches!(started, Beginning::Unfit(reason) if reason.contains("base.raw")));
    }

    #[test]
    fn only_virtio_disks_are_recorded() {
        let disk = |bus| Disk {
            image: "/disk".into(),
            witness: None,
            bus,
            logical_block_bytes: 512,
        };
        assert_eq!(unfit(&[disk(Bus::Virtio)]), None);
        let reason = unfit(&[disk(Bus::Virtio), disk(Bus::Nvme)]).expect("one is not virtio");
        assert!(reason.contains("Nvme"), "{reason}");
    }
}
