//! What is known of a cell once its evidence was put before the oracle. Each check adds to it in a file of its own.

use std::collections::BTreeMap;

use cowbird_host::error::HarnessError;
use cowbird_model::{
    BadBlock, Class, MAX_LISTED_BLOCKS, Marker, MarkerKey, TraceResult, WitnessLog, find_marker,
};
use serde::{Deserialize, Serialize};

/// What the module may say in the kernel log although it is a warning.
pub type ExpectedLog = &'static [&'static str];

/// What would pass because nothing was looked at: a fault of the case, never a verdict.
pub(crate) fn nothing_judged(why: &str) -> HarnessError {
    HarnessError::Plan {
        detail: format!("nothing was judged: {why}; the case must claim something"),
    }
}

/// How a script run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptRunOutcome {
    /// What to call it.
    pub name: String,
    /// Everything that is wrong; empty for a pass.
    pub faults: Vec<String>,
    /// Wrong blocks by class.
    pub classes: BTreeMap<Class, u64>,
}

/// The oracle's answer.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Blocks compared.
    pub blocks_checked: u64,
    /// Blocks wrong in the image or read wrong once.
    pub blocks_bad: u64,
    /// Wrong blocks by class.
    pub classes: BTreeMap<Class, u64>,
    /// The first of the wrong blocks.
    pub bad: Vec<BadBlock>,
    /// How each script ended.
    pub script_runs: Vec<ScriptRunOutcome>,
    /// Everything that is wrong, each in one sentence; empty for a pass.
    pub faults: Vec<String>,
    /// Figures that are no fault.
    pub notes: Vec<String>,
    /// What the module may say in the kernel log although it is a warning.
    pub expected_log: ExpectedLog,
    /// What became of the trace, if the cell was traced.
    pub trace: Option<TraceResult>,
    /// The report for people.
    pub text: String,
}

impl Judgement {
    /// Adds a fault, and a line of the report.
    pub fn fault(&mut self, fault: String) {
        self.text += &fault;
        self.text.push('\n');
        self.faults.push(fault);
    }

    /// Keeps the first bad blocks, for whoever wants to know more about them than the text says.
    pub(crate) fn name_bad(&mut self, bad: &[BadBlock]) {
        let room = MAX_LISTED_BLOCKS.saturating_sub(self.bad.len());
        self.bad.extend(bad.iter().take(room).cloned());
    }

    /// Adds what is known of a part of the cell, under the name of that part.
    pub(crate) fn take_volume(&mut self, name: &str, volume: Self) {
        let named = |text: &String| format!("{name}: {text}");
        self.blocks_checked += volume.blocks_checked;
        self.blocks_bad += volume.blocks_bad;
        self.name_bad(&volume.bad);
        for (class, count) in volume.classes {
            *self.classes.entry(class).or_default() += count;
        }
        self.faults.extend(volume.faults.iter().map(named));
        self.notes.extend(volume.notes.iter().map(named));
        self.text += &format!("{name}:\n{}", volume.text);
    }

    /// The harness looks at the right disk; that a header is not there is the module's doing.
    pub fn find(&mut self, log: &WitnessLog<'_>, key: &MarkerKey) -> Option<Marker> {
        match find_marker(log, key) {
            Ok(marker) => Some(marker),
            Err(error) => {
                self.fault(format!("no snapshot instant: {error}"));
                None
            }
        }
    }
}
