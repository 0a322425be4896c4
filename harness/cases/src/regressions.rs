//! What failed once: scripts, one after the other in one boot, each on a volume of its own size and on
//! snapshots of its own.
//!
//! Every block that a script touches is written before its first snapshot, so that the volume does not
//! depend on what ran before: a discard of zeros would show nothing. Each snapshot is copied when its script
//! leaves it, whole.

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::script_runs::{EpochEvidence, ScriptRunEvidence, ScriptRunPlan};
use cowbird_host::disk::Partition;
use cowbird_host::error::HarnessError;
use cowbird_model::{Sector, SectorRange};
use cowbird_proto::message::PerformSpec;
use cowbird_proto::rng::mix;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec};
use cowbird_vm::layout::Layout;
use cowbird_workload::script::MAX_TASK_SECTORS;
use cowbird_workload::{Extent, Op, Script, Sector as Place, Step, Task, Thread, Way};

use crate::context::CaseContext;
use crate::info::{CaseTier, REGRESSIONS, case};
use crate::modules::GUEST_MODULES;
use crate::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use crate::recorded;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Regressions.cases(&[case(
    REGRESSIONS,
    "what failed once, shrunk to a few operations: every file of harness/regressions in one boot",
    CaseTier::Quick,
    &GUEST_MODULES,
    || Layout::raw_without_cow(0),
    |guest, context| Box::pin(act(guest, context)),
)]);

/// The disk of the origin in the guest, and the origin's number on it.
const DISK: &str = "/dev/vda";
const PARTITION: u32 = 1;

/// Preserved blocks kept in memory at most, MiB.
const CACHE_MIB: u32 = 4;

/// The disks for scripts.
pub fn layout(script_runs: &[ScriptRunPlan]) -> Layout {
    let volumes = script_runs
        .iter()
        .map(|script_run| volume_sectors(&script_run.script));
    let epochs: usize = script_runs
        .iter()
        .map(|script_run| script_run.script.epochs() * script_run.times as usize)
        .sum();
    Layout {
        // One alone would lie on a disk that is as large as its origin.
        images: u32::try_from(epochs).unwrap_or(u32::MAX).max(2),
        ..recorded::layout_of(volumes.max().unwrap_or_default())
    }
}

/// Partitions of these disks have 32-bit sizes; so has the plan's reader checked.
fn volume_sectors(script: &Script) -> u32 {
    u32::try_from(script.volume_sectors()).unwrap_or(u32::MAX)
}

/// Plays `regressions`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    if context.script_runs.is_empty() {
        let detail = "there are no regressions to run; harness/regressions holds them".to_owned();
        return Err(HarnessError::Plan { detail }.into());
    }
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;

    guest.phase("scripts");
    let mut images = 0;
    let mut script_runs = Vec::new();
    for plan in &context.script_runs {
        for time in 1..=plan.times {
            let script_run = ScriptRun {
                script: &plan.script,
                partition: Partition {
                    sectors: volume_sectors(&plan.script),
                    ..context.layout.origin()
                },
                seed: mix(context.seed ^ script_runs.len() as u64),
                image_stride_bytes: context.layout.image_stride_bytes(),
            };
            let name = match plan.times {
                1 => plan.name.clone(),
                times => format!("{} ({time} of {times})", plan.name),
            };
            script_runs.push(script_run.run(guest, name, &mut images).await?);
        }
    }
    guest.note(format!(
        "{} script runs of {} scripts",
        script_runs.len(),
        context.script_runs.len()
    ));

    guest.phase("teardown");
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::of(Claim::ScriptRuns(script_runs)))
}

/// One run of one script.
struct ScriptRun<'a> {
    script: &'a Script,
    partition: Partition,
    seed: u64,
    image_stride_bytes: u64,
}

