//! A recorded workload on its way into a cell: cut to what a cell can do, moved onto a volume, and with a
//! place for the snapshot. What is decided here depends on the workload, the plan and the seed alone.

use std::fs;
use std::path::{Path, PathBuf};

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::initramfs::WORKLOAD;
use cowbird_outside::foreign;
use cowbird_proto::rng::Rng;
use cowbird_workload::{Fit, Instant, MAX_FILE_BYTES, Remapped, Timing, Workload, remap};
use serde::{Deserialize, Serialize};

/// Name of the workload in the work folder and in a bundle: cut, but at the recorded places.
pub const WORKLOAD_FILE: &str = "workload.cbw";

/// Name of what the guest gets in the work folder.
const MOVED_FILE: &str = "workload-moved.cbw";

/// Operations that are replayed at most: some minutes under emulation.
const MAX_OPERATIONS: usize = 200_000;

/// Bytes that are written at most: the witness keeps all of them.
const MAX_WRITTEN_BYTES: u64 = 1 << 30;

/// Sectors of one MiB.
const MIB_SECTORS: u64 = 2048;

/// Bounds of the volume, MiB. All of it is copied and compared in every cell.
const MIN_VOLUME_MIB: u64 = 16;
const MAX_VOLUME_MIB: u64 = 256;

/// Behind the last whole block the volume has a short one, as volumes may.
const SHORT_BLOCK_SECTORS: u64 = 5;

/// Where the snapshot is taken if nobody says where, percent of the operations that change the device.
const SNAPSHOT_PERCENT: (u64, u64) = (25, 60);

/// Part of the seed that decides it.
const SNAPSHOT_SEED_PART: u64 = 0x5A4B;

/// What a plan says about its workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadPlan {
    /// The workload file.
    pub file: PathBuf,
    /// How fast it is replayed.
    pub timing: Timing,
    /// The snapshot is taken after so many percent of the operations that change the device; none: the
    /// seed decides.
    pub snapshot_at_percent: Option<u32>,
}

/// What a case needs to know of its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Size of the volume.
    pub volume_sectors: u32,
    /// How fast it is replayed.
    pub timing: Timing,
    /// Where the snapshot is taken.
    pub instant: Instant,
    /// Operations in all.
    pub operations: u64,
}

/// A workload that is ready for its cell.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What its case needs to know of it.
    pub replay: Replay,
    /// What the reader of a verdict must know of it.
    pub notes: Vec<String>,
    cut: Workload,
    moved: Workload,
    seed: u64,
}

impl Recorded {
    /// Reads and prepares the workload of a plan.
    pub fn load(plan: &WorkloadPlan, seed: u64) -> HarnessResult<Self> {
        let file = foreign::read(&plan.file, MAX_FILE_BYTES).on("read", &plan.file)?;
        let fault = |detail: String| HarnessError::Plan {
            detail: format!("{}: {detail}", plan.file.display()),
        };
        let workload = Workload::decode(&file).map_err(|error| fault(error.to_string()))?;
        Self::prepare(workload, plan, seed).map_err(fault)
    }

    fn prepare(mut workload: Workload, plan: &WorkloadPlan, seed: u64) -> Result<Self, String> {
        let cut_off = workload.cut(MAX_OPERATIONS, MAX_WRITTEN_BYTES);
        let wanted = remap::volume_sectors(
            &workload,
            MIN_VOLUME_MIB * MIB_SECTORS,
            MAX_VOLUME_MIB * MIB_SECTORS,
        );
        let volume = wanted.next_multiple_of(MIB_SECTORS) + SHORT_BLOCK_SECTORS;
        let moved = remap(&workload, volume);
        let percent = plan.snapshot_at_percent.unwrap_or_else(|| {
            let (low, high) = SNAPSHOT_PERCENT;
            Rng::for_part(seed, SNAPSHOT_SEED_PART).between(low, high) as u32
        });
        let instant = Instant::after_percent(&moved.workload, percent);
        let instant = instant.map_err(|error| error.to_string())?;
        let volume_sectors = u32::try_from(volume).map_err(|error| error.to_string())?;
        Ok(Self {
            notes: notes(&moved, cut_off, volume, percent, plan.timing),
            replay: Replay {
                volume_sectors,
                timing: plan.timing,
                instant,
                operations: moved.workload.operations().len() as u64,
            },
            cut: workload,
            moved: moved.workload,
            seed,
        })
    }

