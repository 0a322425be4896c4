//! Disks that do not answer, or hardly, and tasks that sleep below the hook. Nothing fails here: who waits must not
//! wait for long, and what is not concerned must not wait at all.

pub mod asleep;
pub mod cow_stops;
mod groups;
pub mod huge_write;
pub mod neighbours;
pub mod slow_cow;
pub mod slow_group;

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::image::ImageClaim;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{TimedMode, TimedSpec};
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Workload, longest, vacuous,
};
use cowbird_vm::layout::Layout;

/// 32 MiB and five sectors.
const ORIGIN_SECTORS: u32 = 32 * 2048 + 5;

/// Whole blocks of it.
const ORIGIN_BLOCKS: u64 = 32 * 256;

/// The filesystems of the COW files.
const COW_HOME_MIB: u32 = 72;

/// A write is held for so long at most: what the module is told, s.
const HOLD_LIMIT_S: u64 = 5;

/// No write of the origin takes longer: the limit, and what its end takes.
const LONGEST_WRITE: Duration = Duration::from_secs(HOLD_LIMIT_S + 3);

/// Everything else that an operator does ends in so much time, whatever the disks do.
const OPERATOR_LIMIT: Duration = Duration::from_secs(25);

/// When a disk answers again, or the last sleeper has gone, what waited ends in so much time.
const AFTERWARDS: Duration = Duration::from_secs(30);

/// Longer than everything that these cases bound by themselves: then the kernel reports a blocked task.
const BLOCKED_LIMIT: Duration = Duration::from_secs(60);

/// The COW file on the first disk: every block may be overwritten.
const SPEC: SnapshotSpec = SnapshotSpec {
    cache_mib: 4,
    ..snapshot_of(ORIGIN, 40)
};

/// Blocks that are overwritten under the snapshot that is judged at the end.
const LAST_BLOCKS: u64 = 512;

/// Time for a stretch of them.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `unload-asleep`, `unload-asleep-frozen` and others.
pub fn layout() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// What was found wrong; everything is tried before the case fails.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        self.0.push(fault);
    }

    fn unless(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.add(fault());
        }
    }

    fn finish(self) -> CaseResult<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(CaseError::Failed(self.0.join("; "))),
        }
    }
}

/// Direct writers and readers of the origin.
fn timed(context: &CaseContext, readers: u32, writers: u32) -> TimedSpec {
    TimedSpec {
        devices: vec![ORIGIN.to_owned()],
        seed: context.seed,
        readers,
        writers,
        first_block: 0,
        blocks: ORIGIN_BLOCKS,
        mode: TimedMode::Direct,
        group: None,
        once: false,
        pause_us: 0,
    }
}

/// Waits until a workload has done so many operations.
async fn done(
    guest: &mut GuestSession<'_, '_>,
    workload: &Workload,
    operations: u64,
) -> CaseResult<()> {
    guest
        .wait_until(workload, "enough operations", WRITE_LIMIT, |state| {
            state.operations >= operations
        })
        .await
        .map(|_| ())
}

/// A workload ends when nothing keeps its threads; how long its longest access took.
async fn stop(guest: &mut GuestSession<'_, '_>, workload: &Workload) -> CaseResult<Duration> {
    let state = guest.stop_workload(workload).await?;
    Ok(longest(&state))
}

/// A snapshot of the origin, which is overwritten under it, copied and given up: it must be as if nothing had
/// happened. `written`: whether the journal has all that was written to the origin so far.
async fn take_judged_image(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    expected_log: ExpectedLog,
    written: bool,
) -> CaseResult<Evidence> {
    guest.phase("copy");
    let marker = guest.setup_snapshot(SPEC).await?;
    let writers = guest.start_timed(timed(context, 0, 4)).await?;
    done(guest, &writers, LAST_BLOCKS).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten under the snapshot"));
    }
    stop(guest, &writers).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence(context, marker, expected_log, written))
}

/// The image must be right, and the origin what the writers wrote, if the journal has it.
fn evidence(
    context: &CaseContext,
    marker: MarkerKey,
    expected_log: ExpectedLog,
    written: bool,
) -> Evidence {
    Evidence::from(ImageClaim::new(marker, context.origin_range()))
        .and_all(written.then_some(Claim::OriginHoldsJournal))
        .expecting(expected_log)
}

/// As [`evidence`], of an image whose instant [`INSTANT`] marks.
fn evidence_of_instant(
    context: &CaseContext,
    marker: MarkerKey,
    expected_log: ExpectedLog,
    written: bool,
) -> Evidence {
    Evidence::from(
        ImageClaim::new(marker, context.origin_range()).marked_by(u64::from(INSTANT_MIB) * 2048),
    )
    .and_all(written.then_some(Claim::OriginHoldsJournal))
    .expecting(expected_log)
}

/// A snapshot of the third partition, with its COW file on the first disk. As long as nobody writes to the origin, it
/// marks an instant of the origin too, whose own COW file is on a disk that the first one's witness does not see.
const INSTANT: SnapshotSpec = SnapshotSpec {
    origin: "/dev/vda3",
    cow_file: "/mnt/cow/instant.cow",
    cow_mib: 6,
    cache_mib: 1,
    minor: MINOR + 1,
};

/// Its filesystem, which is not mounted, MiB.
const INSTANT_MIB: u32 = 8;

/// The COW file on a disk of its own: the third of the machine, and what it is called in the guest.
const COW_DISK: usize = 2;
const COW_DISK_HOME: &str = "/dev/vdc2";
const COW_DISK_MOUNT: &str = "/mnt/cow2";
const COW_DISK_FILE: &str = "/mnt/cow2/snapshot.cow";

/// Mounts the filesystems of both COW files, and loads the module.
async fn prepare_two(guest: &mut GuestSession<'_, '_>, params: &str) -> CaseResult<()> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.mount(COW_DISK_HOME, COW_DISK_MOUNT, "").await?;
    guest.insert_module_with(params).await
}
