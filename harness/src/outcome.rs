//! How a cell ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cowbird_checks::judgement::ScriptRunOutcome;
use cowbird_model::{Class, TraceConclusion, TraceResult, Verdict};

use crate::tape::Replayed;

/// How a cell ended.
#[derive(Debug, Clone, PartialEq)]
pub struct CellOutcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in one line; empty for a pass.
    pub reason: String,
    /// Blocks compared with the truth.
    pub blocks_checked: u64,
    /// Blocks that are wrong in the image or were once read wrong.
    pub blocks_bad: u64,
    /// Wrong blocks by class.
    pub classes: BTreeMap<Class, u64>,
    /// What was left out of the case, and figures that are no fault.
    pub notes: Vec<String>,
    /// How each script ended, in the order of the plan, where there are some.
    pub script_runs: Vec<ScriptRunOutcome>,
    /// Phases in order.
    pub phases: Vec<(String, Duration)>,
    /// What became of the trace, if the cell was traced.
    pub trace: Option<TraceResult>,
    /// Whether it ended for a reason of the host's or of a kernel without a module, or lost events of its trace, so that
    /// it says nothing about the module and can be run again.
    pub inconclusive: bool,
    /// What came of the comparison with the recording, if the cell is a replay that came to be compared.
    pub replayed: Option<Replayed>,
    /// The evidence, when the cell did not pass.
    pub bundle: Option<PathBuf>,
    /// From start to verdict.
    pub seconds: f64,
}

impl CellOutcome {
    /// Whether nothing is left to ask of the cell: one that did not pass leaves a bundle, and so does one whose trace does
    /// not say why it allows no conclusion.
    pub(crate) fn is_settled(&self) -> bool {
        let trace = self.trace.as_ref().map(|trace| trace.conclusion);
        self.verdict == Verdict::Pass && trace != Some(TraceConclusion::NoConclusion)
    }
}
