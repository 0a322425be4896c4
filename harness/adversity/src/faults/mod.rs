//! Faults on purpose. In each case something around the module breaks while writers write: they must not
//! notice it, the snapshot must be right or fail visibly, and what `docs/reliability.md` tells the operator to
//! do then is done, and must help.

pub mod admin_interference;
pub mod changing;
pub mod damaged;
pub mod io_errors;
pub mod losses;

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::fs_churn;
use cowbird_cases::names::{IMAGE, MINOR, SNAPSHOT, snapshot_of};
use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::judgement::ExpectedLog;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{FsChurnSpec, RawWritersSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, FAILED, GuestSession, SnapshotSpec, Workload};
use cowbird_vm::layout::Layout;

/// 16 MiB and five sectors: the last block is short.
const ORIGIN_SECTORS: u32 = 16 * 2048 + 5;

/// The filesystem of the COW file.
const COW_HOME_MIB: u32 = 56;

/// Every block of the origin may be overwritten, and the tracking state needs some room.
const COW_MIB: u32 = 24;

const COW_FILE: &str = "/mnt/cow/snapshot.cow";

/// Where a filesystem on the origin is mounted, and its own COW file.
const MOUNT: &str = "/mnt/origin";
const FS_COW_FILE: &str = "/mnt/origin/.cowbird";

/// Of files.
const CHURN_BYTES: u64 = 3 << 20;

/// Written before an instant, and after each fault.
const BURST_BYTES: u64 = 3 << 20;

/// Time for it.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// What the module says of a series whose COW file cannot be written: when marks are lost, and at its end.
const MARKS_LOST: &str = "this could not be recorded in the COW file";
const STATE_LOST: &str = "cannot write the tracking state to the COW file";

/// What it may say in the kernel log where a snapshot has to fail.
const FAILURES: ExpectedLog = &[FAILED, MARKS_LOST, STATE_LOST];

/// The disks of `origin-read-errors`, `tool-killed` and others.
pub fn layout() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

const fn spec(origin: &'static str) -> SnapshotSpec {
    SnapshotSpec {
        cache_mib: 4,
        ..snapshot_of(origin, COW_MIB)
    }
}

/// Writers whose journal says what the origin must end with, and how much they have written.
struct Writers {
    workload: Workload,
    written: u64,
}

impl Writers {
    /// Starts them, and lets them write.
    async fn start(guest: &mut GuestSession<'_, '_>, device: &str, seed: u64) -> CaseResult<Self> {
        let spec = RawWritersSpec {
            device: device.into(),
            seed,
            pairs: 2,
            discard_every: 0,
            rest_at_bytes: 0,
        };
        let workload = guest.start_workload(WorkloadSpec::RawWriters(spec)).await?;
        let mut writers = Self {
            workload,
            written: 0,
        };
        writers.burst(guest).await?;
        Ok(writers)
    }

    /// They write on; an error or a stall is a fault of the module.
    async fn burst(&mut self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        guest
            .wait_for_more(&self.workload, &mut self.written, BURST_BYTES, WRITE_LIMIT)
            .await
    }

    async fn stop(self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        guest.stop_workload(&self.workload).await.map(|_| ())
    }
}

/// A snapshot of a new series, copied whole.
async fn start_again(
    guest: &mut GuestSession<'_, '_>,
    spec: SnapshotSpec,
    image: &str,
) -> CaseResult<MarkerKey> {
    guest.phase("full copy");
    let marker = guest.setup_snapshot(spec).await?;
    guest.copy_image(SNAPSHOT, image).await?;
    guest.active_snapshot(MINOR).await?;
    Ok(marker)
}

/// The next epoch, by changed blocks alone.
async fn update(guest: &mut GuestSession<'_, '_>) -> CaseResult<MarkerKey> {
    guest.phase("update");
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    guest.active_snapshot(MINOR).await?;
    Ok(marker)
}

/// The image must be right, and the origin what the writers wrote.
fn evidence(context: &CaseContext, marker: MarkerKey, expected_log: ExpectedLog) -> Evidence {
    Evidence::from(ImageClaim::new(marker, context.origin_range()))
        .and(Claim::OriginHoldsJournal)
        .expecting(expected_log)
}

/// Files in a folder of their own.
async fn churn(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    name: &str,
) -> CaseResult<()> {
    let files = FsChurnSpec {
        root: format!("{MOUNT}/{name}"),
        seed: context.seed,
        threads: 2,
        files_per_thread: 8,
        max_file_bytes: 256 << 10,
        golden_files: 2,
        budget_after_epoch_bytes: u64::MAX,
        pause_us: 0,
    };
    let churn = fs_churn::start_until_written(guest, files, CHURN_BYTES, WRITE_LIMIT).await?;
    guest.stop_workload(&churn).await.map(|_| ())
}

/// Ends the series of a filesystem with its own COW file, after its last epoch.
async fn finish_filesystem(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
    marker: MarkerKey,
) -> CaseResult<Evidence> {
    let map = guest.changes(MINOR).await?;
    let zeroed = guest.own_blocks(spec).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with_maps([map])
            .with(OfImage::SoundExt4),
    ))
}
