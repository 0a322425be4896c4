//! What a case begins with: its disks, and what its plan gave it.

use std::time::Duration;

use cowbird_checks::recorded::Replay;
use cowbird_checks::trials::TrialPlan;

use crate::info::CaseInfo;
use crate::setting::Setting;
use crate::topology::Topology;
use crate::{recorded, regressions};

/// What a case finds when it starts. With a recorded workload or with scripts its disks are those that these need.
/// `soak`: how long the long load goes on; `cuts`: how many snapshot instants the cases made of topologies have.
pub fn setting(
    case: &CaseInfo,
    seed: u64,
    replay: Option<Replay>,
    soak: Option<Duration>,
    trials: &[TrialPlan],
    cuts: Option<u32>,
) -> Setting {
    let layout = match &replay {
        Some(replay) => recorded::layout(replay),
        None if trials.is_empty() => case.topology.map_or_else(case.layout, Topology::layout),
        None => regressions::layout(trials),
    };
    Setting {
        layout,
        seed,
        replay,
        soak,
        trials: trials.to_vec(),
        topology: case.topology,
        cuts,
    }
}
