//! The disk of the COW file stops answering, without any error. The origin goes on, and so does whoever looks after
//! the snapshot; it fails, visibly. When the disk is back, or another one is taken, everything is as it was.
//!
//! The origin is the whole first disk, so that a filesystem on it is concerned that nobody needs.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_checks::power::Stop;
use cowbird_host::initramfs::COWBIRDCTL;
use cowbird_host::nature::FurtherDisk;
use cowbird_proto::message::{
    EndSignal, ProgramSpec, ProgramsSpec, Request, TimedSpec, WorkloadSpec,
};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    Begun, CaseError, CaseResult, FAILED, GuestSession, Pace, SeriesRecord, SnapshotSpec, Workload,
    control, longest, vacuous,
};
use cowbird_vm::End;
use cowbird_vm::layout::Layout;

use super::{
    AFTERWARDS, BLOCKED_LIMIT, COW_HOME_MIB, Faults, HOLD_LIMIT_S, LONGEST_WRITE, OPERATOR_LIMIT,
    ORIGIN_SECTORS, SPEC, done, stop, take_judged_image, timed,
};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Waiting.cases(&[
    case(
        "cow-disk-stops",
        "the disk of the COW file stops answering under a snapshot",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::Snapshot)),
    )
    .making(&[Fault::StoppedDisk]),
    case(
        "cow-disk-stops-long",
        "the same for ten minutes",
        CaseTier::Full,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::Long)),
    )
    .making(&[Fault::StoppedDisk]),
    case(
        "cow-disk-returns",
        "the same; it answers again before the snapshot is destroyed",
        CaseTier::Full,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::Returns)),
    )
    .making(&[Fault::StoppedDisk]),
    case(
        "cow-disk-stops-tracking",
        "the same while only changes are tracked",
        CaseTier::Full,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::Tracking)),
    )
    .making(&[Fault::StoppedDisk]),
    case(
        "cow-disk-stops-transition",
        "the same while the next snapshot of a series is taken",
        CaseTier::Full,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::Transition)),
    )
    .making(&[Fault::StoppedDisk]),
    case(
        "cow-disk-stops-power-off",
        "the same under a snapshot, and then the machine is powered off",
        CaseTier::Full,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::PowerOff)),
    )
    .making(&[Fault::StoppedDisk, Fault::HardPowerOff]),
    case(
        "cow-disk-stops-watched",
        "the same while only changes are tracked, a process that watches, and a machine that is powered off",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Moment::Watched)),
    )
    .making(&[Fault::StoppedDisk, Fault::HardPowerOff]),
]);

/// The disk of the COW file.
const DISK: usize = 2;
const DISK_NAME: &str = "vdc";
const HOME: &str = "/dev/vdc2";
const HOME_MOUNT: &str = "/mnt/cow2";

/// A filesystem on the origin.
const CONCERNED: &str = "/dev/vda3";
const CONCERNED_MOUNT: &str = "/mnt/third";
const CONCERNED_MIB: u32 = 8;

/// With so few requests whoever submits sleeps soon.
const FEW_REQUESTS: &str = "4";

/// Of all snapshots together: the next one needs what the failed one had, MiB.
const TOTAL_CACHE_MIB: u32 = 6;

const STOPS: SnapshotSpec = SnapshotSpec {
    origin: "/dev/vda",
    cow_file: "/mnt/cow2/snapshot.cow",
    ..SPEC
};

/// Writers, and their pause: they must not keep the machine busy.
const WRITERS: u32 = 16;
const PAUSE_US: u64 = 10_000;
const LONG_PAUSE_US: u64 = 100_000;

/// Written before the disk stops: by then every region is marked.
const BEFORE: u64 = 600;

/// Written after the snapshot has failed.
const AFTER: u64 = 50;

/// From the stop on: longer than any write may take.
const WATCHED: Duration = Duration::from_secs(HOLD_LIMIT_S + 7);

/// Where it stays away for long, it is looked so many times whether the origin goes on, after such pauses.
const LONG_LOOKS: u32 = 10;
const LONG_PAUSE: Duration = Duration::from_secs(57);

/// What writes to the filesystem of the COW file is blocked for all that time.
const LONG_BLOCKED_LIMIT: Duration = Duration::from_secs(1200);

