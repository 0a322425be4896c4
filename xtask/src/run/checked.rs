//! A run of the matrix: which cells, and everything that they are run with.

use cowbird_checks::script_runs::ScriptRunPlan;
use cowbird_images::Catalogue;
use cowbird_matrix::mutants::Mutant;
use cowbird_matrix::output::OutDir;
use cowbird_matrix::plan::{PlannedCell, Shard};
use cowbird_matrix::resume::Earlier;
use cowbird_vm::probe::AccelRequest;

use crate::run::workload::Wanted;

/// What a run is to do, with everything that can be wrong with the command line behind it.
#[derive(Clone, Debug)]
pub struct Run {
    /// All kernels that there are, for what the host needs.
    pub catalogue: Catalogue,
    /// The cells.
    pub cells: Vec<PlannedCell>,
    /// What the cells replay, if they do.
    pub workload: Option<Wanted>,
    /// How long the case soak goes on, minutes.
    pub soak_minutes: Option<u32>,
    /// How many snapshot instants the cases with writers above the origin have.
    pub cuts: Option<u32>,
    /// The regressions, if they are among the cells.
    pub script_runs: Vec<ScriptRunPlan>,
    /// The mutants among them.
    pub mutants: Vec<Mutant>,
    /// Whether the tracer records in every cell.
    pub traced: bool,
    /// Whether every cell is recorded.
    pub record: bool,
    /// Virtual CPUs of each guest.
    pub cpus: u32,
    /// The seed of the run.
    pub seed: u64,
    /// Which part of the matrix it is.
    pub shard: Option<Shard>,
    /// What stands for the whole matrix, the other parts included.
    pub plan: String,
    /// What is wrong with how the shards were made, if anything.
    pub warning: Option<String>,
    /// Cells at the same time.
    pub jobs: usize,
    /// Acceleration asked for.
    pub accel: AccelRequest,
    /// Fetch and install nothing.
    pub offline: bool,
    /// Where the results go.
    pub out: OutDir,
    /// What an earlier run knew, if this one goes on with it.
    pub earlier: Option<Earlier>,
}
