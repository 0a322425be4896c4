//! Other disks, on which tasks sleep in their submission all the time. Snapshots of a healthy disk are set up,
//! switched and destroyed as fast as without them.

use std::time::{Duration, Instant};

use cowbird_proto::message::{Request, TimedSpec};

use super::{BLOCKED_LIMIT, Faults, ORIGIN_BLOCKS, SPEC, stop, take_judged_image, timed};
use crate::cases::{COW_HOME, COW_MOUNT, MINOR, Setting, vacuous};
use crate::driver::{CaseResult, Driver, Workload};
use crate::verify::Evidence;

/// So many disks, each with one request, which takes so long. Whatever the module tells disks apart by, some of so many
/// are likely to be taken for the origin's.
const DISKS: u32 = 60;
const TAKES: Duration = Duration::from_secs(8);

/// Disks of one workload, and writers of each: one has the request, one sleeps.
const AT_ONCE: u32 = 20;
const WRITERS: u32 = 3;

/// Times that a snapshot is set up, switched and destroyed, without and with the neighbours.
const CYCLES: usize = 2;

/// With them a step takes so many times longer at most, or so much.
const FACTOR: u32 = 3;
const SLACK: Duration = Duration::from_secs(2);

/// Time for the tasks to fall asleep.
const FALL_ASLEEP: Duration = Duration::from_secs(30);

const STEPS: [&str; 4] = [
    "set-up",
    "transition-to-incremental",
    "transition-to-snapshot",
    "destroy",
];

pub(in crate::cases) async fn act(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.blocked_tasks_may_last(BLOCKED_LIMIT).await?;
    guest.insert_module().await?;
    let name = "null_blk".to_owned();
    guest.prepare(Request::RemoveModule { name }).await?;
    let takes = TAKES.as_nanos();
    let request = Request::InsertModule {
        path: "/lib/null_blk.ko".to_owned(),
        params: format!(
            "nr_devices={DISKS} gb=1 no_sched=1 submit_queues=1 hw_queue_depth=1 irqmode=2 completion_nsec={takes}"
        ),
    };
    guest.prepare(request).await?;

    guest.phase("alone");
    let mut alone = [Duration::ZERO; STEPS.len()];
    // The first time everything is new.
    cycle(guest).await?;
    for _ in 0..CYCLES {
        let took = cycle(guest).await?;
        alone = std::array::from_fn(|step| alone[step].max(took[step]));
    }

    guest.phase("neighbours");
    let mut sleepers = Vec::new();
    for first in (0..DISKS).step_by(AT_ONCE as usize) {
        let last = (first + AT_ONCE).min(DISKS);
        let devices: Vec<String> = (first..last).map(|n| format!("/dev/nullb{n}")).collect();
        let spec = TimedSpec {
            writers: WRITERS * devices.len() as u32,
            devices,
            blocks: ORIGIN_BLOCKS,
            ..timed(setting, 0, 0)
        };
        sleepers.push(guest.start_timed(spec).await?);
    }
    for sleeping in &sleepers {
        guest
            .wait_until(sleeping, "tasks that sleep", FALL_ASLEEP, |state| {
                state.waiting >= AT_ONCE * (WRITERS - 1)
            })
            .await?;
    }
    let mut faults = Faults::default();
    for _ in 0..CYCLES {
        let took = cycle(guest).await?;
        guest.note(format!("alone {alone:.1?}, with neighbours {took:.1?}"));
        for ((step, took), alone) in STEPS.iter().zip(took).zip(alone) {
            let limit = (alone * FACTOR).max(alone + SLACK);
            faults.unless(took <= limit, || {
                format!("{step} took {took:.1?} beside disks that sleep, {alone:.1?} alone")
            });
        }
    }
    still_asleep(guest, &sleepers).await?;
    for sleeping in &sleepers {
        stop(guest, sleeping).await?;
    }
    faults.finish()?;
    take_judged_image(guest, setting, &[], true).await
}

async fn still_asleep(guest: &mut Driver<'_, '_>, sleepers: &[Workload]) -> CaseResult<()> {
    for sleeping in sleepers {
        if guest.workload(sleeping).await?.waiting < AT_ONCE {
            return Err(vacuous("the neighbours do not sleep"));
        }
    }
    Ok(())
}

/// How long each of [`STEPS`] takes.
async fn cycle(guest: &mut Driver<'_, '_>) -> CaseResult<[Duration; STEPS.len()]> {
    let mut took = [Duration::ZERO; STEPS.len()];
    let begin = Instant::now();
    guest.setup_snapshot(SPEC).await?;
    took[0] = begin.elapsed();
    let begin = Instant::now();
    guest.transition_to_incremental(MINOR).await?;
    took[1] = begin.elapsed();
    let begin = Instant::now();
    guest.transition_to_snapshot(MINOR).await?;
    took[2] = begin.elapsed();
    let begin = Instant::now();
    guest.destroy_snapshot(MINOR).await?;
    took[3] = begin.elapsed();
    let path = SPEC.cow_file.to_owned();
    guest.try_request(Request::RemoveFile { path }).await?.ok();
    Ok(took)
}
