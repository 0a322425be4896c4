//! What a case begins with: its disks, and what its plan gave it.

use cowbird_checks::recorded::Replay;
use cowbird_session::input::CaseInput;

use crate::context::CaseContext;
use crate::info::CaseInfo;
use crate::topology::Topology;
use crate::{recorded, regressions};

/// What a case finds when it starts. With a recorded workload or with scripts its disks are those that these need.
/// `replay`: what is known of the recorded workload of `input`.
pub fn context(
    case: &CaseInfo,
    seed: u64,
    input: &CaseInput,
    replay: Option<Replay>,
) -> CaseContext {
    let script_runs = input.script_runs();
    let layout = match &replay {
        Some(replay) => recorded::layout(replay),
        None if script_runs.is_empty() => case.topology.map_or_else(case.layout, Topology::layout),
        None => regressions::layout(script_runs),
    };
    CaseContext {
        layout,
        seed,
        replay,
        soak: input.soak(),
        script_runs: script_runs.to_vec(),
        topology: case.topology,
        cuts: input.cuts(),
    }
}
