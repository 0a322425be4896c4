//! A filesystem with several writers that create, overwrite, append, truncate, rename and delete
//! across the snapshot instant and while the snapshot is copied, each chased by a reader of the
//! snapshot. ext4 and xfs hold their own COW file; the others cannot give a file fixed blocks.
//!
//! The mix does everything that changes files, and goes one step further: the image is restored, and the
//! filesystem on it is mounted, read, unmounted and checked.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::restored::Restored;
use cowbird_host::disk::Filesystem;
use cowbird_model::BlockSet;
use cowbird_proto::message::{Chase, FsChurnSpec, FsOpsSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, Workload, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::{GUEST_MODULES, modules};
use crate::names::{COW_MOUNT, MINOR, SNAPSHOT};
use crate::restored;
use crate::subject::{CasesOf, Subject};

/// The case of this file that comes first.
pub static CASES: CasesOf = Subject::Volume.cases(&[case(
    "ext4-churn",
    "ext4 with concurrent writers, deletes and truncates while its snapshot is copied",
    CaseTier::Quick,
    &GUEST_MODULES,
    layout_ext4,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// Cases of filesystems other than the ext4 with its own COW file.
pub static OTHER_FILESYSTEMS: CasesOf = Subject::Filesystems.cases(&[
    case(
        "ext2-churn",
        "ext2, served by the ext4 driver, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_ext2,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "ext3-churn",
        "ext3, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_ext3,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "xfs-churn",
        "xfs that holds its own COW file",
        CaseTier::Daily,
        &modules(["xfs"]),
        layout_xfs,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "fs-ops",
        "ext4 and everything that changes files; the restored filesystem is mounted, read and checked",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_ext4,
        |guest, context| Box::pin(act_fs_ops(guest, context)),
    ),
    case(
        "fs-ops-xfs",
        "the same on xfs, with files that share blocks",
        CaseTier::Daily,
        &modules(["xfs"]),
        layout_xfs,
        |guest, context| Box::pin(act_fs_ops(guest, context)),
    ),
    case(
        "f2fs-churn",
        "f2fs, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &modules(["f2fs"]),
        layout_f2fs,
        |guest, context| Box::pin(act(guest, context)),
    ),
]);

/// Size of the origin: as small as the COW file and the workload allow, because under software
/// emulation the copy costs 20 ms per MiB.
const ORIGIN_MIB: u32 = 112;

/// Size of an origin whose COW file lies elsewhere.
const ORIGIN_ALONE_MIB: u32 = 72;

/// The filesystem of such a COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 64;

const MOUNT: &str = "/mnt/origin";

/// The COW file must hold everything that is overwritten after the instant: the budget of the
/// workload, rounded up to blocks, and the filesystem's own writes.
const COW_MIB: u32 = 40;

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

/// The disks of `fs-ops` and `ext4-churn`.
fn layout_ext4() -> Layout {
    Layout::filesystem(Filesystem::Ext4, ORIGIN_MIB)
}

/// The disks of `xfs-churn` and `fs-ops-xfs`.
fn layout_xfs() -> Layout {
    Layout::filesystem(Filesystem::Xfs, ORIGIN_MIB)
}

/// The disks of `ext2-churn`.
fn layout_ext2() -> Layout {
    layout_alone(Filesystem::Ext2)
}

/// The disks of `ext3-churn`.
fn layout_ext3() -> Layout {
    layout_alone(Filesystem::Ext3)
}

/// The disks of `f2fs-churn`.
fn layout_f2fs() -> Layout {
    layout_alone(Filesystem::F2fs)
}

fn layout_alone(kind: Filesystem) -> Layout {
    Layout {
        filesystem: Some(kind),
        ..Layout::raw(ORIGIN_ALONE_MIB * MIB_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `ext2-churn`, `ext3-churn` and others.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let load = WorkloadSpec::FsChurn(churn(context.seed));
    let (evidence, _) = under_load(guest, context, load).await?;
    Ok(Evidence::from(evidence))
}

/// Everything that changes files, and the restored volume is used.
async fn act_fs_ops(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let kind = context.layout().filesystem.unwrap_or(Filesystem::Ext4);
    let load = WorkloadSpec::FsOps(FsOpsSpec {
        files: churn(context.seed),
        reflinks: kind == Filesystem::Xfs,
    });
    let (evidence, churn) = under_load(guest, context, load).await?;
    restored::restore(guest, context).await?;
    let mut restored = Restored::default();
    match restored::mount(guest, context, MOUNT, kind).await? {
        Err(fault) => restored.faults.push(fault),
        Ok(()) => {
            let read = restored::read_golden_files(guest, MOUNT, &churn.golden).await?;
            restored.faults.extend(read.err());
            guest.unmount(MOUNT).await?;
            restored.filesystem = Some(kind);
        }
    }
    Ok(Evidence::from(evidence.with(OfImage::Restored(restored))))
}

/// A snapshot of the filesystem under a load of files, copied while that goes on.
async fn under_load(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    load: WorkloadSpec,
) -> CaseResult<(ImageClaim, Workload)> {
    let layout = context.layout();
    let filesystem = layout.filesystem.unwrap_or(Filesystem::Ext4);
    let spec = SnapshotSpec {
        origin: context.origin(),
        cow_file: match layout.cow_home {
            None => "/mnt/origin/.cowbird",
            Some(_) => "/mnt/cow/snapshot.cow",
        },
        cow_mib: COW_MIB,
        cache_mib: 8,
        minor: MINOR,
    };
    guest.phase("setup");
    // Discards of deleted files are writes, too.
    guest
        .mount_as(context.origin(), MOUNT, filesystem.name(), "discard")
        .await?;
    if layout.cow_home.is_some() {
        guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    }
    guest.insert_module().await?;
    let churn = guest.start_workload(load).await?;
    guest
        .wait_until(&churn, "warmed up", WARM_UP_LIMIT, |state| {
            state.bytes_written >= WARM_UP_BYTES
        })
        .await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec).await?;
    let zeroed = match layout.cow_home {
        None => guest.own_blocks(spec).await?,
        Some(_) => BlockSet::new(),
    };
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
    guest.expect_size(SNAPSHOT, layout.origin).await?;
    guest.copy_device(SNAPSHOT, context.image()).await?;
    let end = guest.stop_workload(&churn).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if end.bytes_written <= overwritten.bytes_written || device.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten during the copy"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    if layout.cow_home.is_some() {
        guest.unmount(COW_MOUNT).await?;
    }
    guest.remove_module().await?;
    let mut image = ImageClaim::new(marker, context.origin_range())
        .zeroed(zeroed)
        .differing_reads(end.differing_reads);
    if filesystem.is_ext() {
        image = image.with_files(churn.golden.clone());
    }
    Ok((image, churn))
}

/// Starts writers of files, and waits until they have written so many bytes; they go on.
///
/// # Errors
/// When that takes longer than `limit`, or the guest ends.
pub async fn start_until_written(
    guest: &mut GuestSession<'_, '_>,
    spec: FsChurnSpec,
    bytes: u64,
    limit: Duration,
) -> CaseResult<Workload> {
    let churn = guest.start_workload(WorkloadSpec::FsChurn(spec)).await?;
    guest
        .wait_until(&churn, "written enough", limit, |state| {
            state.bytes_written >= bytes
        })
        .await?;
    Ok(churn)
}

fn churn(seed: u64) -> FsChurnSpec {
    FsChurnSpec {
        root: MOUNT.into(),
        seed,
        threads: 4,
        files_per_thread: 24,
        max_file_bytes: 256 << 10,
        golden_files: 24,
        budget_after_epoch_bytes: BUDGET_AFTER_EPOCH_BYTES,
        pause_us: 0,
    }
}
