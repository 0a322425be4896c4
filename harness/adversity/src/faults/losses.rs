//! Tracking that is lost, and a machine that goes down and comes back: what the module could not write to the COW file in
//! time must not be forgotten, or changes would be missed without a word.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::{GUEST_MODULES, modules};
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::judgement::ExpectedLog;
use cowbird_checks::power::Stop;
use cowbird_proto::message::{Reply, Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, FAILED, FAULTY, GuestSession, SnapshotSpec, vacuous,
};
use cowbird_vm::layout::{CowDisk, Layout};

use super::io_errors::{fail_cow_file, layout_filesystem};
use super::{
    COW_HOME_MIB, FAILURES, FS_COW_FILE, MOUNT, ORIGIN_SECTORS, Writers, churn, evidence, spec,
    start_again,
};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Faults.cases(&[
    case(
        "loss-told-late",
        "a COW file that cannot be written for a moment, and then an orderly reboot: the series must not go on",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_briefly,
        |guest, context| Box::pin(briefly(guest, context)),
    )
    .making(&[Fault::WriteErrors]),
    case(
        "loss-told-at-once",
        "changes that cannot be marked in a COW file that can be written otherwise: it says so before the next write goes",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_briefly,
        |guest, context| Box::pin(at_once(guest, context)),
    )
    .making(&[Fault::WriteErrors]),
    case(
        "flush-at-instant",
        "the origin's disk, which is not the COW file's, is flushed at an instant and by a clean save",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_flush,
        |guest, context| Box::pin(flushed(guest, context)),
    ),
]);

/// The COW file's own disk, MiB and bytes, and what it is in the guest.
const COW_DISK_MIB: u32 = 48;
const COW_DISK_DEVICE: &str = "/dev/vdc";
const COW_DISK_MOUNT: &str = "/mnt/cow2";
const COW_DISK_FILE: &str = "/mnt/cow2/snapshot.cow";

/// Where the state ends in a COW file of few pieces, bytes: behind the epoch header, one slot of pieces, and two of the state.
const STATE_END: u64 = 4 * 4096;

/// Another file, where the one of the lost series still is.
const SECOND_COW_FILE: &str = "/mnt/origin/.cowbird-2";

/// Where the kernel counts what the origin's disk did, and which field has the flushes that have ended.
const FLUSHES: &str = "/sys/block/vda/stat";
const FLUSHES_FIELD: usize = 15;

/// One flush goes ahead, and one comes when nothing is written any more.
const FLUSHES_EACH: u64 = 2;

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

/// The disks of `loss-told-late` and `loss-told-at-once`.
fn layout_briefly() -> Layout {
    layout_filesystem()
}

/// The disks of `flush-at-instant`.
fn layout_flush() -> Layout {
    Layout {
        cow_disk: Some(CowDisk::Own {
            mib: COW_DISK_MIB,
            logical_block_bytes: 512,
        }),
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// A series that must not go on, for a reason that names this.
async fn expect_lost(guest: &mut GuestSession<'_, '_>, named: &str) -> CaseResult<()> {
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
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
) -> CaseResult<()> {
    churn(guest, context, "first").await?;
    guest.setup_snapshot(spec).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await
}

/// A new series, whose image is the old one: no map says what it lacks.
async fn finish(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
    expected_log: ExpectedLog,
) -> CaseResult<Evidence> {
    guest.phase("compare");
    let marker = guest.setup_snapshot(spec).await?;
    let (differed, blocks) = guest.compare_image(SNAPSHOT, IMAGE).await?;
    guest.note(format!(
        "{differed} of {blocks} blocks differed and were copied"
    ));
    if differed == 0 || differed == blocks {
        return Err(vacuous(
            "a comparison in which nothing, or everything, differs",
        ));
    }
    guest.active_snapshot(MINOR).await?;
    churn(guest, context, "last").await?;
    let zeroed = guest.own_blocks(spec).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with(OfImage::SoundExt4),
    )
    .expecting(expected_log))
}

/// Goal: a COW file that could not be written for a moment says that tracking is lost as soon as it can be written
/// again, and the image is not lost with it. Method: marks and state fail, then nothing does any more; the machine is powered off
/// in good order. The COW file lies on the origin's disk, so that nobody but itself could say it. The image is made whole by a
/// comparison with the snapshot of a new series.
async fn briefly(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    lost(guest, context, 0, FAILURES).await
}

/// Goal: no write goes before the COW file says that tracking is lost, where it can say so. Method: marks fail and the state does
/// not. The module must not complain that the COW file says otherwise, as it does when writes go first.
async fn at_once(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    lost(guest, context, STATE_END, &[FAILED]).await
}

/// Writes to the COW file fail from this byte of it on.
async fn lost(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    from: u64,
    expected_log: ExpectedLog,
) -> CaseResult<Evidence> {
    let spec = in_filesystem(FAULTY, FS_COW_FILE);
    guest.phase("setup");
    guest.stack_faulty(ORIGIN).await?;
    guest.mount(FAULTY, MOUNT, "").await?;
    guest.insert_module().await?;
    begin(guest, context, spec).await?;
    let record = guest.record(MINOR, IMAGE).await?;

    guest.phase("fail");
    fail_cow_file(guest, from).await?;
    churn(guest, context, "second").await?;
    guest.wait_until_failed(MINOR, "COW file").await?;
    guest.inject_faults(ORIGIN, &[]).await?;
    churn(guest, context, "third").await?;
    guest.unmount(MOUNT).await?;

    guest.phase("reboot");
    guest.reboot(Stop::PowerOff).await?;
    guest.stack_faulty(ORIGIN).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    expect_lost(guest, "tracking was lost before").await?;
    guest.mount(FAULTY, MOUNT, "").await?;
    let spec = in_filesystem(FAULTY, SECOND_COW_FILE);
    let evidence = finish(guest, context, spec, expected_log).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    guest.remove_module().await?;
    Ok(evidence)
}

/// Flushes that the origin's disk has done.
async fn flushes(guest: &mut GuestSession<'_, '_>) -> CaseResult<u64> {
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
async fn flushed(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_DISK_DEVICE, COW_DISK_MOUNT, "").await?;
    guest.insert_module().await?;
    Writers::start(guest, ORIGIN, context.seed)
        .await?
        .stop(guest)
        .await?;
    let mut before = flushes(guest).await?;
    let mut expect_more = async |guest: &mut GuestSession<'_, '_>, what: &str| {
        let now = flushes(guest).await?;
        guest.note(format!("{} flushes of the origin: {what}", now - before));
        if now < before + FLUSHES_EACH {
            return Err(CaseError::Failed(format!(
                "{what} did not flush the origin's disk both times"
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
    let mut writers = Writers::start(guest, ORIGIN, !context.seed).await?;
    let marker = start_again(guest, spec(ORIGIN), IMAGE).await?;
    writers.burst(guest).await?;
    writers.stop(guest).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence(context, marker, &[]))
}
