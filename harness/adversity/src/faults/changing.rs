//! What the snapshot is taken of changes: its filesystem becomes read-only or grows, the device grows, or goes.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::{GUEST_MODULES, modules};
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, FAULTY, GuestSession, SnapshotSpec};
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use super::{
    COW_FILE, COW_MIB, FAILURES, FS_COW_FILE, MOUNT, Writers, churn, evidence, finish_filesystem,
    spec, start_again, update,
};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Faults.cases(&[
    case(
        "read-only",
        "a filesystem that is made read-only and writable again",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_filesystem,
        |guest, context| Box::pin(read_only(guest, context)),
    )
    .making(&[Fault::ReadOnly]),
    case(
        "filesystem-grows",
        "a filesystem that becomes larger under its snapshot, and while changes are tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_filesystem,
        |guest, context| Box::pin(filesystem_grows(guest, context)),
    )
    .making(&[Fault::LargerFilesystem]),
    case(
        "origin-grows",
        "a device that becomes larger under its snapshot",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        super::layout,
        |guest, context| Box::pin(origin_grows(guest, context)),
    )
    .making(&[Fault::OtherSize]),
    case(
        "origin-shrinks-briefly",
        "a device that becomes smaller, and at once as large as before",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        super::layout,
        |guest, context| Box::pin(origin_shrinks_briefly(guest, context)),
    )
    .making(&[Fault::OtherSize]),
    case(
        "hibernation",
        "a machine that hibernates to its origin, and comes back",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_swap,
        |guest, context| Box::pin(hibernation(guest, context)),
    )
    .making(&[Fault::Hibernation]),
    case(
        "disk-removed",
        "a disk that is pulled under writers, and comes back",
        CaseTier::Daily,
        &modules(["virtio_scsi", "sd_mod"]),
        layout_scsi,
        |guest, context| Box::pin(removed(guest, context)),
    )
    .making(&[Fault::PulledDisk]),
]);

/// A filesystem with its own COW file: what its partition has, and sizes that it has one after the other.
const PARTITION_MIB: u32 = 112;
const SIZES_MIB: [u32; 3] = [72, 88, PARTITION_MIB];

const FS_SPEC: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: FS_COW_FILE,
    cow_mib: COW_MIB,
    cache_mib: 4,
    minor: MINOR,
};

/// Blocks of 4096 bytes in one MiB.
const MIB_BLOCKS: u64 = 256;

/// How much of the origin its device shows at first, sectors.
const SHOWN_SECTORS: u64 = 12 * MIB_SECTORS as u64;

/// An origin that is swapped to, and its COW file, which would hold an image of the guest's memory.
const SWAP_MIB: u32 = 160;
const SWAP_COW_HOME_MIB: u32 = 112;

const SWAP_SPEC: SnapshotSpec = SnapshotSpec {
    cache_mib: 4,
    ..snapshot_of(ORIGIN, 80)
};

/// The first disk, and its number in the machine.
const DISK: &str = "sda";
const DISK_INDEX: usize = 0;

/// The disks of `read-only` and `filesystem-grows`.
fn layout_filesystem() -> Layout {
    Layout {
        filesystem_mib: Some(SIZES_MIB[0]),
        ..Layout::filesystem(Filesystem::Ext4, PARTITION_MIB)
    }
}

/// Room for an image of the guest's memory.
fn layout_swap() -> Layout {
    Layout::raw(SWAP_MIB * MIB_SECTORS, SWAP_COW_HOME_MIB)
}

/// The disks of `disk-removed`.
fn layout_scsi() -> Layout {
    Layout {
        bus: Bus::Scsi,
        ..super::layout()
    }
}

/// A filesystem becomes larger under its snapshot, and again while changes are tracked.
async fn filesystem_grows(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    begin(guest, context).await?;
    grow(guest, SIZES_MIB[1]).await?;
    churn(guest, context, "larger").await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    grow(guest, SIZES_MIB[2]).await?;
    churn(guest, context, "largest").await?;
    let marker = update(guest).await?;
    finish_filesystem(guest, context, FS_SPEC, marker).await
}

async fn grow(guest: &mut GuestSession<'_, '_>, mib: u32) -> CaseResult<()> {
    let (path, blocks) = (MOUNT.to_owned(), u64::from(mib) * MIB_BLOCKS);
    guest
        .prepare(Request::GrowExt4 { path, blocks })
        .await
        .map(|_| ())
}

