//! A series of snapshots of a busy ext4: the image is copied whole once and then brought up to
//! date by the change maps alone. What the last epoch showed must be in it, all blocks: a change
//! that a map missed in any epoch stays in the image as stale data.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{FsChurnSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{IMAGE, MINOR, ORIGIN, SNAPSHOT};
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Volume.cases(&[case(
    "incremental",
    "an image kept up to date through three epochs by changed blocks alone",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

const ORIGIN_MIB: u32 = 112;

const MOUNT: &str = "/mnt/origin";

/// The workload is not limited before the last epoch: while the image is copied it may overwrite
/// everything that it has.
const SPEC: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: "/mnt/origin/.cowbird",
    cow_mib: 48,
    cache_mib: 8,
    minor: MINOR,
};

/// Epochs after the first.
const UPDATES: u32 = 2;

/// Data written before the first epoch, and at least in each epoch while only changes are tracked.
const BYTES_BETWEEN: u64 = 3 << 20;

const BUDGET_AFTER_EPOCH_BYTES: u64 = 8 << 20;

/// Time for [`BYTES_BETWEEN`].
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `incremental`.
fn layout() -> Layout {
    Layout::filesystem(Filesystem::Ext4, ORIGIN_MIB)
}

/// Plays `incremental`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "discard").await?;
    guest.insert_module().await?;
    let churn = guest.start_workload(churn(context.seed)).await?;
    let mut written = 0;
    let mut more = async |guest: &mut GuestSession<'_, '_>| {
        guest
            .wait_for_more(&churn, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
            .await
    };
    more(guest).await?;

    guest.phase("copy");
    let mut marker = guest.setup_snapshot(SPEC).await?;
    let zeroed = guest.own_blocks(SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.phase("update");
    let mut maps = Vec::new();
    for update in 1..=UPDATES {
        guest.transition_to_incremental(MINOR).await?;
        more(guest).await?;
        marker = guest.transition_to_snapshot(MINOR).await?;
        if update == UPDATES {
            guest.epoch_passed(&churn, None).await?;
        }
        maps.push(guest.changes(MINOR).await?);
        guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    }
    guest.stop_workload(&churn).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if device.seq_id != u64::from(UPDATES) + 1 || device.preserved_blocks == 0 {
        return Err(vacuous("the series did not get as far as it should"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with_maps(maps)
            .with_files(churn.golden),
    ))
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
        pause_us: 0,
    })
}
