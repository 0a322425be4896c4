//! A filesystem on a logical volume of the origin, with a file of which very many pages are dirty here and there, and
//! then all are written back at once, on a slow disk. The writes come through device-mapper, where the writer
//! cannot be made to wait. The series must go on: the snapshot must be right, and so must the next map.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_host::disk::Filesystem;
use cowbird_host::error::{HarnessResult, PathContext};
use cowbird_host::nature::OriginKind;
use cowbird_proto::message::{Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, Throttle, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::modules;
use crate::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};
use crate::topology::{BESIDE, Origin};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Above.cases(&[
    case(
        "sync-above",
        "a filesystem on a logical volume of the origin with very many dirty pages, all of them written back at once",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        layout,
        |guest, context| Box::pin(act(guest, context, MANY)),
    )
    .making(&[Fault::SlowDisk]),
    case(
        "sync-above-large",
        "the same with 2 GiB of dirty pages",
        CaseTier::Full,
        &modules(["dm_mod"]),
        layout_large,
        |guest, context| Box::pin(act(guest, context, VERY_MANY)),
    )
    .making(&[Fault::SlowDisk]),
]);

/// The first disk.
const DISK_INDEX: usize = 0;

/// The file, all of it data when the case begins.
const FILE: &str = "large";
const MOUNT: &str = "/mnt/origin";

/// How much is dirty, and where it has room.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// The partition with the filesystem, and the one with the COW file.
    filesystem_mib: u32,
    home_mib: u32,
    file_mib: u32,
    /// Pages of the file that are dirty at the `sync`: more than 65536. No two are next to each other, or they would be
    /// one write. They are all preserved.
    pages: u32,
    cow_mib: u32,
    /// Of the guest; none means what any guest has.
    memory_mib: Option<u32>,
    /// How slow the disk is meanwhile, operations a second.
    operations_per_second: u64,
    /// How long the `sync` may keep its task: every page goes to a slow disk, with a snapshot or without.
    sync_may_last: Duration,
}

/// 297 MiB.
pub const MANY: Size = Size {
    filesystem_mib: 704,
    home_mib: 448,
    file_mib: 640,
    pages: 76_000,
    cow_mib: 352,
    memory_mib: None,
    operations_per_second: 4000,
    sync_may_last: Duration::from_secs(180),
};

/// 2 GiB.
pub const VERY_MANY: Size = Size {
    filesystem_mib: 4480,
    home_mib: 2560,
    file_mib: 4112,
    pages: 524_288,
    cow_mib: 2176,
    memory_mib: Some(4096),
    operations_per_second: 10_000,
    sync_may_last: Duration::from_secs(900),
};

/// No page may be written back before the `sync`.
const KEEP_DIRTY: [(&str, &str); 4] = [
    ("dirty_ratio", "80"),
    ("dirty_background_ratio", "79"),
    ("dirty_expire_centisecs", "360000"),
    ("dirty_writeback_centisecs", "0"),
];

impl Size {
    const fn spec(self) -> SnapshotSpec {
        SnapshotSpec {
            cache_mib: 16,
            ..snapshot_of(Origin::Disk.path(), self.cow_mib)
        }
    }

    fn layout(self, content: fn(&Path) -> HarnessResult<()>) -> Layout {
        Layout {
            filesystem: Some(Filesystem::Ext4),
            content: Some(content),
            filled: false,
            kind: OriginKind::WholeDisk,
            memory_mib: self.memory_mib,
            ..Layout::raw(self.filesystem_mib * MIB_SECTORS, self.home_mib)
        }
    }

    fn make_file(self, folder: &Path) -> HarnessResult<()> {
        let path = folder.join(FILE);
        let mut file = File::create(&path).on("create", &path)?;
        let piece = vec![0xF1; 1 << 20];
        for _ in 0..self.file_mib {
            file.write_all(&piece).on("write", &path)?;
        }
        Ok(())
    }
}

/// The disks of `sync-above`.
fn layout() -> Layout {
    MANY.layout(|folder| MANY.make_file(folder))
}

/// The disks of `sync-above-large`.
fn layout_large() -> Layout {
    VERY_MANY.layout(|folder| VERY_MANY.make_file(folder))
}

/// Plays either, with as much as `size` says.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    size: Size,
) -> CaseResult<Evidence> {
    let slow = Throttle {
        operations_per_second: size.operations_per_second,
        bytes_per_second: 0,
    };
    guest.phase("setup");
    for (name, value) in KEEP_DIRTY {
        let path = format!("/proc/sys/vm/{name}");
        let text = value.to_owned();
        guest.prepare(Request::WriteText { path, text }).await?;
    }
    guest.mount(BESIDE, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.blocked_tasks_may_last(size.sync_may_last).await?;
    let volume = guest.stack(&[ORIGIN], StackKind::Linear).await?;
    guest.mount(&volume, MOUNT, "").await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(size.spec()).await?;
    let home = Origin::Disk.cow_home_at(&context.layout);
    let zeroed = guest
        .own_blocks_at(size.spec(), home.unwrap_or_default())
        .await?;

    guest.phase("dirty");
    let request = Request::MakeDirty {
        path: format!("{MOUNT}/{FILE}"),
        pages: size.pages,
        seed: context.seed,
    };
    guest.prepare_within(request, guest.limits.copy).await?;
    let before = guest.active_snapshot(MINOR).await?.preserved_blocks;

    guest.phase("sync");
    guest.throttle(DISK_INDEX, slow).await?;
    guest.sync_all().await?;
    guest.throttle(DISK_INDEX, Throttle::NONE).await?;
    let preserved = guest.active_snapshot(MINOR).await?.preserved_blocks;
    if preserved < before + u64::from(size.pages) / 2 {
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
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with_maps(maps),
    ))
}