/// A filesystem is made read-only under its snapshot and while changes are tracked, and writable again.
async fn read_only(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    begin(guest, context).await?;
    churn(guest, context, "before").await?;
    guest.remount(MOUNT, true).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    guest.remount(MOUNT, false).await?;
    churn(guest, context, "between").await?;
    guest.remount(MOUNT, true).await?;
    // The next epoch of a filesystem to which nobody writes.
    update(guest).await?;
    guest.transition_to_incremental(MINOR).await?;
    guest.remount(MOUNT, false).await?;
    churn(guest, context, "after").await?;
    let marker = update(guest).await?;
    finish_filesystem(guest, context, FS_SPEC, marker).await
}

async fn begin(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<()> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    churn(guest, context, "first").await?;
    guest.phase("snapshot");
    guest.setup_snapshot(FS_SPEC).await.map(|_| ())
}

/// The origin becomes larger: nobody preserves or tracks what is behind its old end, so the series ends.
async fn origin_grows(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.stack_faulty(ORIGIN).await?;
    guest
        .inject_faults_sized(ORIGIN, Some(SHOWN_SECTORS), &[])
        .await?;
    let mut writers = Writers::start(guest, FAULTY, context.seed).await?;
    guest.setup_snapshot(spec(FAULTY)).await?;

    guest.phase("grow");
    guest.inject_faults(ORIGIN, &[]).await?;
    guest.wait_until_failed(MINOR, "changed its size").await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    writers.burst(guest).await?;
    guest
        .expect_transition_refusal(&[MINOR], "does not track changes")
        .await?;
    guest.destroy_snapshot(MINOR).await?;
    let marker = start_again(guest, spec(FAULTY), IMAGE).await?;
    guest.expect_size(SNAPSHOT, context.layout.origin).await?;
    writers.stop(guest).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    raw_writers::tear_down(guest).await?;
    Ok(evidence(context, marker, FAILURES))
}

/// Goal: an origin that is made smaller and as large as before within a second ends the series: what is at its end may be
/// something else. Method: a table of another size is loaded, and the old one at once.
async fn origin_shrinks_briefly(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    if guest.kernel_is_before((5, 11)) {
        let reason = "sizes of disks are looked at once a second on this kernel";
        return Err(CaseError::Unsupported(reason.to_owned()));
    }
    raw_writers::prepare(guest, context).await?;
    guest.stack_faulty(ORIGIN).await?;
    guest.setup_snapshot(spec(FAULTY)).await?;

    guest.phase("shrink");
    guest
        .inject_faults_sized(ORIGIN, Some(SHOWN_SECTORS), &[])
        .await?;
    guest.inject_faults(ORIGIN, &[]).await?;
    guest.wait_until_failed(MINOR, "changed its size").await?;
    guest.destroy_snapshot(MINOR).await?;
    let marker = start_again(guest, spec(FAULTY), IMAGE).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    raw_writers::tear_down(guest).await?;
    Ok(evidence(context, marker, FAILURES))
}

/// The machine hibernates to the origin. What it writes then is not known to the kernel that comes back, so the
/// series ends before.
async fn hibernation(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.setup_snapshot(SWAP_SPEC).await?;

    guest.phase("hibernate");
    guest.hibernate(ORIGIN).await?;
    guest.wait_until_failed(MINOR, "hibernates").await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    guest
        .expect_transition_refusal(&[MINOR], "does not track changes")
        .await?;
    guest.destroy_snapshot(MINOR).await?;
    // Without writers: where the kernel did not come back from its image, the origin is still a swap area.
    let marker = start_again(guest, SWAP_SPEC, IMAGE).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(ImageClaim::new(marker, context.origin_range())).expecting(FAILURES))
}

/// The disk with origin and COW file is pulled under writers, and comes back.
async fn removed(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let writers = Writers::start(guest, context.origin(), context.seed).await?;
    guest.setup_snapshot(spec(context.origin())).await?;

    guest.phase("pull");
    guest.unplug(DISK_INDEX, DISK).await?;
    guest.wait_until_failed(MINOR, "").await?;
    // Their disk has gone; that they end is what matters.
    let id = writers.workload.id;
    guest.try_request(Request::StopWorkload { id }).await?.ok();
    guest.expect_unreadable(SNAPSHOT, context.image()).await?;
    // For its state, or for its disk.
    guest
        .expect_transition_refusal(&[MINOR], "cannot snapshot")
        .await?;
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    if !guest.info().await?.devices.is_empty() {
        return Err(CaseError::Failed("the snapshot is still there".to_owned()));
    }

    guest.phase("put back");
    guest.plug(DISK_INDEX, context.cow_home()).await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    let path = COW_FILE.into();
    guest.prepare(Request::RemoveFile { path }).await?;
    let mut writers = Writers::start(guest, context.origin(), !context.seed).await?;
    let marker = start_again(guest, spec(context.origin()), context.image()).await?;
    writers.burst(guest).await?;
    writers.stop(guest).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(ImageClaim::new(marker, context.origin_range())).expecting(FAILURES))
}
