//! Other disks, on which tasks sleep in their submission all the time. Snapshots of a healthy disk are set up,
//! switched and destroyed as fast as without them.
//!
//! The disks are many devices above one that does not answer: whoever submits to one of them sleeps below it.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, MINOR};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_host::nature::FurtherDisk;
use cowbird_proto::message::{Request, StackKind, TimedSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{Begun, CaseError, CaseResult, GuestSession, Pace, vacuous};
use cowbird_vm::layout::Layout;

use super::{
    AFTERWARDS, COW_DISK, COW_HOME_MIB, Faults, OPERATOR_LIMIT, ORIGIN_SECTORS, SPEC, stop,
    take_judged_image, timed,
};

/// The case of this file.
pub static CASES: CasesOf = Subject::Waiting.cases(&[case(
    "stuck-neighbours",
    "snapshots of a healthy disk beside others on which tasks sleep all the time",
    CaseTier::Daily,
    &modules(["dm_mod"]),
    layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::StoppedDisk])]);

/// The disk that does not answer, and its first partition.
const DISK_NAME: &str = "vdc";
const BELOW: &str = "/dev/vdc1";

/// With so few requests nearly all who submit sleep.
const FEW_REQUESTS: &str = "4";

/// So many devices are above it. Whatever the module tells disks apart by, some of so many are likely to be taken for the
/// origin's.
const DEVICES: u32 = 60;

/// So many tasks sleep at least: one for each device, but for those that have the requests.
const SLEEP: u32 = 50;

/// Times that a snapshot is set up, switched and destroyed, without and with the neighbours.
const CYCLES: usize = 2;

/// With them a step takes so many times longer at most, or so much.
const FACTOR: u32 = 3;
const SLACK: Duration = Duration::from_secs(2);

/// Time for the tasks to fall asleep.
const FALL_ASLEEP: Duration = Duration::from_secs(30);

/// The kernel must not complain of tasks that sleep because they are meant to.
const MAY_SLEEP: Duration = Duration::from_secs(300);

const STEPS: usize = 4;

/// What the control tool is told in one cycle.
fn steps() -> [String; STEPS] {
    let (origin, file, mib, cache) = (SPEC.origin, SPEC.cow_file, SPEC.cow_mib, SPEC.cache_mib);
    [
        format!("setup-snapshot -c {cache} -f {mib} {origin} {file} {MINOR}"),
        format!("transition-to-incremental {MINOR}"),
        format!("transition-to-snapshot -c {cache} {MINOR}"),
        format!("destroy {MINOR}"),
    ]
}

/// The disks of `stuck-neighbours`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `stuck-neighbours`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.blocked_tasks_may_last(MAY_SLEEP).await?;
    let few = guest.set_queue_attribute(DISK_NAME, "nr_requests", FEW_REQUESTS);
    few.await?.map_err(CaseError::Failed)?;
    guest.insert_module().await?;
    let paths = guest.stack(&[BELOW], StackKind::Many(DEVICES)).await?;
    let devices: Vec<String> = paths.split_whitespace().map(str::to_owned).collect();

    guest.phase("alone");
    let mut alone = [Duration::ZERO; STEPS];
    // The first time everything is new.
    for number in 0..=CYCLES {
        let took = cycle(guest).await?;
        let took = took.map_err(|(fault, _)| CaseError::Failed(fault))?;
        if number > 0 {
            alone = std::array::from_fn(|step| alone[step].max(took[step]));
        }
    }

    guest.phase("neighbours");
    guest.set_pace(COW_DISK, Pace::Stopped).await?;
    let spec = TimedSpec {
        devices,
        ..timed(context, 0, DEVICES)
    };
    let sleepers = guest.start_timed(spec).await?;
    guest
        .wait_until(&sleepers, "tasks that sleep", FALL_ASLEEP, |state| {
            state.waiting >= SLEEP
        })
        .await?;
    let mut faults = Faults::default();
    let mut late = None;
    for _ in 0..CYCLES {
        match cycle(guest).await? {
            Ok(took) => judge(guest, &mut faults, took, alone),
            Err((fault, begun)) => {
                faults.add(format!("beside disks that sleep {fault}"));
                late = Some(begun);
                break;
            }
        }
    }
    if guest.workload(&sleepers).await?.waiting < SLEEP {
        return Err(vacuous("the neighbours do not sleep"));
    }
    guest.set_pace(COW_DISK, Pace::Full).await?;
    if let Some(mut begun) = late.filter(|begun| !begun.has_ended())
        && guest.ended_within(&mut begun, AFTERWARDS).await?.is_none()
    {
        let what = begun.what();
        faults.add(format!(
            "{what} has not ended {AFTERWARDS:?} after the disk is back"
        ));
    }
    stop(guest, &sleepers).await?;
    faults.finish()?;
    guest.unstack(StackKind::Many(DEVICES)).await?;
    take_judged_image(guest, context, &[], false).await
}

fn judge(
    guest: &mut GuestSession<'_, '_>,
    faults: &mut Faults,
    took: [Duration; STEPS],
    alone: [Duration; STEPS],
) {
    guest.note(format!("alone {alone:.1?}, with neighbours {took:.1?}"));
    for ((step, took), alone) in steps().iter().zip(took).zip(alone) {
        let limit = (alone * FACTOR).max(alone + SLACK);
        faults.unless(took <= limit, || {
            format!("{step} took {took:.1?} beside disks that sleep, {alone:.1?} alone")
        });
    }
}

/// How long each of [`steps`] takes; or which does not end.
async fn cycle(
    guest: &mut GuestSession<'_, '_>,
) -> CaseResult<Result<[Duration; STEPS], (String, Begun)>> {
    let mut took = [Duration::ZERO; STEPS];
    for (step, arguments) in steps().iter().enumerate() {
        match guest.bounded_control(arguments, OPERATOR_LIMIT).await? {
            Ok(timing) => {
                if let Some(reason) = timing.refusal() {
                    return Err(CaseError::Failed(format!("{arguments}: {reason}")));
                }
                took[step] = timing.took;
            }
            Err(late) => return Ok(Err(late)),
        }
    }
    let path = SPEC.cow_file.to_owned();
    guest.try_request(Request::RemoveFile { path }).await?.ok();
    Ok(Ok(took))
}
