//! Script runs: one run of one script each, many of them in one guest. What they are to do, what they leave, and
//! how each is judged.
//!
//! All lie in one witness. The origin at the instant of a script run is the disk before the boot and all that was
//! written up to that instant, by the script runs before it too; its image is judged as that of any snapshot.

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_model::{BlockSet, MarkerKey, Oracle, SectorRange};
use cowbird_proto::message::Observation;
use cowbird_workload::Script;
use serde::{Deserialize, Serialize};

use crate::change_map::ChangeMap;
use crate::exhibits::Disk;
use crate::judgement::{Judgement, ScriptRunOutcome, nothing_judged};
use crate::mapped::{DISCARD_MODEL, map, untrusted};

/// Script runs of one boot at most; whoever wants more boots again.
pub const MAX_SCRIPT_RUNS: u32 = 200;

/// The largest volume of a script, sectors: 512 MiB.
pub const MAX_VOLUME_SECTORS: u64 = 1 << 20;

/// A script, and how often it is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptRunPlan {
    /// What to call it.
    pub name: String,
    /// What is done.
    pub script: Script,
    /// How often.
    pub times: u32,
}

impl ScriptRunPlan {
    /// Whether a guest can do all of these.
    ///
    /// # Errors
    /// When there are too many, or one has too large a volume.
    pub fn check(plans: &[Self]) -> HarnessResult<()> {
        let fault = |detail: String| Err(HarnessError::Plan { detail });
        let script_runs = plans
            .iter()
            .fold(0_u32, |sum, plan| sum.saturating_add(plan.times));
        if script_runs > MAX_SCRIPT_RUNS {
            return fault(format!(
                "{script_runs} script runs in one boot; {MAX_SCRIPT_RUNS} are the most"
            ));
        }
        let sectors = |plan: &&Self| plan.script.volume_sectors() > MAX_VOLUME_SECTORS;
        match plans.iter().find(sectors) {
            None => Ok(()),
            Some(plan) => fault(format!(
                "the volume of {} has {} sectors; {MAX_VOLUME_SECTORS} are the most",
                plan.name,
                plan.script.volume_sectors()
            )),
        }
    }
}

/// What a script run leaves.
#[derive(Debug, Clone)]
pub struct ScriptRunEvidence {
    /// What to call it.
    pub name: String,
    /// Its volume on the first disk.
    pub origin: SectorRange,
    /// Its snapshots.
    pub epochs: Vec<EpochEvidence>,
    /// What the module did wrong, where that ended the script.
    pub fault: Option<String>,
}

/// What one snapshot of a script run leaves.
#[derive(Debug, Clone)]
pub struct EpochEvidence {
    /// Identifies its instant.
    pub marker: MarkerKey,
    /// Where its image lies on the second disk, bytes; none if the script ended before.
    pub image_at: Option<u64>,
    /// The change map that leads to it.
    pub map: Option<ChangeMap>,
    /// Reads that differed from a later one.
    pub observations: Vec<Observation>,
}

impl EpochEvidence {
    /// A snapshot of which there is nothing yet.
    #[must_use]
    pub fn new(marker: MarkerKey) -> Self {
        Self {
            marker,
            image_at: None,
            map: None,
            observations: Vec::new(),
        }
    }
}

/// Judges each script run by itself; the cell has the faults of all.
pub(crate) fn check(
    script_runs: &[ScriptRunEvidence],
    disk: &Disk<'_>,
    judgement: &mut Judgement,
) -> HarnessResult<()> {
    if script_runs.is_empty() {
        return Err(nothing_judged("there is no script run"));
    }
    let images = map(&disk.files.image())?;
    for script_run in script_runs {
        let mut of_one = Judgement::default();
        if let Some(fault) = &script_run.fault {
            of_one.fault(fault.clone());
        }
        for epoch in &script_run.epochs {
            epoch.check(script_run, disk, &images, &mut of_one)?;
        }
        judgement.script_runs.push(ScriptRunOutcome {
            name: script_run.name.clone(),
            faults: of_one.faults.clone(),
            classes: of_one.classes.clone(),
        });
        judgement.take_volume(&script_run.name, of_one);
    }
    Ok(())
}

impl EpochEvidence {
    fn check(
        &self,
        script_run: &ScriptRunEvidence,
        disk: &Disk<'_>,
        images: &[u8],
        judgement: &mut Judgement,
    ) -> HarnessResult<()> {
        let none = BlockSet::new();
        if let Some(map) = &self.map {
            judgement.check_map(disk.base, &disk.log, script_run.origin, &none, map)?;
        }
        let Some(marker) = judgement.find(&disk.log, &self.marker) else {
            return Ok(());
        };
        let Some(at) = self.image_at else {
            return Ok(());
        };
        let oracle = Oracle::new(
            disk.base,
            &disk.log,
            marker,
            script_run.origin,
            &none,
            DISCARD_MODEL,
        )
        .map_err(|error| untrusted(&error))?;
        let (start, bytes) = (at as usize, script_run.origin.bytes() as usize);
        let image = images.get(start..start + bytes).unwrap_or_default();
        let report = oracle.verify(image).map_err(|error| untrusted(&error))?;
        judgement.take_report(&report);
        judgement.take_observations(&oracle, &report, &self.observations, 0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(volume_sectors: u64, times: u32) -> ScriptRunPlan {
        let steps = vec!["snapshot".parse().expect("a step")];
        ScriptRunPlan {
            name: "x".into(),
            script: Script::new(volume_sectors, steps).expect("a script"),
            times,
        }
    }

    #[test]
    fn what_no_guest_can_do_is_refused() {
        let refused =
            |plans: &[ScriptRunPlan]| ScriptRunPlan::check(plans).map_err(|e| e.to_string());
        assert_eq!(refused(&[plan(2048, 150), plan(2048, 50)]), Ok(()));
        let error = refused(&[plan(2048, 150), plan(2048, u32::MAX)]).unwrap_err();
        assert!(error.contains("script runs in one boot"), "{error}");
        let error = refused(&[plan(MAX_VOLUME_SECTORS + 1, 1)]).unwrap_err();
        assert!(error.contains("the volume of x"), "{error}");
    }

    /// Goal: a plan is read back from the JSON of a bundle, and one without sense is not.
    #[test]
    fn a_plan_is_read_back() {
        let json = serde_json::to_string(&plan(2048, 3)).expect("it fits");
        assert_eq!(
            serde_json::from_str::<ScriptRunPlan>(&json).expect("its own"),
            plan(2048, 3)
        );
        let senseless = json.replace("snapshot", "next");
        let error = serde_json::from_str::<ScriptRunPlan>(&senseless).unwrap_err();
        assert!(error.to_string().contains("does not follow"), "{error}");
    }
}
