//! A raw partition whose size is no multiple of a block, with pairs of direct writers, a buffered
//! writer, discards and write-zeroes across the snapshot instant and while the snapshot is copied.
//! Each direct writer is chased by a reader of the snapshot.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_model::{BlockSet, MarkerKey};
use cowbird_proto::message::{Chase, RawWritersSpec, WorkloadSpec};
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, Workload, vacuous};
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::{GUEST_MODULES, modules};
use crate::names::{COW_MOUNT, MINOR, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};

/// The case of this file that comes first.
pub static CASES: CasesOf = Subject::Volume.cases(&[case(
    "raw-writers",
    "raw partition of odd size with pairs of writers on the same blocks, and discards",
    CaseTier::Quick,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// The same case on other kinds of disks.
pub static OTHER_DISKS: CasesOf = Subject::Disks.cases(&[
    case(
        "scsi",
        "a partition of a SCSI disk",
        CaseTier::Daily,
        &modules(["virtio_scsi", "sd_mod"]),
        || layout_on(Bus::Scsi),
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "nvme",
        "a partition of an NVMe disk",
        CaseTier::Daily,
        &modules(["nvme"]),
        || layout_on(Bus::Nvme),
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "large-sectors",
        "a partition of a disk with logical blocks of 4096 bytes",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_large_sectors,
        |guest, context| Box::pin(act(guest, context)),
    ),
]);

/// 48 MiB and five sectors: the last block is short.
const ORIGIN_SECTORS: u32 = 48 * 2048 + 5;

/// The same in logical blocks of 4096 bytes: 48 MiB and one.
const LARGE_ORIGIN_SECTORS: u32 = 48 * 2048 + 8;

/// Every block of the origin may be overwritten, and the tracking state needs some room.
const COW_MIB: u32 = 56;

/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 96;

/// The snapshot of a device that shows the first partition.
pub const fn spec(origin: &'static str) -> SnapshotSpec {
    snapshot_of(origin, COW_MIB)
}

/// Data written before the instant, so that older versions exist.
const WARM_UP_BYTES: u64 = 4 << 20;

/// Time for the warm-up.
const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

/// Data written between the instant and the copy, so that the copy meets many blocks that have
/// changed already, beside those that change under it.
const OVERWRITTEN_BYTES: u64 = 12 << 20;

/// Time for it.
const OVERWRITE_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `dm-linear`, `dm-two-pieces` and others.
pub fn layout() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// The same disks on another bus.
fn layout_on(bus: Bus) -> Layout {
    Layout { bus, ..layout() }
}

/// The disks of `large-sectors`.
fn layout_large_sectors() -> Layout {
    Layout {
        logical_block_bytes: 4096,
        ..Layout::raw(LARGE_ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `raw-writers`, `scsi` and others.
pub async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    prepare(guest, context).await?;
    let origin = context.origin();
    let evidence = write_across_the_instant(guest, context, origin, spec(origin), None).await?;
    tear_down(guest).await?;
    Ok(evidence)
}

/// Mounts the home of the COW file and loads the module.
pub async fn prepare(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<()> {
    guest.phase("setup");
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await
}

/// Unmounts the home of the COW file and unloads the module.
pub async fn tear_down(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}

/// Writers on one device, a snapshot of it or of what it belongs to. `cow_home_at`: where the COW
/// file's filesystem begins on the origin, bytes, if it is a part of it.
pub async fn write_across_the_instant(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    device: &str,
    spec: SnapshotSpec,
    cow_home_at: Option<u64>,
) -> CaseResult<Evidence> {
    let writers = warm_up(guest, context, device).await?;
    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec).await?;
    let zeroed = match cow_home_at {
        Some(offset) => guest.own_blocks_at(spec, offset).await?,
        None => BlockSet::new(),
    };
    let evidence = overwrite_and_copy(guest, context, &writers, marker).await?;
    Ok(Evidence::from(evidence.zeroed(zeroed)))
}

/// Starts the writers, and lets them write older versions.
pub async fn warm_up(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    device: &str,
) -> CaseResult<Workload> {
    let writers = guest.start_workload(writers(device, context)).await?;
    guest
        .wait_until(&writers, "warmed up", WARM_UP_LIMIT, |state| {
            state.bytes_written >= WARM_UP_BYTES
        })
        .await?;
    Ok(writers)
}

/// Copies the snapshot while it is overwritten and chased, and ends writers and snapshot.
pub(super) async fn overwrite_and_copy(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    writers: &Workload,
    marker: MarkerKey,
) -> CaseResult<ImageClaim> {
    guest.phase("overwrite");
    let chase = Chase {
        snapshot: SNAPSHOT.into(),
        shift_bytes: context.layout.writers_shift_bytes(),
    };
    guest.epoch_passed(writers, Some(chase)).await?;
    let before = guest.workload(writers).await?;
    let overwritten = guest
        .wait_until(writers, "overwritten enough", OVERWRITE_LIMIT, |state| {
            state.bytes_written >= before.bytes_written + OVERWRITTEN_BYTES
        })
        .await?;

    guest.phase("copy");
    let origin = context.layout.snapshot_origin();
    guest.expect_size(SNAPSHOT, origin).await?;
    guest.copy_device(SNAPSHOT, context.image()).await?;
    let end = guest.stop_workload(writers).await?;
    let state = guest.active_snapshot(MINOR).await?;
    if end.bytes_written <= overwritten.bytes_written || state.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten during the copy"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    Ok(ImageClaim::new(marker, context.origin_range()).differing_reads(end.differing_reads))
}

fn writers(device: &str, context: &CaseContext) -> WorkloadSpec {
    WorkloadSpec::RawWriters(RawWritersSpec {
        device: device.into(),
        seed: context.seed,
        pairs: 2,
        discard_every: if context.layout.discards { 24 } else { 0 },
        rest_at_bytes: 0,
    })
}
