//! Two control groups write to the origin of one snapshot for the first time, and one of them may do next to nothing.
//! The other one does not wait for it: neither where the slow group has a few writes under way, nor where it has more
//! than a snapshot lets wait.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_proto::message::{TimedMode, TimedSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, Workload, vacuous};

use super::groups::{self, NORMAL, SLOW};
use super::{Faults, SPEC, evidence, stop, timed};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Waiting.cases(&[
    case(
        "throttled-cgroup",
        "two control groups that overwrite one origin, of which one may do next to nothing",
        CaseTier::Full,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act(guest, context)),
    )
    .making(&[Fault::LimitedGroup]),
    case(
        "throttled-cgroup-crowd",
        "two control groups that overwrite one origin, of which one may do next to nothing and has 2,100 writes under way",
        CaseTier::Full,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(act_crowd(guest, context)),
    )
    .making(&[Fault::LimitedGroup]),
]);

/// What the disk can do by iocost's model, operations in a second; and what ends all waiting.
const OPERATIONS: u64 = 100;
const MUCH: u64 = 1_000_000;

/// Processes of each group, and the blocks of one group in one stretch.
const PROCESSES: u32 = 4;
const BLOCKS: u64 = 2700;

/// A stretch of time for a figure.
const STRETCH: Duration = Duration::from_secs(10);

/// Time for the slow group to be at its limit.
const SETTLE: Duration = Duration::from_secs(3);

/// Beside the slow group the other one is so many times slower at most.
const SLOWER: f64 = 3.0;

/// The kernel must not complain of processes that are meant to wait.
const MAY_SLEEP: Duration = Duration::from_secs(300);

/// Held writes above which the module slows writers.
const MANY: u32 = 1000;

/// Processes of the slow group, and writes that each of them has under way, where it has more than so many. One task
/// that is slowed goes on with one more write every five seconds: it takes many for the group to stay above.
const CROWD: Load = Load {
    processes: 30,
    depth: 70,
};

/// What a group does.
#[derive(Clone, Copy)]
struct Load {
    processes: u32,
    depth: u32,
}

const FEW: Load = Load {
    processes: PROCESSES,
    depth: 1,
};

/// Plays `throttled-cgroup`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    play(guest, context, FEW).await
}

/// Plays `throttled-cgroup-crowd`.
async fn act_crowd(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    play(guest, context, CROWD).await
}

async fn play(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    load: Load,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.blocked_tasks_may_last(MAY_SLEEP).await?;
    guest.insert_module().await?;
    let limits = [
        groups::model(OPERATIONS),
        groups::cost(),
        groups::weight(SLOW, 1),
        groups::weight(NORMAL, 10_000),
    ];
    if let Err(reason) = groups::make(guest, &limits).await? {
        return Err(CaseError::Unsupported(reason));
    }
    guest.phase("snapshot");
    let marker = guest.setup_snapshot(SPEC).await?;

    guest.phase("overwrite");
    let normal = start(guest, context, NORMAL, 0, FEW).await?;
    guest.vm().pause(SETTLE).await?;
    let alone = pace(guest, &normal).await?;
    stop(guest, &normal).await?;
    let slow = start(guest, context, SLOW, 1, load).await?;
    let normal = start(guest, context, NORMAL, 2, FEW).await?;
    guest.vm().pause(SETTLE).await?;
    let before = guest.workload(&slow).await?.operations;
    let beside = pace(guest, &normal).await?;
    let state = guest.workload(&slow).await?;
    let held = guest.active_snapshot(MINOR).await?.held_bios;
    let crawls = (state.operations - before) as f64 / STRETCH.as_secs_f64();
    let figures = format!(
        "{alone:.1} writes/s alone, {beside:.1}/s beside a slow group with {crawls:.1}/s, of which {} wait, with {held} writes held",
        state.waiting
    );
    guest.note(figures.clone());
    groups::set(guest, &groups::model(MUCH))
        .await?
        .map_err(CaseError::Failed)?;
    stop(guest, &slow).await?;
    stop(guest, &normal).await?;
    let mut faults = Faults::default();
    faults.unless(beside * SLOWER >= alone, || {
        format!("a slow group slows the other one down: {figures}")
    });
    faults.finish()?;
    if state.waiting == 0 {
        return Err(vacuous("the slow group does not wait"));
    }
    if load.depth > 1 && held <= MANY {
        return Err(vacuous(
            "the slow group has fewer writes under way than slow writers down",
        ));
    }

    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.active_snapshot(MINOR).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence(context, marker, &[], false))
}

/// Writers of a group, to blocks that nobody else writes.
async fn start(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    group: &str,
    stretch: u64,
    load: Load,
) -> CaseResult<Workload> {
    let spec = TimedSpec {
        first_block: stretch * BLOCKS,
        blocks: BLOCKS,
        mode: TimedMode::Grouped(load.depth),
        group: Some(group.to_owned()),
        ..timed(context, 0, load.processes)
    };
    guest.start_timed(spec).await
}

/// Writes in a second.
async fn pace(guest: &mut GuestSession<'_, '_>, writers: &Workload) -> CaseResult<f64> {
    let before = guest.workload(writers).await?;
    guest.vm().pause(STRETCH).await?;
    let after = guest.workload(writers).await?;
    if after.threads_running == 0 {
        return Err(vacuous("the writers had written everything"));
    }
    Ok((after.operations - before.operations) as f64 / STRETCH.as_secs_f64())
}
