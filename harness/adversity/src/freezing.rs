//! Filesystems that are mounted twice, already frozen, mounted read-only, or mounted and unmounted while the
//! snapshot is there.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::fs_churn;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_MOUNT, MINOR, SNAPSHOT, snapshot_of};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{FsChurnSpec, MountApi, MountSpec, Request};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Workload, longest,
};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Surroundings.cases(&[
    case(
        "frozen",
        "a filesystem that others have frozen when its snapshot is asked for",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act_frozen(guest, context)),
    )
    .making(&[Fault::Frozen]),
    case(
        "mounted-twice",
        "a filesystem that is mounted at two places",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act_twice(guest, context)),
    ),
    case(
        "remount",
        "a read-only filesystem that is unmounted and mounted, old and new way, under its snapshot",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act_remount(guest, context)),
    ),
    case(
        "frozen-home-destroyed",
        "a snapshot that is destroyed while the filesystem of its COW file is frozen",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act_destroyed(guest, context)),
    )
    .making(&[Fault::Frozen]),
]);

const ORIGIN_MIB: u32 = 56;
const COW_HOME_MIB: u32 = 64;

const MOUNT: &str = "/mnt/origin";

/// Data of one workload.
const BYTES: u64 = 4 << 20;

/// Time for it.
const LIMIT: Duration = Duration::from_secs(60);

/// A frozen filesystem keeps nobody longer than this from ending a snapshot, or from reading what there is.
const DESTROY_LIMIT: Duration = Duration::from_secs(40);
const INFO_LIMIT: Duration = Duration::from_secs(2);

/// The disks of `frozen`, `mounted-twice` and `remount`.
pub fn layout() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Ext4),
        ..Layout::raw(ORIGIN_MIB * MIB_SECTORS, COW_HOME_MIB)
    }
}

fn spec(context: &CaseContext) -> SnapshotSpec {
    snapshot_of(context.origin(), 40)
}

fn mount_spec(context: &CaseContext, api: MountApi, read_only: bool) -> MountSpec {
    MountSpec {
        source: context.origin().into(),
        target: MOUNT.into(),
        fstype: "ext4".into(),
        options: "discard".into(),
        read_only,
        api,
    }
}

/// Writes files into a directory of its own until there is enough.
async fn churn(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    name: &str,
) -> CaseResult<Workload> {
    let files = FsChurnSpec {
        root: format!("{MOUNT}/{name}"),
        seed: context.seed,
        threads: 2,
        files_per_thread: 12,
        max_file_bytes: 256 << 10,
        golden_files: 6,
        budget_after_epoch_bytes: BYTES,
        pause_us: 0,
    };
    fs_churn::start_until_written(guest, files, BYTES, LIMIT).await
}

async fn churn_and_stop(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    name: &str,
) -> CaseResult<()> {
    let churn = churn(guest, context, name).await?;
    guest.stop_workload(&churn).await.map(|_| ())
}

/// The filesystem is frozen when the snapshot is asked for. It may be refused; in any case the
/// filesystem is as frozen afterwards as before, and thawed there is a snapshot.
async fn act_frozen(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(context.origin(), MOUNT, "").await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    churn_and_stop(guest, context, "before").await?;

    guest.phase("snapshot");
    let path = || MOUNT.to_owned();
    guest.prepare(Request::Freeze { path: path() }).await?;
    let frozen = guest.setup_snapshot(spec(context)).await;
    // Fails when it is not frozen any more.
    if let Err(error) = guest.try_request(Request::Thaw { path: path() }).await? {
        return Err(CaseError::Failed(format!(
            "the snapshot has thawed a filesystem that others had frozen: {error}"
        )));
    }
    let marker = match frozen {
        Ok(marker) => marker,
        Err(CaseError::Failed(reason)) if reason.contains("frozen") => {
            guest.note(format!("refused as it may be: {reason}"));
            guest.setup_snapshot(spec(context)).await?
        }
        Err(error) => return Err(error),
    };

    guest.phase("overwrite");
    churn_and_stop(guest, context, "after").await?;
    finish(guest, context).await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with(OfImage::SoundExt4),
    ))
}

