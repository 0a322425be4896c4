//! A filesystem on a logical volume of the origin, with a file of which very many pages are dirty here and there, and
//! then all are written back at once, on a slow disk. The writes come through device-mapper, where the writer
//! cannot be made to wait. The series must go on: the snapshot must be right, and so must the next map.

use std::path::Path;
use std::time::Duration;

use cowbird_checks::verify::{Evidence, SnapshotEvidence};
use cowbird_host::disk::Filesystem;
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_proto::message::{Request, StackKind};
use cowbird_session::driver::{CaseResult, Driver, SnapshotSpec, Throttle, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use crate::setting::Setting;
use crate::topology::{BESIDE, Origin};

/// The first disk.
const DISK: &str = "vda";
const DISK_INDEX: usize = 0;

/// The partition with the filesystem, and the one with the COW file.
const FILESYSTEM_MIB: u32 = 704;
const HOME_MIB: u32 = 448;

/// The file, all of it data when the case begins.
const FILE: &str = "large";
const FILE_BYTES: usize = 640 << 20;
const MOUNT: &str = "/mnt/origin";

/// Pages of it that are dirty at the `sync`: more than 65536. No two are next to each other, or they would be one write.
const PAGES: u32 = 76_000;

/// They are all preserved.
const COW_MIB: u32 = 352;

/// How slow the disk is meanwhile.
const SLOW: Throttle = Throttle {
    operations_per_second: 4000,
    bytes_per_second: 0,
};

/// No page may be written back before the `sync`.
const KEEP_DIRTY: [(&str, &str); 4] = [
    ("dirty_ratio", "80"),
    ("dirty_background_ratio", "79"),
    ("dirty_expire_centisecs", "360000"),
    ("dirty_writeback_centisecs", "0"),
];

const SPEC: SnapshotSpec = SnapshotSpec {
    origin: Origin::Disk.path(),
    cow_file: "/mnt/cow/snapshot.cow",
    cow_mib: COW_MIB,
    cache_mib: 16,
    minor: MINOR,
};

/// The disks of `sync-above`.
pub fn layout() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Ext4),
        content: Some(make_file),
        filled: false,
        whole_disk: true,
        ..Layout::raw(FILESYSTEM_MIB * MIB_SECTORS, HOME_MIB)
    }
}

fn make_file(folder: &Path) -> HarnessResult<()> {
    let path = folder.join(FILE);
    std::fs::write(&path, vec![0xF1; FILE_BYTES]).on("write", &path)
}

/// How long the `sync` may keep its task: every page goes to a slow disk, with a snapshot or without.
const SYNC_MAY_LAST: Duration = Duration::from_secs(180);

/// Plays `sync-above`.
pub async fn act(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.keep_pages_stable(DISK).await?;
    for (name, value) in KEEP_DIRTY {
        let path = format!("/proc/sys/vm/{name}");
        let text = value.to_owned();
        guest.prepare(Request::WriteText { path, text }).await?;
    }
    guest.mount(BESIDE, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.blocked_tasks_may_last(SYNC_MAY_LAST).await?;
    let volume = guest.stack(&[ORIGIN], StackKind::Linear).await?;
    guest.mount(&volume, MOUNT, "").await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(SPEC).await?;
    let home = Origin::Disk.cow_home_at(&setting.layout);
    let zeroed = guest.own_blocks_at(SPEC, home.unwrap_or_default()).await?;

    guest.phase("dirty");
    let request = Request::MakeDirty {
        path: format!("{MOUNT}/{FILE}"),
        pages: PAGES,
        seed: setting.seed,
    };
    guest.prepare_within(request, guest.limits.copy).await?;
    let before = guest.active_snapshot(MINOR).await?.preserved_blocks;

    guest.phase("sync");
    guest.throttle(DISK_INDEX, SLOW).await?;
    guest.sync_all().await?;
    guest.throttle(DISK_INDEX, Throttle::NONE).await?;
    let preserved = guest.active_snapshot(MINOR).await?.preserved_blocks;
    if preserved < before + u64::from(PAGES) / 2 {
        return Err(vacuous("the pages were written back before the sync"));
    }

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, IMAGE).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("switch");
    guest.transition_to_incremental(MINOR).await?;
    guest.transition_to_snapshot(MINOR).await?;
    let maps = vec![guest.changes(MINOR).await?];

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.unstack(StackKind::Linear).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::Snapshot(SnapshotEvidence {
        zeroed,
        maps,
        ..SnapshotEvidence::new(marker, setting.origin_range())
    }))
}
