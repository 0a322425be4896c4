//! How a cell ends, and the schema of `results.json`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::class::Class;

/// The one way in which a cell ended.
///
/// The first two speak about blocks, the third about what was recorded of them, the next three about the module or
/// its kernel, the last three about neither: they are never charged to the module, and never count as a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every block is right and the kernel stayed quiet.
    Pass,
    /// Some block is wrong, or the filesystem on the image is.
    Mismatch,
    /// The trace of the running kernel contradicts the witness or the journal, and nothing else is wrong.
    Contradiction,
    /// The kernel warned: WARN, lockdep, KASAN, or a message of the module of level warning.
    KernelSplat,
    /// The kernel panicked.
    Panic,
    /// The guest is alive but makes no progress.
    Hang,
    /// QEMU ended, or the guest fell silent, without a trace of a panic.
    LostGuest,
    /// The harness or the machine failed.
    Infrastructure,
    /// This kernel cannot run this case, for a named reason.
    Unsupported,
}

impl Verdict {
    /// The name as in `results.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Mismatch => "mismatch",
            Self::Contradiction => "contradiction",
            Self::KernelSplat => "kernel-splat",
            Self::Panic => "panic",
            Self::Hang => "hang",
            Self::LostGuest => "lost-guest",
            Self::Infrastructure => "infrastructure",
            Self::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a trace is worth beside the witness and the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceConclusion {
    /// All three say the same.
    Agrees,
    /// They contradict each other.
    Contradicts,
    /// The trace is not complete, or the cell did not come to its end: nothing can be concluded.
    NoConclusion,
    /// There is none, for a named reason.
    NotTraced,
}

impl TraceConclusion {
    /// The name as in `results.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Contradicts => "contradicts",
            Self::NoConclusion => "no-conclusion",
            Self::NotTraced => "not-traced",
        }
    }
}

/// What became of the trace of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceResult {
    /// What it is worth.
    #[serde(rename = "standing")]
    pub conclusion: TraceConclusion,
    /// Why; of one that agrees, how much was compared.
    pub reason: String,
}

/// One line of `results.json`: what was run, and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Name of the kernel in the catalogue.
    pub kernel: String,
    /// `uname -r` and package version of the kernel that ran, or empty when it was not reached.
    pub kernel_version: String,
    /// Name of the case.
    pub case: String,
    /// Name of the mutant, or null for the module as it is.
    pub mutant: Option<String>,
    /// Seed of the cell: with kernel, case and mutant it replays the cell.
    pub seed: u64,
    /// Virtual CPUs of the guest; 0 when it was not reached.
    #[serde(default)]
    pub cpus: u32,
    /// Why a first attempt said nothing about the module; null when this is the first.
    #[serde(default)]
    pub first_attempt: Option<String>,
    /// SHA-256 of all that the cell was made of, in hexadecimal; null when it was not made. Two cells of the same
    /// name differ in it if harness, guest, kernel, module or options do.
    #[serde(default)]
    pub made_of: Option<String>,
    /// What was seen. For a mutant the truth is usually `mismatch`: see `caught`.
    pub verdict: Verdict,
    /// Why, in one sentence; empty for a pass.
    pub reason: String,
    /// What a reader of the verdict must know: parts of the case that this kernel cannot run, and
    /// figures that are no fault.
    pub notes: Vec<String>,
    /// For a mutant: whether the cell saw the fault that it was built with. Null for the others.
    pub caught: Option<bool>,
    /// Blocks compared with the truth.
    pub blocks_checked: u64,
    /// Blocks that are wrong.
    pub blocks_bad: u64,
    /// Wrong blocks by class.
    pub classes: BTreeMap<Class, u64>,
    /// Phases of the cell in order, with their seconds.
    pub phases: Vec<Phase>,
    /// Seconds from start to verdict.
    pub seconds: f64,
    /// What became of the cell's trace, or null when none was asked for.
    #[serde(default)]
    pub trace: Option<TraceResult>,
    /// Folder with the evidence of a cell that did not pass, or null.
    pub bundle: Option<String>,
}

/// One phase of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Name, as the harness calls it.
    pub name: String,
    /// Seconds it took.
    pub seconds: f64,
}

/// The whole of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResults {
    /// Cells that this run (this shard of it) was to report.
    pub cells_expected: u64,
    /// The seed that every cell's seed is derived from.
    pub seed: u64,
    /// `K/N` when the run was one shard of several, else null.
    pub shard: Option<String>,
    /// SHA-256, in hexadecimal, of the cells that the run was to do, its other shards included, of how they were split, and of the options
    /// on the command line. Null in results of older versions.
    #[serde(default)]
    pub plan: Option<String>,
    /// One result per cell, in the order of the plan.
    pub cells: Vec<CellResult>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the names that people and tools read are the names that serde writes.
    #[test]
    fn names_are_those_of_serde() {
        use Verdict::*;
        for verdict in [
            Pass,
            Mismatch,
            Contradiction,
            KernelSplat,
            Panic,
            Hang,
            LostGuest,
            Infrastructure,
            Unsupported,
        ] {
            let json = serde_json::to_string(&verdict).expect("a unit variant serializes");
            assert_eq!(json, format!("\"{verdict}\""));
        }
        use Class::*;
        for class in [
            Future,
            Stale,
            Torn,
            Misplaced,
            Zeroed,
            Foreign,
            MissedChange,
        ] {
            let json = serde_json::to_string(&class).expect("a unit variant serializes");
            assert_eq!(json, format!("\"{class}\""));
        }
    }
}
