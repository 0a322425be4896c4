//! Tracking that is lost, and a machine that goes down and comes back: what the module could not write to the COW file in
//! time must not be forgotten, or changes would be missed without a word.

use std::time::Duration;

use cowbird_proto::message::{Reply, Request, StackKind};

use super::io_errors::{fail_cow_file, layout_filesystem};
use super::{
    COW_HOME_MIB, FAILURES, FS_COW_FILE, MOUNT, ORIGIN_SECTORS, Writers, churn, evidence, spec,
    start_again,
};
use crate::cases::{COW_HOME, COW_MOUNT, IMAGE, Layout, MINOR, ORIGIN, SNAPSHOT, Setting, vacuous};
use crate::disk::Filesystem;
use crate::driver::{CaseError, CaseResult, Driver, FAILED, Pace, RULED, SnapshotSpec};
use crate::power::Stop;
use crate::verify::{Evidence, ExpectedLog, SnapshotEvidence};

/// The COW file's own disk, MiB and bytes, and what it is in the machine and in the guest.
const COW_DISK_MIB: u32 = 48;
const COW_DISK: usize = 2;
const COW_DISK_DEVICE: &str = "/dev/vdc";
const COW_DISK_MOUNT: &str = "/mnt/cow2";
const COW_DISK_FILE: &str = "/mnt/cow2/snapshot.cow";

/// A filesystem on the origin.
const FS_MIB: u32 = 96;

/// Another file, where the one of the lost series still is.
const SECOND_COW_FILE: &str = "/mnt/origin/.cowbird-2";

/// A write is held for so long at most, s.
const HOLD_LIMIT_S: u64 = 3;

/// The machine goes down in so much time, and a task may sleep for so long, whatever the COW file's disk does.
const OFF_LIMIT: Duration = Duration::from_secs(25);
const BLOCKED_LIMIT: Duration = Duration::from_secs(60);

/// What the module may say of a COW disk that does not answer.
const STOPPED: ExpectedLog = &[
    FAILED,
    "the COW file still says that its marks are complete",
    "its own I/O has not ended",
    "not saved, because writes would have been held for too long",
];

/// Where the kernel counts what the origin's disk did, and which field has the flushes that have ended.
const FLUSHES: &str = "/sys/block/vda/stat";
const FLUSHES_FIELD: usize = 15;

const fn on_other_disk(origin: &'static str) -> SnapshotSpec {
    SnapshotSpec {
        cow_file: COW_DISK_FILE,
        ..spec(origin)
    }
}

fn in_filesystem(origin: &'static str, cow_file: &'static str) -> SnapshotSpec {
    SnapshotSpec {
        cow_file,
        ..spec(origin)
    }
}

pub(in crate::cases) fn layout_briefly() -> Layout {
    layout_filesystem()
}

pub(in crate::cases) fn layout_stopped() -> Layout {
    Layout {
        cow_disk: Some((COW_DISK_MIB, 512)),
        ..Layout::filesystem(Filesystem::Ext4, FS_MIB)
    }
}