/// What the module may say.
const EXPECTED: ExpectedLog = &[
    FAILED,
    "this could not be recorded in the COW file",
    "cannot write the tracking state to the COW file",
    "I/O that Cowbird submitted has not completed",
    "has ended, but I/O of its own has not",
    "its COW file still says that changes are tracked",
    "not saved, because writes would have been held for too long",
];

/// When it stops, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Under a snapshot.
    Snapshot,
    /// Under a snapshot, and for ten minutes.
    Long,
    /// Under a snapshot; it is back before the snapshot is destroyed.
    Returns,
    /// While only changes are tracked.
    Tracking,
    /// While the next snapshot of a series is taken.
    Transition,
    /// Under a snapshot; then the machine is powered off.
    PowerOff,
    /// While only changes are tracked; then the machine is powered off, the disk is well again, and the series is to be
    /// taken up. The record says that changes were missed.
    Watched,
}

/// The disks of `cow-disk-stops`, `cow-disk-stops-long` and others.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB).with_third(CONCERNED_MIB)
    }
}

/// Plays `cow-disk-stops`, `cow-disk-stops-long` and others.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    moment: Moment,
) -> CaseResult<Evidence> {
    prepare(guest, moment).await?;
    let info_limit = guest.info_limit().await?;
    guest.phase("stop");
    guest.setup_snapshot(STOPS).await?;
    let info = guest.watch_info().await?;
    let watch = match moment {
        Moment::Watched => Some(begin_watch(guest).await?),
        _ => None,
    };
    let mut faults = Faults::default();
    let (writers, transition) = stop_disk(guest, context, moment).await?;
    guest.vm().pause(WATCHED).await?;
    judge_writes(guest, &writers, &mut faults).await?;
    judge_failure(guest, moment, &mut faults).await?;
    if moment == Moment::Long {
        for _ in 0..LONG_LOOKS {
            guest.vm().pause(LONG_PAUSE).await?;
            judge_writes(guest, &writers, &mut faults).await?;
        }
    }
    let mut late = Vec::new();
    if let Some(mut transition) = transition {
        judge_transition(guest, &mut transition, &mut faults).await?;
        late.push(transition);
    }
    if moment == Moment::Returns {
        guest.set_pace(DISK, Pace::Full).await?;
    }
    if matches!(moment, Moment::PowerOff | Moment::Watched) {
        let records = match watch {
            Some(watch) => Some((watched_record(guest, &watch).await?, watch.1)),
            None => None,
        };
        let reads = longest(&guest.workload(&info).await?);
        faults.unless(reads <= info_limit, || too_slow(reads, info_limit));
        let request = Request::StopWorkload { id: writers.id };
        let what = "the end of all writes";
        if let Err((fault, _)) = guest.bounded(what, request, OPERATOR_LIMIT).await? {
            faults.add(fault);
        }
        power_off(guest, &faults).await?;
        faults.finish()?;
        guest.phase("setup");
        guest.mount(COW_HOME, COW_MOUNT, "").await?;
        guest.insert_module().await?;
        if let Some((record, before)) = records {
            expect_remembered(guest, &record, &before).await?;
        }
        // The journal tells the order of writes by a clock that begins anew with each boot.
        return take_judged_image(guest, context, EXPECTED, false).await;
    }

    guest.phase("destroy");
    let unmount = Request::Umount {
        target: CONCERNED_MOUNT.into(),
    };
    let what = "unmounting a filesystem of the origin";
    match guest.bounded(what, unmount, OPERATOR_LIMIT).await? {
        Ok(timing) => {
            guest.note(format!("{what} took {:.1?}", timing.took));
            if let Some(reason) = timing.refusal() {
                faults.add(format!("{what} failed: {reason}"));
            }
        }
        Err((fault, begun)) => {
            faults.add(fault);
            late.push(begun);
        }
    }
    match guest.bounded_control("destroy 0", OPERATOR_LIMIT).await? {
        Ok(timing) => {
            guest.note(format!("destroy took {:.1?}", timing.took));
            if let Some(reason) = timing.refusal() {
                faults.add(format!("destroy failed: {reason}"));
            }
        }
        Err((fault, begun)) => {
            faults.add(fault);
            late.push(begun);
        }
    }
    let reads = longest(&guest.workload(&info).await?);
    faults.unless(reads <= info_limit, || too_slow(reads, info_limit));
    guest.note(format!("info took {reads:.1?} at most"));
    judge_writes(guest, &writers, &mut faults).await?;

    guest.phase("return");
    guest.set_pace(DISK, Pace::Full).await?;
    for mut begun in late {
        if !begun.has_ended() && guest.ended_within(&mut begun, AFTERWARDS).await?.is_none() {
            let what = begun.what();
            faults.add(format!(
                "{what} has not ended {AFTERWARDS:?} after the disk is back"
            ));
        }
    }
    stop(guest, &writers).await?;
    stop(guest, &info).await?;
    faults.finish()?;
    guest.unmount(HOME_MOUNT).await?;
    take_judged_image(guest, context, EXPECTED, true).await
}

