//! What a cell is to do, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cowbird_model::{Class, TraceResult, Verdict};
use serde::{Deserialize, Serialize};

use crate::accel::Accel;
use crate::limits::Limits;
use crate::recorded::WorkloadPlan;
use crate::tape::{Replayed, TapePlan};
use crate::trials::{TrialOutcome, TrialPlan};

/// Virtual CPUs of a guest unless the plan says otherwise. Two: a race needs two.
pub const DEFAULT_CPUS: u32 = 2;

/// Memory of a guest unless the plan says otherwise, MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;

/// Everything that decides what a cell does. A bundle keeps it as `plan.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellPlan {
    /// Name of the kernel in the catalogue.
    pub kernel_name: String,
    /// Its release (`uname -r`); the guest must say the same.
    pub kernel_release: String,
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// The kernel's modules to load at boot, name and decompressed file, in order.
    pub boot_modules: Vec<(String, PathBuf)>,
    /// The module under test.
    pub cowbird_ko: PathBuf,
    /// The guest's init: a static `cowbird-guest`.
    pub guest_init: PathBuf,
    /// The control tool, static.
    pub cowbirdctl: PathBuf,
    /// The tracer, static.
    pub tracer: PathBuf,
    /// The program that puts the tracer on trial, static.
    pub tracer_trial: PathBuf,
    /// Name of the case.
    pub case: String,
    /// The recorded workload, for the case that replays one.
    #[serde(default)]
    pub workload: Option<WorkloadPlan>,
    /// How long the long load goes on, minutes; none: as long as its case says.
    #[serde(default)]
    pub soak_minutes: Option<u32>,
    /// How many snapshot instants a case with writers above the origin has; none: as many as the case says.
    #[serde(default)]
    pub cuts: Option<u32>,
    /// Whether the tracer records beside the case, to be compared with the witness and the journal.
    #[serde(default)]
    pub traced: bool,
    /// The scripts, for the case that runs some.
    #[serde(default)]
    pub trials: Vec<TrialPlan>,
    /// Name of the fault that the module was built with.
    pub mutant: Option<String>,
    /// Seed of everything random.
    pub seed: u64,
    /// Acceleration.
    pub accel: Accel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory of the guest, MiB.
    pub memory_mib: u32,
    /// Folder of this cell alone; made, and removed when the cell passes.
    pub work_dir: PathBuf,
    /// Where the evidence goes when the cell does not pass; replaced.
    pub bundle_dir: PathBuf,
    /// Limits.
    pub limits: Limits,
    /// Whether a tape of the cell is made or played.
    #[serde(default)]
    pub tape: Option<TapePlan>,
}

impl CellPlan {
    /// A plan for tests, which boots nothing.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            kernel_name: "bookworm-6.1-cloud".into(),
            kernel_release: "6.1.0-0-cloud-amd64".into(),
            vmlinuz: "/nonexistent/vmlinuz".into(),
            boot_modules: Vec::new(),
            cowbird_ko: "/nonexistent/cowbird.ko".into(),
            guest_init: "/nonexistent/init".into(),
            cowbirdctl: "/nonexistent/cowbirdctl".into(),
            tracer: "/nonexistent/cowbird-trace".into(),
            tracer_trial: "/nonexistent/trial".into(),
            case: "raw-writers".into(),
            workload: None,
            soak_minutes: None,
            cuts: None,
            traced: false,
            trials: Vec::new(),
            mutant: None,
            seed: 7,
            accel: Accel::Tcg,
            cpus: DEFAULT_CPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            work_dir: "/nonexistent/work".into(),
            bundle_dir: "/nonexistent/bundle".into(),
            limits: Limits::default(),
            tape: None,
        }
    }

    pub(crate) fn soak(&self) -> Option<Duration> {
        let minutes = self.soak_minutes?;
        Some(Duration::from_secs(u64::from(minutes) * 60))
    }
}

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
    pub trials: Vec<TrialOutcome>,
    /// Phases in order.
    pub phases: Vec<(String, Duration)>,
    /// What became of the trace, if the cell was traced.
    pub trace: Option<TraceResult>,
    /// Whether it ended for a reason of the host's or of a kernel without a module, or lost events of its trace, so that
    /// it says nothing about the module and can be run again.
    pub says_nothing: bool,
    /// What came of the comparison with the recording, if the cell is a replay that came to be compared.
    pub replayed: Option<Replayed>,
    /// The evidence, when the cell did not pass.
    pub bundle: Option<PathBuf>,
    /// From start to verdict.
    pub seconds: f64,
}

/// Told when a cell enters a phase.
pub trait CellProgress: Send + Sync {
    /// `name` is one of the phases that [`CellOutcome::phases`] will list.
    fn phase(&self, name: &str);
}

impl<F: Fn(&str) + Send + Sync> CellProgress for F {
    fn phase(&self, name: &str) {
        self(name);
    }
}

/// Measures the phases.
pub(crate) struct PhaseClock<'a> {
    progress: &'a dyn CellProgress,
    start: std::time::Instant,
    phase_start: std::time::Instant,
    current: Option<&'static str>,
    done: Vec<(String, Duration)>,
}

impl<'a> PhaseClock<'a> {
    pub(crate) fn new(progress: &'a dyn CellProgress) -> Self {
        let now = std::time::Instant::now();
        Self {
            progress,
            start: now,
            phase_start: now,
            current: None,
            done: Vec::new(),
        }
    }

    pub(crate) fn enter(&mut self, name: &'static str) {
        self.close();
        self.progress.phase(name);
        self.current = Some(name);
    }

    fn close(&mut self) {
        let now = std::time::Instant::now();
        if let Some(name) = self.current.take() {
            self.done.push((name.to_owned(), now - self.phase_start));
        }
        self.phase_start = now;
    }

    pub(crate) fn finish(mut self) -> (Vec<(String, Duration)>, f64) {
        self.close();
        (self.done, self.start.elapsed().as_secs_f64())
    }
}