    /// Puts the workload where the bundle of a cell has it, and what the guest gets beside it; gives the
    /// latter as (path in the guest, path on the host).
    pub fn write(&self, dir: &Path) -> HarnessResult<(String, PathBuf)> {
        for (name, workload) in [(WORKLOAD_FILE, &self.cut), (MOVED_FILE, &self.moved)] {
            let path = dir.join(name);
            fs::write(&path, workload.encode()).on("write", &path)?;
        }
        Ok((WORKLOAD.to_owned(), dir.join(MOVED_FILE)))
    }
}

impl Recorded {
    /// What the guest replayed on its volume, and the seed of what it wrote.
    pub(crate) fn replayed(&self) -> (&Workload, u64) {
        (&self.moved, self.seed)
    }
}

/// What the reader of a verdict must know about the workload.
fn notes(
    moved: &Remapped,
    cut_off: usize,
    volume_sectors: u64,
    percent: u32,
    timing: Timing,
) -> Vec<String> {
    let workload = &moved.workload;
    let places = match moved.fit {
        Fit::Kept => "at the recorded places",
        Fit::Compacted => "without the gaps between used blocks",
        Fit::Written => "without the gaps between written blocks",
        Fit::Folded => "folded: different places share blocks",
    };
    let mut notes = vec![format!(
        "{}: {} operations, {} MiB written, on {} MiB, {places}; timing {timing}, snapshot after \
         {percent} % of the changes",
        workload.source(),
        workload.operations().len(),
        workload.written_bytes() >> 20,
        volume_sectors / MIB_SECTORS,
    )];
    if cut_off > 0 {
        notes.push(format!(
            "the last {cut_off} operations are not replayed: a cell does {MAX_OPERATIONS} operations \
             that write {} MiB at most",
            MAX_WRITTEN_BYTES >> 20
        ));
    }
    if moved.left_out > 0 {
        let count = moved.left_out;
        notes.push(format!(
            "{count} operations are left out: they touch no block that is written"
        ));
    }
    for doubt in workload.doubts() {
        notes.push(format!("the recording may lack operations: {doubt}"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_workload::{Action, Builder, Extent, Flags};

    fn plan(percent: Option<u32>) -> WorkloadPlan {
        WorkloadPlan {
            file: PathBuf::from("x.cbw"),
            timing: Timing::Fast,
            snapshot_at_percent: percent,
        }
    }

    /// Writes of 4 KiB to blocks that are so far apart.
    fn writes(count: u64, apart_bytes: u64) -> Workload {
        let mut builder = Builder::default();
        for at in 0..count {
            let extent = Extent::of_bytes(at * apart_bytes, 4096);
            builder.push(at, Action::Write, Flags::default(), extent);
        }
        builder.finish("a test", vec!["a doubt".to_owned()])
    }

    /// Goal: the same cell does the same again, from the file in its bundle.
    #[test]
    fn a_bundle_gives_the_same_cell() {
        let workload = writes(70_000, 1 << 30);
        let first = Recorded::prepare(workload, &plan(None), 7).unwrap();
        let again = Recorded::prepare(first.cut.clone(), &plan(None), 7).unwrap();
        assert_eq!(first.replay, again.replay);
        assert_eq!(first.moved, again.moved);
        let other = Recorded::prepare(first.cut.clone(), &plan(None), 8).unwrap();
        assert_ne!(first.replay.instant, other.replay.instant);
        let given = Recorded::prepare(first.cut, &plan(Some(50)), 8).unwrap();
        assert_eq!(given.replay.instant.from, first.replay.operations / 2);
    }

    #[test]
    fn volumes_are_bounded_and_the_notes_say_what_was_lost() {
        let small = Recorded::prepare(writes(10, 4096), &plan(None), 1).unwrap();
        let mib = |recorded: &Recorded| u64::from(recorded.replay.volume_sectors) / MIB_SECTORS;
        assert_eq!(mib(&small), MIN_VOLUME_MIB);
        assert!(small.notes[0].contains("at the recorded places"));
        assert!(small.notes[1].contains("may lack operations: a doubt"));

        let wide = Recorded::prepare(writes(20_000, 8192), &plan(None), 1).unwrap();
        assert_eq!(mib(&wide), 79);
        assert!(wide.notes[0].contains("between used blocks"));

        let large = Recorded::prepare(writes(300_000, 4096), &plan(None), 1).unwrap();
        assert_eq!(mib(&large), MAX_VOLUME_MIB);
        assert!(large.notes[0].contains("folded"), "{:?}", large.notes);
        assert!(large.notes[1].contains("100000 operations are not replayed"));

        let error = Recorded::prepare(writes(1, 4096), &plan(None), 1).unwrap_err();
        assert!(error.contains("record for longer"), "{error}");
    }
}