/// The filesystem is mounted at two places, and written through the one that was mounted last.
async fn act_twice(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    let first = MountSpec {
        target: "/mnt/first".into(),
        ..mount_spec(context, MountApi::Fsmount, false)
    };
    guest.mount_by(first).await?;
    guest
        .mount_by(mount_spec(context, MountApi::Mount, false))
        .await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let writers = churn(guest, context, "busy").await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec(context)).await?;
    guest.epoch_passed(&writers, None).await?;
    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.stop_workload(&writers).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount("/mnt/first").await?;
    unmount_all(guest).await?;
    let golden = writers.golden.into_iter().map(|mut file| {
        file.path = format!("busy/{}", file.path);
        file
    });
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with_files(golden.collect()),
    ))
}

/// The snapshot is taken of a filesystem that is mounted read-only; afterwards it is mounted and
/// unmounted in the old and the new way, under copy-on-write and while changes are tracked.
async fn act_remount(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.mount(context.origin(), MOUNT, "").await?;
    churn_and_stop(guest, context, "before").await?;
    guest.unmount(MOUNT).await?;
    guest.insert_module().await?;
    guest
        .mount_by(mount_spec(context, MountApi::Fsmount, true))
        .await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec(context)).await?;

    guest.phase("overwrite");
    for (api, name) in [(MountApi::Fsmount, "new-way"), (MountApi::Mount, "old-way")] {
        guest.unmount(MOUNT).await?;
        guest.mount_by(mount_spec(context, api, false)).await?;
        churn_and_stop(guest, context, name).await?;
    }

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("track");
    guest.transition_to_incremental(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest
        .mount_by(mount_spec(context, MountApi::Fsmount, false))
        .await?;
    guest.unmount(MOUNT).await?;
    // Nothing is mounted now: there is nothing to freeze.
    guest.transition_to_snapshot(MINOR).await?;
    let map = guest.changes(MINOR).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .with_maps([map])
            .with(OfImage::SoundExt4),
    ))
}

/// The COW file's filesystem is frozen while the snapshot is destroyed. Its inode has a time that is only in memory
/// (`lazytime`), and nobody but the module has it: the last reference to it must make nobody wait for the thaw.
async fn act_destroyed(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest
        .mount(context.cow_home(), COW_MOUNT, "lazytime")
        .await?;
    guest.mount(context.origin(), MOUNT, "").await?;
    guest.insert_module().await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec(context)).await?;
    churn_and_stop(guest, context, "after").await?;
    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("frozen");
    // Reading sets the time of access, for it is not later than that of the last write. What is read is no text.
    let path = spec(context).cow_file.to_owned();
    let _ = guest.try_request(Request::ReadText { path }).await?;
    guest
        .prepare(Request::WriteText {
            path: "/proc/sys/vm/drop_caches".to_owned(),
            text: "2".to_owned(),
        })
        .await?;
    let home = || COW_MOUNT.to_owned();
    guest.prepare(Request::Freeze { path: home() }).await?;
    let watch = guest.watch_info().await?;
    let ended = guest
        .bounded_control(&format!("destroy {MINOR}"), DESTROY_LIMIT)
        .await?;
    let reads = longest(&guest.stop_workload(&watch).await?);
    guest.prepare(Request::Thaw { path: home() }).await?;
    let timing = ended.map_err(|(fault, _)| CaseError::Failed(fault))?;
    guest.note(format!(
        "destroy took {:.1?}: {}; info took {reads:.1?} at most",
        timing.took,
        timing.refusal().unwrap_or_else(|| "done".to_owned()),
    ));
    if reads > INFO_LIMIT {
        let fault = format!("info took {reads:.1?}, more than {INFO_LIMIT:?}");
        return Err(CaseError::Failed(fault));
    }
    if !guest.info().await?.devices.is_empty() {
        let fault = "the snapshot is still there".to_owned();
        return Err(CaseError::Failed(fault));
    }
    guest.phase("teardown");
    unmount_all(guest).await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with(OfImage::SoundExt4),
    ))
}

async fn finish(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<()> {
    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    unmount_all(guest).await
}

async fn unmount_all(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.unmount(MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}
