//! ext4 that holds its own COW file, with several writers that create, overwrite, append,
//! truncate, rename and delete across the snapshot instant and while the snapshot is copied, each
//! chased by a reader of the snapshot.

use std::time::Duration;

use cowbird_proto::message::{Chase, FsChurnSpec, WorkloadSpec};

use super::{IMAGE, Layout, MINOR, ORIGIN, SNAPSHOT, Setting, vacuous};
use crate::driver::{CaseResult, Driver, SnapshotSpec};
use crate::verify::{Evidence, SnapshotEvidence};

/// Size of the origin: as small as the COW file and the workload allow, because under software
/// emulation the copy costs 20 ms per MiB.
const ORIGIN_MIB: u32 = 112;

const MOUNT: &str = "/mnt/origin";

/// The COW file must hold everything that is overwritten after the instant: the budget of the
/// workload, rounded up to blocks, and the filesystem's own writes.
const SPEC: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: "/mnt/origin/.cowbird",
    cow_mib: 40,
    cache_mib: 8,
    minor: MINOR,
};

/// Data written after the instant.
const BUDGET_AFTER_EPOCH_BYTES: u64 = 18 << 20;

/// Data written before the instant, so that it has something to overwrite.
const WARM_UP_BYTES: u64 = 9 << 20;

/// Data written between the instant and the copy, so that the copy meets many blocks that have
/// changed already, beside those that change under it.
const OVERWRITTEN_BYTES: u64 = 9 << 20;

/// Time for it.
const OVERWRITE_LIMIT: Duration = Duration::from_secs(60);

/// Time for the warm-up.
const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn layout() -> Layout {
    Layout::ext4(ORIGIN_MIB)
}

pub(super) async fn act(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    guest.phase("setup");
    // Discards of deleted files are writes, too.
    guest.mount(ORIGIN, MOUNT, "discard").await?;
    guest.insert_module().await?;
    let churn = guest.start_workload(churn(setting.seed)).await?;
    guest
        .wait_until(&churn, "warmed up", WARM_UP_LIMIT, |state| {
            state.bytes_written >= WARM_UP_BYTES
        })
        .await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(SPEC).await?;
    let zeroed = guest.own_blocks(SPEC).await?;
    let chase = Chase {
        snapshot: SNAPSHOT.into(),
        shift_bytes: 0,
    };
    guest.epoch_passed(&churn, Some(chase)).await?;

    guest.phase("overwrite");
    let before = guest.workload(&churn).await?;
    let overwritten = guest
        .wait_until(&churn, "overwritten enough", OVERWRITE_LIMIT, |state| {
            state.bytes_written >= before.bytes_written + OVERWRITTEN_BYTES
        })
        .await?;

    guest.phase("copy");
    guest.expect_size(SNAPSHOT, setting.layout.origin).await?;
    guest.copy_device(SNAPSHOT, IMAGE).await?;
    let end = guest.stop_workload(&churn).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if end.bytes_written <= overwritten.bytes_written || device.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten during the copy"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::Snapshot(SnapshotEvidence {
        marker,
        origin: setting.origin_range(),
        zeroed,
        filesystem: true,
        golden: churn.golden,
        differing_reads: end.differing_reads,
    }))
}

fn churn(seed: u64) -> WorkloadSpec {
    WorkloadSpec::FsChurn(FsChurnSpec {
        root: MOUNT.into(),
        seed,
        threads: 4,
        files_per_thread: 24,
        max_file_bytes: 256 << 10,
        golden_files: 24,
        budget_after_epoch_bytes: BUDGET_AFTER_EPOCH_BYTES,
    })
}