async fn prepare(guest: &mut GuestSession<'_, '_>, moment: Moment) -> CaseResult<()> {
    guest.phase("setup");
    let blocked = match moment {
        Moment::Long => LONG_BLOCKED_LIMIT,
        _ => BLOCKED_LIMIT,
    };
    guest.blocked_tasks_may_last(blocked).await?;
    if let Err(reason) = guest
        .set_queue_attribute(DISK_NAME, "nr_requests", FEW_REQUESTS)
        .await?
    {
        return Err(vacuous(&reason));
    }
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.mount(HOME, HOME_MOUNT, "").await?;
    guest.mount(CONCERNED, CONCERNED_MOUNT, "").await?;
    let params = format!("hold_limit_s={HOLD_LIMIT_S} total_cache_mb={TOTAL_CACHE_MIB}");
    guest.insert_module_with(&params).await
}

/// The disk stops at its moment, with writers at work: they, and the transition that has begun by then.
async fn stop_disk(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    moment: Moment,
) -> CaseResult<(Workload, Option<Begun>)> {
    // What the filesystem of the COW file still has to write must not wait for the disk.
    guest.prepare(Request::SyncAll).await?;
    let spec = TimedSpec {
        pause_us: match moment {
            Moment::Long => LONG_PAUSE_US,
            _ => PAUSE_US,
        },
        ..timed(context, 0, WRITERS)
    };
    match moment {
        Moment::Snapshot | Moment::Long | Moment::Returns | Moment::PowerOff => {
            let writers = guest.start_timed(spec).await?;
            done(guest, &writers, BEFORE).await?;
            guest.set_pace(DISK, Pace::Stopped).await?;
            Ok((writers, None))
        }
        Moment::Tracking | Moment::Watched => {
            guest.transition_to_incremental(MINOR).await?;
            // The first write to each region waits for its mark.
            guest.set_pace(DISK, Pace::Stopped).await?;
            Ok((guest.start_timed(spec).await?, None))
        }
        Moment::Transition => {
            guest.transition_to_incremental(MINOR).await?;
            let writers = guest.start_timed(spec).await?;
            done(guest, &writers, BEFORE).await?;
            guest.set_pace(DISK, Pace::Stopped).await?;
            let request = control(
                &format!("transition-to-snapshot -c 4 {MINOR}"),
                OPERATOR_LIMIT + AFTERWARDS,
            );
            let transition = guest.begin("transition-to-snapshot", request).await?;
            Ok((writers, Some(transition)))
        }
    }
}

/// The process that watches, and what is remembered of the series before anything happens.
async fn begin_watch(guest: &mut GuestSession<'_, '_>) -> CaseResult<(Workload, SeriesRecord)> {
    let record = guest.record(MINOR, IMAGE).await?;
    let program = ProgramSpec {
        program: COWBIRDCTL.into(),
        args: vec!["watch".into()],
        input: None,
        as_owner_of: None,
        acknowledges: format!("minor {MINOR}: the record says that tracking is lost"),
        ends_by: EndSignal::Terminate,
    };
    let spec = WorkloadSpec::Programs(ProgramsSpec {
        programs: vec![program],
        device: DISK_NAME.into(),
    });
    Ok((guest.start_workload(spec).await?, record))
}

/// The record as the process has left it.
async fn watched_record(
    guest: &mut GuestSession<'_, '_>,
    (watch, before): &(Workload, SeriesRecord),
) -> CaseResult<SeriesRecord> {
    guest
        .wait_until(watch, "told the record", OPERATOR_LIMIT, |state| {
            state.operations == 1
        })
        .await?;
    guest.stop_workload(watch).await?;
    guest.record_again(before).await
}

