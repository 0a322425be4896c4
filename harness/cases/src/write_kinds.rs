//! Every kind of write, all at once, across two snapshot instants: first under copy-on-write, then
//! while only changes are tracked. The image of the first epoch must be right, and the change map
//! that leads to the second must hold every block that differs.

use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{Chase, WorkloadSpec, WriteKindsSpec};
use cowbird_session::guest::{CaseResult, GuestSession, vacuous};
use cowbird_vm::disks::Bus;
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::{GUEST_MODULES, modules};
use crate::names::{COW_MOUNT, MINOR, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Volume.cases(&[
    case(
        "write-kinds",
        "every kind of write to a raw partition, across two epochs",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_raw,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "write-kinds-nvme",
        "the same on an NVMe disk, which has FUA",
        CaseTier::Daily,
        &modules(["nvme"]),
        layout_nvme,
        |guest, context| Box::pin(act(guest, context)),
    ),
    case(
        "write-kinds-ext4",
        "every kind of write to files of an ext4, one of them from another mount namespace",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_ext4,
        |guest, context| Box::pin(act(guest, context)),
    ),
]);

/// The zones of all writers, and five sectors.
const RAW_SECTORS: u32 = 36 * MIB_SECTORS + 5;

/// The files of all writers, and the filesystem's own.
const EXT4_SECTORS: u32 = 64 * MIB_SECTORS;

/// Every block of the raw origin may be overwritten, and about as many of the other.
const COW_MIB: u32 = 52;

/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 80;

const MOUNT: &str = "/mnt/origin";

/// Data written before the first instant.
const WARM_UP_BYTES: u64 = 4 << 20;

/// Time for the warm-up.
const WARM_UP_LIMIT: Duration = Duration::from_secs(90);

/// Time until every writer has done enough after the first instant.
const OVERWRITE_LIMIT: Duration = Duration::from_secs(150);

/// Data written while changes are tracked.
const TRACKED_BYTES: u64 = 6 << 20;

/// Time for it.
const TRACKED_LIMIT: Duration = Duration::from_secs(90);

/// The disks of `write-kinds`.
fn layout_raw() -> Layout {
    Layout::raw(RAW_SECTORS, COW_HOME_MIB)
}

/// The disks of `write-kinds-nvme`.
fn layout_nvme() -> Layout {
    Layout {
        bus: Bus::Nvme,
        ..layout_raw()
    }
}

/// The disks of `write-kinds-ext4`.
fn layout_ext4() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Ext4),
        ..Layout::raw(EXT4_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `write-kinds`, `write-kinds-nvme` and `write-kinds-ext4`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let filesystem = context.layout().filesystem;
    guest.phase("setup");
    if let Some(kind) = filesystem {
        guest
            .mount_as(context.origin(), MOUNT, kind.name(), "discard")
            .await?;
    }
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let writers = guest.start_workload(writers(context)).await?;
    guest
        .wait_until(&writers, "warmed up", WARM_UP_LIMIT, |state| {
            state.bytes_written >= WARM_UP_BYTES
        })
        .await?;

    guest.phase("snapshot");
    let marker = guest
        .setup_snapshot(snapshot_of(context.origin(), COW_MIB))
        .await?;
    let chase = Chase {
        snapshot: SNAPSHOT.into(),
        shift_bytes: 0,
    };
    guest.epoch_passed(&writers, Some(chase)).await?;

    guest.phase("overwrite");
    guest
        .wait_until(
            &writers,
            "every kind was written",
            OVERWRITE_LIMIT,
            |state| state.finished,
        )
        .await?;

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten"));
    }

    guest.phase("track");
    // The racing readers let go of the snapshot.
    guest.epoch_passed(&writers, None).await?;
    guest.transition_to_incremental(MINOR).await?;
    let before = guest.workload(&writers).await?;
    guest
        .wait_until(&writers, "written enough", TRACKED_LIMIT, |state| {
            state.bytes_written >= before.bytes_written + TRACKED_BYTES
        })
        .await?;
    guest.transition_to_snapshot(MINOR).await?;
    let map = guest.changes(MINOR).await?;
    let end = guest.stop_workload(&writers).await?;
    for left_out in end.left_out {
        guest.note(format!("left out: {left_out}"));
    }

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    if filesystem.is_some() {
        guest.unmount(MOUNT).await?;
    }
    guest.remove_module().await?;
    let mut image = ImageClaim::new(marker, context.origin_range())
        .differing_reads(end.differing_reads)
        .with_maps([map]);
    if filesystem.is_some() {
        image = image.with(OfImage::SoundExt4);
    }
    Ok(Evidence::from(image))
}

fn writers(context: &CaseContext) -> WorkloadSpec {
    let filesystem = context.layout().filesystem;
    WorkloadSpec::WriteKinds(WriteKindsSpec {
        target: match filesystem {
            None => context.origin().into(),
            Some(_) => format!("{MOUNT}/kinds"),
        },
        device: context.origin().into(),
        fstype: filesystem.map(|kind| kind.name().to_owned()),
        seed: context.seed,
    })
}
