//! The module is unloaded while tasks sleep in the block layer, on their way through the hook: it must wait for them
//! or refuse, and they must come back to code that is there. In every third round there is a snapshot of the origin, which
//! is destroyed first, under the same sleepers.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, MINOR};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_proto::message::{Request, TimedMode, TimedSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    Begun, CaseError, CaseResult, GuestSession, Pace, Workload, longest, vacuous,
};

use super::groups::{self, SLOW};
use super::{AFTERWARDS, Faults, OPERATOR_LIMIT, SPEC, take_judged_image, timed};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Waiting.cases(&[
    case(
        "unload-asleep",
        "the module is unloaded while readers and writers sleep for a request of the queue",
        CaseTier::Daily,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context, Sleep::Requests)),
    )
    .making(&[Fault::SlowDisk]),
    case(
        "unload-asleep-frozen",
        "the same with tasks that sleep because the queue is frozen",
        CaseTier::Full,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context, Sleep::FrozenQueue)),
    )
    .making(&[Fault::StoppedDisk]),
    case(
        "unload-asleep-wbt",
        "the same with writeback that is throttled",
        CaseTier::Full,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context, Sleep::Writeback)),
    )
    .making(&[Fault::SlowDisk]),
    case(
        "unload-asleep-iocost",
        "the same with processes in a group that iocost lets do little",
        CaseTier::Full,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context, Sleep::Cost)),
    )
    .making(&[Fault::SlowDisk, Fault::LimitedGroup]),
    case(
        "unload-asleep-io-max",
        "the same with processes in a group that io.max lets do little",
        CaseTier::Full,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context, Sleep::Maximum)),
    )
    .making(&[Fault::SlowDisk, Fault::LimitedGroup]),
]);

/// The first disk.
const DISK: usize = 0;
const DISK_NAME: &str = "vda";

/// Rounds, where nothing else is asked for.
const ROUNDS: u32 = 4;

/// Who sleeps in a round: readers and writers, in turn. The module has to know of both.
const SLEEPERS: [(u32, u32); 4] = [(16, 0), (0, 16), (16, 16), (16, 16)];

/// One round of so many destroys a snapshot: another kind of sleepers each time, as there are more kinds.
const DESTROYS: u32 = 3;

/// A snapshot that is destroyed while its disk does next to nothing says so: its COW file is on the same disk.
const SAYS: ExpectedLog = &[
    "I/O that Cowbird submitted has not completed",
    "its COW file still says that changes are tracked",
    "cannot write the tracking state to the COW file",
    "has ended, but I/O of its own has not",
    "waited for more than",
];

/// Requests that the queue has; more must wait for one.
const FEW_REQUESTS: &str = "4";

/// Another number of them in each round, to freeze the queue: the kernel does nothing when it stays the same.
const SOME_REQUESTS: u32 = 64;

/// Time for the tasks to fall asleep, and for unloading to see them.
const FALL_ASLEEP: Duration = Duration::from_secs(20);
const SEEN: Duration = Duration::from_secs(5);

/// After they have woken up: a task that returns into nothing is seen in so much time.
const WAKE_UP: Duration = Duration::from_secs(2);

/// The kernel must not complain of tasks that sleep because they are meant to.
const MAY_SLEEP: Duration = Duration::from_secs(300);

/// The refusals that a module in use has: `EAGAIN`, `EBUSY`.
const IN_USE: [i32; 2] = [11, 16];

/// What the disk can do by iocost's model, operations in a second.
const LITTLE: u64 = 1;
/// The least that `io.max` takes.
const LEAST: &str = "2";
const MUCH: u64 = 1_000_000;

/// Why they sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// All requests of the queue are in use, and one ends in a second.
    Requests,
    /// Somebody changes the queue, for which it is frozen until all requests have ended; none does.
    FrozenQueue,
    /// Writeback is throttled, so that reads have short latencies.
    Writeback,
    /// The group that they are in may do very little, by the cost of it.
    Cost,
    /// The group that they are in may do very little, by the number of it.
    Maximum,
}

impl Sleep {
    /// How many tasks sleep, of so many: processes in a group are fewer.
    fn tasks(self, (readers, writers): (u32, u32)) -> (u32, u32) {
        match self {
            Self::Requests | Self::FrozenQueue => (readers, writers),
            // Direct writes are not throttled, and reads neither.
            Self::Writeback => (0, 16),
            Self::Cost | Self::Maximum => (readers / 4, writers / 4),
        }
    }

