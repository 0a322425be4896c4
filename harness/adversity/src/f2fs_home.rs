//! An f2fs that holds its own COW file, while its garbage collection moves whatever it may move.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::fs_churn;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{MINOR, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{FsChurnSpec, Request};
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::Layout;

/// The case of this file.
pub static CASES: CasesOf = Subject::Filesystems.cases(&[case(
    "f2fs-home",
    "an f2fs that holds its own COW file, and whose garbage collection is in a hurry",
    CaseTier::Daily,
    &modules(["f2fs"]),
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

const ORIGIN_MIB: u32 = 192;
const COW_MIB: u32 = 44;

const MOUNT: &str = "/mnt/origin";

/// Where f2fs is told to collect garbage without a pause, and where it says how much it has collected.
const URGENT: &str = "/sys/fs/f2fs/vda1/gc_urgent";
const COLLECTED: &str = "/sys/fs/f2fs/vda1/moved_blocks_background";

/// Time that the collection has.
const COLLECTION: Duration = Duration::from_secs(10);

/// Data of one workload before the instant and after it, and time for it.
const BEFORE_BYTES: u64 = 24 << 20;
const AFTER_BYTES: u64 = 6 << 20;
const LIMIT: Duration = Duration::from_secs(90);

fn layout() -> Layout {
    Layout::filesystem(Filesystem::F2fs, ORIGIN_MIB)
}

async fn churn(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    name: &str,
    bytes: u64,
) -> CaseResult<()> {
    let files = FsChurnSpec {
        root: format!("{MOUNT}/{name}"),
        seed: context.seed,
        threads: 2,
        files_per_thread: 24,
        max_file_bytes: 256 << 10,
        golden_files: 0,
        budget_after_epoch_bytes: bytes,
        pause_us: 0,
    };
    let churn = fs_churn::start_until_written(guest, files, bytes, LIMIT).await?;
    guest.stop_workload(&churn).await.map(|_| ())
}

async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let spec = SnapshotSpec {
        origin: context.origin(),
        cow_file: "/mnt/origin/.cowbird",
        cow_mib: COW_MIB,
        cache_mib: 8,
        minor: MINOR,
    };
    guest.phase("setup");
    guest
        .mount_as(context.origin(), MOUNT, Filesystem::F2fs.name(), "discard")
        .await?;
    guest.insert_module().await?;
    // Leaves segments of which only a part is in use, into which the next files go.
    churn(guest, context, "before", BEFORE_BYTES).await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec).await?;
    let zeroed = guest.own_blocks(spec).await?;

    guest.phase("collect");
    churn(guest, context, "after", AFTER_BYTES).await?;
    guest
        .prepare(Request::WriteText {
            path: URGENT.to_owned(),
            text: "1".to_owned(),
        })
        .await?;
    guest.vm().pause(COLLECTION).await?;
    churn(guest, context, "again", AFTER_BYTES).await?;
    let path = COLLECTED.to_owned();
    if let Ok(reply) = guest.try_request(Request::ReadText { path }).await? {
        guest.note(format!("blocks that f2fs has moved: {reply:?}"));
    }
    let device = guest.active_snapshot(MINOR).await?;
    if device.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten under the snapshot"));
    }
    if guest.own_blocks(spec).await? != zeroed {
        let fault = "f2fs has moved the COW file".to_owned();
        return Err(CaseError::Failed(fault));
    }

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(ImageClaim {
        zeroed,
        ..ImageClaim::new(marker, context.origin_range())
    }))
}