/// The record knows that changes were missed, before anybody asks the COW file. Whether that knows it is noted.
async fn expect_remembered(
    guest: &mut GuestSession<'_, '_>,
    record: &SeriesRecord,
    before: &SeriesRecord,
) -> CaseResult<()> {
    guest.put_record(record).await?;
    match guest.reload_all().await? {
        Err(said) if said.contains("were not tracked in an earlier boot") => {
            guest.note(format!("refused as it must be: {said}"));
        }
        Err(said) => {
            return Err(CaseError::Failed(format!(
                "the series is refused, but not for what its record says: {said}"
            )));
        }
        Ok(()) => {
            let reason = "the series goes on, although changes were missed".to_owned();
            return Err(CaseError::Failed(reason));
        }
    }
    guest.put_record(before).await?;
    match guest.reload_all().await? {
        Ok(()) => {
            guest.note("with the record from before the series goes on");
            guest.destroy_snapshot(MINOR).await
        }
        // QEMU does what the disk was given when it ends, and the state LOST is among that.
        Err(said) => {
            guest.note(format!("the COW file was told after all: {said}"));
            Ok(())
        }
    }
}

/// No write waits for longer than it may, and they go on.
async fn judge_writes(
    guest: &mut GuestSession<'_, '_>,
    writers: &Workload,
    faults: &mut Faults,
) -> CaseResult<()> {
    let before = guest.workload(writers).await?;
    let waited = longest(&before);
    let writes = before.operations;
    guest.note(format!(
        "{writes} writes, of which the longest took {waited:.1?}"
    ));
    faults.unless(waited <= LONGEST_WRITE, || {
        format!("a write of the origin waited for {waited:.1?}, more than {LONGEST_WRITE:?}")
    });
    guest.vm().pause(Duration::from_secs(3)).await?;
    let more = guest.workload(writers).await?.operations - writes;
    faults.unless(more >= AFTER, || {
        format!("the origin does not go on: {more} writes in 3 s, less than {AFTER}")
    });
    Ok(())
}

/// The snapshot has failed, or the tracking has ended, and the module says so.
async fn judge_failure(
    guest: &mut GuestSession<'_, '_>,
    moment: Moment,
    faults: &mut Faults,
) -> CaseResult<()> {
    let Some(info) = guest.info_within(OPERATOR_LIMIT).await? else {
        faults.add(format!("info has not ended after {OPERATOR_LIMIT:?}"));
        return Ok(());
    };
    match info.devices.iter().find(|device| device.minor == MINOR) {
        Some(device) if device.error != 0 => {
            guest.note(format!("failed as it must: {}", device.error_text));
        }
        // The transition is refused; changes go on to be tracked.
        Some(device) if moment == Moment::Transition && device.tracks => {
            guest.note(format!("the series goes on as {}", device.state_name));
        }
        Some(device) => faults.add(format!(
            "the snapshot has not failed, it is {}",
            device.state_name
        )),
        None => faults.add("there is no snapshot any more".to_owned()),
    }
    Ok(())
}

/// Taking the next snapshot ends in time, and not with success.
async fn judge_transition(
    guest: &mut GuestSession<'_, '_>,
    transition: &mut Begun,
    faults: &mut Faults,
) -> CaseResult<()> {
    let rest = OPERATOR_LIMIT.saturating_sub(transition.age());
    match guest.ended_within(transition, rest).await? {
        Some(timing) => match timing.refusal() {
            Some(reason) => guest.note(format!(
                "transition-to-snapshot failed after {:.1?}: {reason}",
                timing.took
            )),
            None => faults.add("a snapshot was taken although its disk does not answer".to_owned()),
        },
        None => faults.add(format!(
            "transition-to-snapshot has not ended after {OPERATOR_LIMIT:?}"
        )),
    }
    Ok(())
}

/// The machine goes down in time, and boots again. If it does not, all that was found before is told as well.
async fn power_off(guest: &mut GuestSession<'_, '_>, faults: &Faults) -> CaseResult<()> {
    guest.phase("reboot");
    let within = OPERATOR_LIMIT;
    match guest.reboot(Stop::PowerOffNow { within }).await {
        Err(CaseError::Ended(End::Hang { reason })) => {
            let mut reasons = faults.0.clone();
            reasons.push(reason);
            let reason = reasons.join("; ");
            Err(End::Hang { reason }.into())
        }
        end => end,
    }
}

fn too_slow(reads: Duration, limit: Duration) -> String {
    format!("reading /proc/cowbird-info took {reads:.1?}, more than {limit:.1?}")
}
