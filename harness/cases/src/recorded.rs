//! A recorded workload, replayed on the raw volume across the snapshot instant and while the snapshot is
//! copied. Readers of the snapshot chase some of its writes. When all of it was replayed, the origin itself
//! must end with what the operations wrote, in their order.
//!
//! Verdicts are those of every case: by the witness of this run. The recording is only what is done, so that
//! one that is not complete judges nothing wrongly; the notes of the cell say that it is not.

use std::time::{Duration, Instant};

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::image::ImageClaim;
use cowbird_checks::recorded::Replay;
use cowbird_host::error::HarnessError;
use cowbird_host::initramfs::WORKLOAD;
use cowbird_proto::message::{Chase, RecordedSpec, WorkloadSpec, WorkloadState};
use cowbird_session::guest::{CaseResult, GuestSession, Workload, vacuous};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseInfo, CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};

/// The case of this file. Without a workload there is nothing to do, so it belongs to no tier.
pub static CASE: CaseInfo = case(
    "recorded",
    "a recorded workload, replayed across the snapshot instant and while the snapshot is copied",
    CaseTier::Full,
    &GUEST_MODULES,
    || Layout::raw_without_cow(0),
    |guest, context| Box::pin(act(guest, context)),
);

/// Sectors of one MiB.
const MIB_SECTORS: u32 = 2048;

/// Besides the blocks of the volume the COW file needs room for the tracking state, MiB.
const COW_EXTRA_MIB: u32 = 8;

/// Besides the COW file its filesystem needs room for journal and inode tables, MiB; and this share.
const HOME_EXTRA_MIB: u32 = 40;
const HOME_EXTRA_SHARE: u32 = 16;

/// A replay in which nothing is done for so long hangs; recorded pauses are shorter.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// After the copy the replay may go on for so long, and is then stopped.
const REST_LIMIT: Duration = Duration::from_secs(60);

/// Size of a COW file that holds every block of a volume.
pub fn cow_mib(volume_sectors: u32) -> u32 {
    volume_sectors.div_ceil(MIB_SECTORS) + COW_EXTRA_MIB
}

/// The disks for a recorded workload.
pub fn layout(replay: &Replay) -> Layout {
    layout_of(replay.volume_sectors)
}

/// A raw volume, and room for a COW file that holds every block of it.
pub fn layout_of(volume_sectors: u32) -> Layout {
    let cow_mib = cow_mib(volume_sectors);
    let home_mib = cow_mib + HOME_EXTRA_MIB + cow_mib / HOME_EXTRA_SHARE;
    Layout::raw(volume_sectors, home_mib)
}

/// Plays `recorded`.
pub async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let Some(replay) = context.replay else {
        let detail = "this case needs a workload; give one with --workload FILE".to_owned();
        return Err(HarnessError::Plan { detail }.into());
    };
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let workload = guest.start_workload(spec(context.seed, &replay)).await?;
    let reached = |state: &WorkloadState| state.operations >= replay.instant.from;
    progress(guest, &workload, None, reached).await?;

    guest.phase("snapshot");
    let marker = guest
        .setup_snapshot(snapshot_of(ORIGIN, cow_mib(replay.volume_sectors)))
        .await?;
    let before = guest.workload(&workload).await?;
    let chase = Chase {
        snapshot: SNAPSHOT.into(),
        shift_bytes: 0,
    };
    guest.epoch_passed(&workload, Some(chase)).await?;

    guest.phase("copy");
    guest.expect_size(SNAPSHOT, context.layout.origin).await?;
    guest.copy_device(SNAPSHOT, IMAGE).await?;
    guest.phase("rest");
    let until = Instant::now() + REST_LIMIT * guest.limits.slowdown;
    progress(guest, &workload, Some(until), |state| state.finished).await?;
    let end = guest.stop_workload(&workload).await?;
    let state = guest.active_snapshot(MINOR).await?;
    if end.operations <= before.operations || state.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten after the snapshot"));
    }
    guest.note(format!(
        "replayed {} of {} operations, {} of them after the snapshot, which preserved {} blocks",
        end.operations,
        replay.operations,
        end.operations - before.operations,
        state.preserved_blocks
    ));

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).differing_reads(end.differing_reads),
    )
    .and_all(end.finished.then_some(Claim::OriginHoldsReplay)))
}

fn spec(seed: u64, replay: &Replay) -> WorkloadSpec {
    WorkloadSpec::Recorded(RecordedSpec {
        device: ORIGIN.into(),
        file: WORKLOAD.into(),
        seed,
        timing: replay.timing,
        instant: replay.instant,
    })
}

/// Waits until the workload has done enough, for as long as it does anything, or until a time. How long a
/// recording is nobody knows beforehand; that it stands still is what a hang looks like.
async fn progress(
    guest: &mut GuestSession<'_, '_>,
    workload: &Workload,
    until: Option<Instant>,
    enough: impl Fn(&WorkloadState) -> bool,
) -> CaseResult<()> {
    let over = || until.is_some_and(|until| Instant::now() >= until);
    let mut done = guest.workload(workload).await?;
    while !enough(&done) && !over() {
        let before = done.operations;
        done = guest
            .wait_until(workload, "went on", STALL_LIMIT, |state| {
                state.operations > before || enough(state)
            })
            .await?;
    }
    Ok(())
}