    /// Whether the journal has all that is written.
    fn is_in_journal(self) -> bool {
        !matches!(self, Self::Cost | Self::Maximum)
    }

    fn spec(self, context: &CaseContext, round: (u32, u32)) -> TimedSpec {
        let (readers, writers) = self.tasks(round);
        let (mode, group) = match self {
            Self::Requests | Self::FrozenQueue => (TimedMode::Direct, None),
            Self::Writeback => (TimedMode::Synced, None),
            Self::Cost | Self::Maximum => (TimedMode::Grouped(1), Some(SLOW.to_owned())),
        };
        TimedSpec {
            mode,
            group,
            ..timed(context, readers, writers)
        }
    }
}

/// Plays `unload-asleep`, `unload-asleep-frozen` and others.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    sleep: Sleep,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.blocked_tasks_may_last(MAY_SLEEP).await?;
    if let Err(reason) = prepare(guest, sleep).await? {
        return Err(CaseError::Unsupported(reason));
    }
    let mut faults = Faults::default();
    guest.phase("unload");
    let rounds = context.cuts.unwrap_or(ROUNDS);
    for (number, sleepers) in (0..rounds).zip(SLEEPERS.into_iter().cycle()) {
        guest.insert_module().await?;
        let round = Round {
            sleepers,
            requests: SOME_REQUESTS + number,
            destroys: number % DESTROYS == 1,
        };
        unload(guest, context, sleep, round, &mut faults).await?;
    }
    faults.finish()?;
    guest.insert_module().await?;
    take_judged_image(guest, context, SAYS, sleep.is_in_journal()).await
}

/// Settings that stay for all rounds; why this kernel does not have them, if it does not.
async fn prepare(guest: &mut GuestSession<'_, '_>, sleep: Sleep) -> CaseResult<Result<(), String>> {
    match sleep {
        Sleep::Requests => {
            guest
                .set_queue_attribute(DISK_NAME, "nr_requests", FEW_REQUESTS)
                .await
        }
        Sleep::FrozenQueue => Ok(Ok(())),
        Sleep::Writeback => {
            guest
                .set_queue_attribute(DISK_NAME, "wbt_lat_usec", "100")
                .await
        }
        Sleep::Cost => {
            let limits = [
                groups::model(LITTLE),
                groups::cost(),
                groups::weight(SLOW, 1),
            ];
            groups::make(guest, &limits).await
        }
        Sleep::Maximum => groups::make(guest, &[groups::maximum(SLOW, LEAST)]).await,
    }
}

/// Lets a group do much, or little again.
async fn allow(guest: &mut GuestSession<'_, '_>, sleep: Sleep, much: bool) -> CaseResult<()> {
    let limit = match (sleep, much) {
        (Sleep::Cost, true) => groups::model(MUCH),
        (Sleep::Cost, false) => groups::model(LITTLE),
        (Sleep::Maximum, true) => groups::maximum(SLOW, "max"),
        (Sleep::Maximum, false) => groups::maximum(SLOW, LEAST),
        _ => return Ok(()),
    };
    let set = groups::set(guest, &limit).await?;
    set.map_err(CaseError::Failed)
}

/// One time that the module is unloaded.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Readers and writers.
    sleepers: (u32, u32),
    /// Requests of the queue, where changing them is what freezes it.
    requests: u32,
    /// Whether there is a snapshot, which is destroyed before.
    destroys: bool,
}