pub(in crate::cases) fn layout_flush() -> Layout {
    Layout {
        cow_disk: Some((COW_DISK_MIB, 512)),
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// A series that must not go on, for a reason that names this.
async fn expect_lost(guest: &mut Driver<'_, '_>, named: &str) -> CaseResult<()> {
    match guest.reload_all().await? {
        Err(said) if said.contains(named) => {
            guest.note(format!("refused as it must be: {said}"));
            Ok(())
        }
        Err(said) => Err(CaseError::Failed(format!(
            "the refusal does not name \"{named}\": {said}"
        ))),
        Ok(()) => Err(CaseError::Failed(
            "the series goes on, although writes passed that nobody marked".to_owned(),
        )),
    }
}

/// The first epoch, copied whole; only changes are tracked from then on.
async fn begin(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
    spec: SnapshotSpec,
) -> CaseResult<()> {
    churn(guest, setting, "first").await?;
    guest.setup_snapshot(spec).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await
}

async fn finish(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
    spec: SnapshotSpec,
    expected_log: ExpectedLog,
) -> CaseResult<Evidence> {
    let marker = start_again(guest, spec, IMAGE).await?;
    churn(guest, setting, "last").await?;
    let zeroed = guest.own_blocks(spec).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    Ok(Evidence::Snapshot(SnapshotEvidence {
        filesystem: true,
        zeroed,
        expected_log,
        ..SnapshotEvidence::new(marker, setting.origin_range())
    }))
}

/// Goal: a COW file that could not be written for a moment says that tracking is lost as soon as it can be written
/// again. Method: marks and state fail, then nothing does any more; the machine is powered off in good order. The COW
/// file lies on the origin's disk, so that nobody but itself could say it.
pub(in crate::cases) async fn briefly(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    let spec = in_filesystem(RULED, FS_COW_FILE);
    guest.phase("setup");
    guest.stack_ruled(ORIGIN).await?;
    guest.mount(RULED, MOUNT, "").await?;
    guest.insert_module().await?;
    begin(guest, setting, spec).await?;
    let record = guest.record(MINOR, IMAGE).await?;

    guest.phase("fail");
    fail_cow_file(guest, 0).await?;
    churn(guest, setting, "second").await?;
    guest.wait_until_failed(MINOR, "COW file").await?;
    guest.rule(ORIGIN, &[]).await?;
    churn(guest, setting, "third").await?;
    guest.unmount(MOUNT).await?;

    guest.phase("reboot");
    guest.reboot(Stop::PowerOff).await?;
    guest.stack_ruled(ORIGIN).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    expect_lost(guest, "could not be written").await?;
    guest.mount(RULED, MOUNT, "").await?;
    let spec = in_filesystem(RULED, SECOND_COW_FILE);
    let evidence = finish(guest, setting, spec, FAILURES).await?;
    guest.unstack(StackKind::Ruled).await?;
    guest.remove_module().await?;
    Ok(evidence)
}

/// Goal: the origin itself says that writes passed while the disk of the COW file did not answer. Method: that disk
/// stops, writes wait for their marks until they may wait no longer, and the machine goes down with the disk as it is.
pub(in crate::cases) async fn stopped(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.blocked_tasks_may_last(BLOCKED_LIMIT).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.mount(COW_DISK_DEVICE, COW_DISK_MOUNT, "").await?;
    let params = format!("hold_limit_s={HOLD_LIMIT_S}");
    guest.insert_module_with(&params).await?;
    begin(guest, setting, on_other_disk(ORIGIN)).await?;
    let record = guest.record(MINOR, IMAGE).await?;

    guest.phase("stop");
    // What the filesystem of the COW file still has to write must not wait for the disk.
    guest.prepare(Request::SyncAll).await?;
    guest.set_pace(COW_DISK, Pace::Stopped).await?;
    churn(guest, setting, "second").await?;
    guest
        .wait_until_failed(MINOR, "waited for more than")
        .await?;
    churn(guest, setting, "third").await?;

    guest.phase("reboot");
    let within = OFF_LIMIT;
    guest.reboot(Stop::PowerOffNow { within }).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    expect_lost(guest, "the origin's stamp says").await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    let spec = in_filesystem(ORIGIN, FS_COW_FILE);
    let evidence = finish(guest, setting, spec, STOPPED).await?;
    guest.remove_module().await?;
    Ok(evidence)
}

/// Goal: a series whose origin is stamped goes on through its epochs and an orderly reboot, and the stamp is in the image
/// as any other file. Method: the image is brought up to date by change maps alone; it must be right.
pub(in crate::cases) async fn stamped(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    let spec = on_other_disk(ORIGIN);
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.mount(COW_DISK_DEVICE, COW_DISK_MOUNT, "").await?;
    guest.insert_module().await?;
    begin(guest, setting, spec).await?;
    for name in ["second", "third"] {
        churn(guest, setting, name).await?;
        guest.phase("update");
        guest.transition_to_snapshot(MINOR).await?;
        guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
        guest.transition_to_incremental(MINOR).await?;
    }
    let record = guest.record(MINOR, IMAGE).await?;
    guest.unmount(MOUNT).await?;
    guest.unmount(COW_DISK_MOUNT).await?;

    guest.phase("reboot");
    guest.reboot(Stop::PowerOff).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    let refused = |said| CaseError::Failed(format!("the series was not taken up again: {said}"));
    guest.reload_all().await?.map_err(refused)?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.mount(COW_DISK_DEVICE, COW_DISK_MOUNT, "").await?;
    guest.verify(MINOR).await?.map_err(refused)?;
    churn(guest, setting, "fourth").await?;
    guest.phase("update");
    guest.transition_to_snapshot(MINOR).await?;
    guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    guest.destroy_snapshot(MINOR).await?;
    let spec = in_filesystem(ORIGIN, FS_COW_FILE);
    let evidence = finish(guest, setting, spec, &[]).await?;
    guest.unmount(COW_DISK_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence)
}

/// Flushes that the origin's disk has done.
async fn flushes(guest: &mut Driver<'_, '_>) -> CaseResult<u64> {
    let path = FLUSHES.to_owned();
    let Reply::Text(text) = guest.prepare(Request::ReadText { path }).await? else {
        return Err(vacuous("the guest does not read a file"));
    };
    text.split_whitespace()
        .nth(FLUSHES_FIELD)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| vacuous("the kernel does not count flushes"))
}

/// Goal: what the origin's disk has taken before an instant is on stable storage when the snapshot or the saved series
/// counts on it. Method: direct writes without a flush, to a disk that is not the COW file's; then its flushes are
/// counted over a set-up, a transition and a suspend. Not shown: that the flush comes after the last write.
pub(in crate::cases) async fn flushed(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_DISK_DEVICE, COW_DISK_MOUNT, "").await?;
    guest.insert_module().await?;
    Writers::start(guest, ORIGIN, setting.seed)
        .await?
        .stop(guest)
        .await?;
    let mut before = flushes(guest).await?;
    let mut expect_more = async |guest: &mut Driver<'_, '_>, what: &str| {
        let now = flushes(guest).await?;
        guest.note(format!("{} flushes of the origin: {what}", now - before));
        if now == before {
            return Err(CaseError::Failed(format!(
                "{what} did not flush the origin's disk"
            )));
        }
        before = now;
        Ok(())
    };
    guest.setup_snapshot(on_other_disk(ORIGIN)).await?;
    expect_more(guest, "setup-snapshot").await?;
    guest.transition_to_incremental(MINOR).await?;
    guest.transition_to_snapshot(MINOR).await?;
    expect_more(guest, "transition-to-snapshot").await?;
    guest.suspend(MINOR).await?;
    expect_more(guest, "suspend").await?;
    let refused = |said| CaseError::Failed(format!("the series was not taken up again: {said}"));
    guest.reload_all().await?.map_err(refused)?;
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_DISK_MOUNT).await?;

    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    let mut writers = Writers::start(guest, ORIGIN, !setting.seed).await?;
    let marker = start_again(guest, spec(ORIGIN), IMAGE).await?;
    writers.burst(guest).await?;
    writers.stop(guest).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence(setting, marker, &[]))
}