impl ScriptRun<'_> {
    /// What the module did wrong is the script run's end and not the cell's: others follow.
    async fn run(
        &self,
        guest: &mut GuestSession<'_, '_>,
        name: String,
        images: &mut u64,
    ) -> CaseResult<ScriptRunEvidence> {
        guest
            .resize_partition(DISK, PARTITION, self.partition)
            .await?;
        let start = Sector(self.partition.start.into());
        let mut evidence = ScriptRunEvidence {
            name,
            origin: SectorRange::new(start, self.partition.sectors.into()),
            epochs: Vec::new(),
            fault: None,
        };
        match self.play(guest, &mut evidence.epochs, images).await {
            Ok(()) => {}
            Err(CaseError::Failed(reason)) => evidence.fault = Some(reason),
            Err(error) => return Err(error),
        }
        if !guest.info().await?.devices.is_empty() {
            guest.destroy_snapshot(MINOR).await?;
        }
        Ok(evidence)
    }

    async fn play(
        &self,
        guest: &mut GuestSession<'_, '_>,
        epochs: &mut Vec<EpochEvidence>,
        images: &mut u64,
    ) -> CaseResult<()> {
        let mut generation = 0;
        self.perform(guest, self.fill(), &mut generation).await?;
        let mut shown = false;
        for stage in self.script.stages() {
            let observed = self.perform(guest, stage.tasks, &mut generation).await?;
            if let Some(epoch) = epochs.last_mut() {
                epoch.observations.extend(observed);
            }
            if shown {
                self.copy(guest, epochs, images).await?;
            }
            match stage.then {
                Some(Step::Snapshot) => {
                    let marker = guest.setup_snapshot(self.snapshot()).await?;
                    epochs.push(EpochEvidence::new(marker));
                }
                Some(Step::Track) => guest.transition_to_incremental(MINOR).await?,
                Some(Step::Next) => {
                    let marker = guest.transition_to_snapshot(MINOR).await?;
                    let map = Some(guest.changes(MINOR).await?);
                    epochs.push(EpochEvidence {
                        map,
                        ..EpochEvidence::new(marker)
                    });
                }
                Some(Step::Do(_)) | None => {}
            }
            shown = matches!(stage.then, Some(Step::Snapshot | Step::Next));
        }
        Ok(())
    }

    fn snapshot(&self) -> SnapshotSpec {
        SnapshotSpec {
            cache_mib: CACHE_MIB,
            ..snapshot_of(ORIGIN, recorded::cow_mib(self.partition.sectors))
        }
    }

    /// Writes to every block that the script touches.
    fn fill(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for extent in self.script.touched() {
            let mut start = extent.start;
            while start < extent.end() {
                let end = Place(start.0 + MAX_TASK_SECTORS).min(extent.end());
                tasks.push(Task {
                    thread: Thread::new(0),
                    op: Op::Write(Way::Direct),
                    extent: Extent::between(start, end),
                });
                start = end;
            }
        }
        tasks
    }

    async fn perform(
        &self,
        guest: &mut GuestSession<'_, '_>,
        tasks: Vec<Task>,
        generation: &mut u64,
    ) -> CaseResult<Vec<cowbird_proto::message::Observation>> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let first = *generation;
        *generation += tasks.len() as u64;
        guest
            .perform(PerformSpec {
                device: ORIGIN.into(),
                snapshot: SNAPSHOT.into(),
                tasks,
                seed: self.seed,
                generation: first,
            })
            .await
    }

    /// Copies the snapshot behind the images that there are.
    async fn copy(
        &self,
        guest: &mut GuestSession<'_, '_>,
        epochs: &mut [EpochEvidence],
        images: &mut u64,
    ) -> CaseResult<()> {
        guest.active_snapshot(MINOR).await?;
        guest.expect_size(SNAPSHOT, self.partition).await?;
        let at = *images * self.image_stride_bytes;
        guest.copy_device_to(SNAPSHOT, IMAGE, at).await?;
        *images += 1;
        if let Some(epoch) = epochs.last_mut() {
            epoch.image_at = Some(at);
        }
        Ok(())
    }
}