/// One round: tasks fall asleep, the module is unloaded, they wake up.
async fn unload(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    sleep: Sleep,
    round: Round,
    faults: &mut Faults,
) -> CaseResult<()> {
    if round.destroys {
        guest.setup_snapshot(SPEC).await?;
    }
    let pace = match sleep {
        Sleep::FrozenQueue => Pace::Stopped,
        _ => Pace::Operations(1),
    };
    guest.set_pace(DISK, pace).await?;
    allow(guest, sleep, false).await?;
    let mut freezer = None;
    if sleep == Sleep::FrozenQueue {
        // These have the requests that the queue must be rid of before it is frozen.
        let first = guest.start_timed(timed(context, 2, 0)).await?;
        asleep(guest, &first, 1).await?;
        let request = Request::WriteText {
            path: format!("/sys/block/{DISK_NAME}/queue/nr_requests"),
            text: round.requests.to_string(),
        };
        freezer = Some((guest.begin("freezing the queue", request).await?, first));
        guest.vm().pause(WAKE_UP).await?;
    }
    let sleepers = guest
        .start_timed(sleep.spec(context, round.sleepers))
        .await?;
    let (readers, writers) = sleep.tasks(round.sleepers);
    asleep(guest, &sleepers, (readers + writers) / 2).await?;
    if round.destroys {
        destroy(guest, faults).await?;
    }

    let name = "cowbird".to_owned();
    let mut unloading = guest
        .begin("unloading", Request::RemoveModule { name })
        .await?;
    let early = guest.ended_within(&mut unloading, SEEN).await?;
    let waiting = guest.workload(&sleepers).await?.waiting;
    let how = match &early {
        None => "waits".to_owned(),
        Some(timing) => match timing.refusal() {
            None => format!("has ended after {:.1?}", timing.took),
            Some(reason) => format!("is refused: {reason}"),
        },
    };
    guest.note(format!(
        "{readers} readers and {writers} writers, of which {waiting} sleep: unloading {how}"
    ));
    if let Some(timing) = &early
        && let Err(error) = &timing.result
        && !error.errno.is_some_and(|errno| IN_USE.contains(&errno))
    {
        faults.add(format!("unloading was refused for another reason: {error}"));
    }

    guest.set_pace(DISK, Pace::Full).await?;
    allow(guest, sleep, true).await?;
    if let Some((mut freezer, first)) = freezer {
        must_end(guest, &mut freezer, faults).await?;
        guest.stop_workload(&first).await?;
    }
    let state = guest.stop_workload(&sleepers).await?;
    let slept = longest(&state);
    guest.note(format!("the longest sleep was {slept:.1?}"));
    guest.vm().pause(WAKE_UP).await?;
    match early {
        None => must_end(guest, &mut unloading, faults).await?,
        Some(timing) if timing.result.is_err() => {
            let name = "cowbird".to_owned();
            let request = Request::RemoveModule { name };
            let mut again = guest.begin("unloading at last", request).await?;
            must_end(guest, &mut again, faults).await?;
        }
        Some(_) => {}
    }
    if round.destroys {
        // Where its own I/O has not ended in time, the tool has left the file to the operator.
        let path = SPEC.cow_file.to_owned();
        guest.try_request(Request::RemoveFile { path }).await?.ok();
    }
    Ok(())
}

/// Destroys the snapshot, whatever sleeps.
async fn destroy(guest: &mut GuestSession<'_, '_>, faults: &mut Faults) -> CaseResult<()> {
    let command = format!("destroy {MINOR}");
    match guest.bounded_control(&command, OPERATOR_LIMIT).await? {
        Ok(timing) => {
            guest.note(format!("destroy took {:.1?}", timing.took));
            if let Some(reason) = timing.refusal() {
                faults.add(format!("destroy failed: {reason}"));
            }
        }
        Err((fault, _)) => faults.add(fault),
    }
    Ok(())
}

/// Waits until so many tasks sleep.
async fn asleep(guest: &mut GuestSession<'_, '_>, tasks: &Workload, count: u32) -> CaseResult<()> {
    let state = guest
        .wait_until(tasks, "tasks that sleep", FALL_ASLEEP, |state| {
            state.waiting >= count.max(1)
        })
        .await?;
    if state.waiting < count {
        return Err(vacuous("nobody sleeps"));
    }
    Ok(())
}

/// Something that nothing keeps any more must end, and well.
async fn must_end(
    guest: &mut GuestSession<'_, '_>,
    begun: &mut Begun,
    faults: &mut Faults,
) -> CaseResult<()> {
    let ended = guest.ended_within(begun, AFTERWARDS).await?;
    match ended.map(|timing| timing.refusal()) {
        Some(None) => {}
        Some(Some(reason)) => faults.add(format!("{} failed: {reason}", begun.what())),
        None => faults.add(format!(
            "{} has not ended {AFTERWARDS:?} after the last sleeper has gone",
            begun.what()
        )),
    }
    Ok(())
}
