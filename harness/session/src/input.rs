//! What the plan of a cell gives to its case.

use std::time::Duration;

use cowbird_checks::recorded::WorkloadPlan;
use cowbird_checks::script_runs::ScriptRunPlan;
use serde::{Deserialize, Serialize};

/// What a case is given besides its name. In JSON it has the fields of [`Fields`], whatever it is, so that a bundle of
/// any version can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub enum CaseInput {
    /// A case that decides itself what it does: how long and how often, where the user says so.
    Lengths {
        /// How long the long load goes on, minutes; none: as long as its case says.
        soak_minutes: Option<u32>,
        /// How many snapshot instants a case with writers above the origin has; none: as many as the case says.
        cuts: Option<u32>,
    },
    /// The case that replays a recorded workload.
    Workload(WorkloadPlan),
    /// The case that runs scripts.
    ScriptRuns(Vec<ScriptRunPlan>),
}

impl CaseInput {
    /// A case that is as it says itself.
    pub const USUAL: Self = Self::Lengths {
        soak_minutes: None,
        cuts: None,
    };

    /// The recorded workload.
    #[must_use]
    pub fn workload(&self) -> Option<&WorkloadPlan> {
        match self {
            Self::Workload(workload) => Some(workload),
            Self::Lengths { .. } | Self::ScriptRuns(_) => None,
        }
    }

    /// The scripts.
    #[must_use]
    pub fn script_runs(&self) -> &[ScriptRunPlan] {
        match self {
            Self::ScriptRuns(script_runs) => script_runs,
            Self::Lengths { .. } | Self::Workload(_) => &[],
        }
    }

    /// How long the long load goes on, minutes, if the plan says.
    #[must_use]
    pub fn soak_minutes(&self) -> Option<u32> {
        match self {
            Self::Lengths { soak_minutes, .. } => *soak_minutes,
            Self::Workload(_) | Self::ScriptRuns(_) => None,
        }
    }

    /// The same as a time.
    #[must_use]
    pub fn soak(&self) -> Option<Duration> {
        let minutes = self.soak_minutes()?;
        Some(Duration::from_secs(u64::from(minutes) * 60))
    }

    /// How many snapshot instants there are, if the plan says.
    #[must_use]
    pub fn cuts(&self) -> Option<u32> {
        match self {
            Self::Lengths { cuts, .. } => *cuts,
            Self::Workload(_) | Self::ScriptRuns(_) => None,
        }
    }
}

/// The same in `plan.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Fields {
    workload: Option<WorkloadPlan>,
    soak_minutes: Option<u32>,
    cuts: Option<u32>,
    #[serde(rename = "trials")]
    script_runs: Vec<ScriptRunPlan>,
}

impl TryFrom<Fields> for CaseInput {
    type Error = &'static str;

    /// Lengths beside a workload or scripts mean nothing: earlier versions wrote those of a run into the plan of every cell.
    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        match (fields.workload, fields.script_runs) {
            (Some(_), script_runs) if !script_runs.is_empty() => {
                Err("no case has both a recorded workload and scripts")
            }
            (Some(workload), _) => Ok(Self::Workload(workload)),
            (None, script_runs) if !script_runs.is_empty() => Ok(Self::ScriptRuns(script_runs)),
            (None, _) => Ok(Self::Lengths {
                soak_minutes: fields.soak_minutes,
                cuts: fields.cuts,
            }),
        }
    }
}

impl From<CaseInput> for Fields {
    fn from(input: CaseInput) -> Self {
        let fields = Self::default();
        match input {
            CaseInput::Lengths { soak_minutes, cuts } => Self {
                soak_minutes,
                cuts,
                ..fields
            },
            CaseInput::Workload(workload) => Self {
                workload: Some(workload),
                ..fields
            },
            CaseInput::ScriptRuns(script_runs) => Self {
                script_runs,
                ..fields
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    /// Goal: plans of earlier versions are read as what they meant, and what none of them can mean is refused.
    #[test]
    fn earlier_plans_are_read() {
        let workload = json!({"file": "w", "timing": "Fast", "snapshot_at_percent": 20});
        let script_run = json!({"name": "t", "script": {"volume_sectors": 64, "steps": ["snapshot"]}, "times": 1});
        let read = |fields| from_value::<CaseInput>(fields).map_err(|error| error.to_string());
        assert_eq!(read(json!({})), Ok(CaseInput::USUAL));
        let lengths = CaseInput::Lengths {
            soak_minutes: Some(5),
            cuts: Some(3),
        };
        let written = json!({"workload": null, "soak_minutes": 5, "cuts": 3, "trials": []});
        assert_eq!(read(written.clone()), Ok(lengths.clone()));
        assert_eq!(serde_json::to_value(lengths).expect("it is JSON"), written);
        let of_a_recording = read(json!({"workload": workload, "soak_minutes": 5, "trials": []}));
        let of_a_recording = of_a_recording.expect("earlier versions wrote it");
        let at = of_a_recording
            .workload()
            .map(|workload| workload.snapshot_at_percent);
        assert_eq!((at, of_a_recording.soak()), (Some(Some(20)), None));
        let both = read(json!({"workload": workload, "trials": [script_run]}));
        assert!(both.is_err_and(|error| error.contains("both")));
    }
}
