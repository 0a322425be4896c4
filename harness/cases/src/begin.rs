//! What a case begins with: its disks, and what its plan gave it.

use cowbird_checks::recorded::Replay;
use cowbird_session::input::CaseInput;

use crate::info::CaseInfo;
use crate::setting::Setting;
use crate::topology::Topology;
use crate::{recorded, regressions};

/// What a case finds when it starts. With a recorded workload or with scripts its disks are those that these need.
/// `replay`: what is known of the recorded workload of `input`.
pub fn setting(case: &CaseInfo, seed: u64, input: &CaseInput, replay: Option<Replay>) -> Setting {
    let trials = input.trials();
    let layout = match &replay {
        Some(replay) => recorded::layout(replay),
        None if trials.is_empty() => case.topology.map_or_else(case.layout, Topology::layout),
        None => regressions::layout(trials),
    };
    Setting {
        layout,
        seed,
        replay,
        soak: input.soak(),
        trials: trials.to_vec(),
        topology: case.topology,
        cuts: input.cuts(),
    }
}
