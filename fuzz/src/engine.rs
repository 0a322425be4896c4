//! Runs one target: changes inputs, judges each, and keeps those that reach something new.

use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use cowbird_proto::rng::{Rng, mix};
use serde::{Deserialize, Serialize};

use crate::mutate::Mutator;
use crate::target::{Kind, Target};
use crate::{coverage, memory};

/// Longest time for one input.
pub const INPUT_LIMIT: Duration = Duration::from_secs(1);

/// An input that took too long is tried so often: the machine may have had other work.
const TRIES: u32 = 3;

/// Kinds of result by which inputs are chosen; messages that quote their input would make every one a new kind.
const MAX_KINDS: usize = 4000;

/// Failures that are kept. Each is another one: by its text, without numbers.
const MAX_FAILURES: usize = 20;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Inputs.
    pub inputs: u64,
    /// Time.
    pub time: Option<Duration>,
    /// Of the changes. The same build with the same seed makes the same inputs.
    pub seed: u64,
}

/// An input for which something does not hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The input.
    pub input: Vec<u8>,
    /// What does not hold.
    pub reason: String,
}

/// What became of a target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Inputs that were run.
    pub inputs: u64,
    /// Inputs that were taken for valid.
    pub taken: u64,
    /// Inputs that reached something new, those to begin with included.
    pub kept: u64,
    /// Kinds of result.
    pub kinds: u64,
    /// Edges that the valid inputs reached; none in a build that does not count them.
    pub edges_at_first: Option<u64>,
    /// Edges that were reached in the end.
    pub edges: Option<u64>,
    /// What failed.
    pub failures: Vec<Failure>,
    /// Longest time of one input, ms.
    pub slowest_ms: f64,
    /// Most memory that one input took, bytes.
    pub largest_bytes: u64,
    /// Time of all, s.
    pub seconds: f64,
}

static PANIC: Mutex<Option<String>> = Mutex::new(None);
static HOOK: Once = Once::new();

thread_local! {
    /// A panic is then a finding, and nobody is told of it but who judges.
    static IS_PARSING: Cell<bool> = const { Cell::new(false) };
}

fn catch_panics() {
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_PARSING.get() {
                *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
            } else {
                usual(info);
            }
        }));
    });
}

struct Judged {
    result: Result<Kind, String>,
    time: Duration,
    bytes: usize,
}

fn run_once(target: &Target, input: &[u8]) -> Judged {
    IS_PARSING.set(true);
    let begun = Instant::now();
    let (caught, bytes) =
        memory::measured(|| panic::catch_unwind(AssertUnwindSafe(|| (target.check)(input))));
    let time = begun.elapsed();
    IS_PARSING.set(false);
    let result = caught.unwrap_or_else(|_| {
        let told = PANIC
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_else(|| "panic".to_owned());
        Err(told.replace('\n', ": "))
    });
    Judged {
        result,
        time,
        bytes,
    }
}

/// Whether everything holds for an input.
///
/// # Errors
/// What does not.
pub fn judge(target: &Target, input: &[u8]) -> Result<Kind, String> {
    catch_panics();
    judged(target, input).result
}

fn judged(target: &Target, input: &[u8]) -> Judged {
    let mut judged = run_once(target, input);
    if judged.result.is_ok() && judged.bytes > target.limit_bytes {
        judged.result = Err(format!(
            "it takes {} bytes of memory for {} bytes of input; {} is the limit",
            judged.bytes,
            input.len(),
            target.limit_bytes
        ));
    }
    for _ in 1..TRIES {
        if judged.time < INPUT_LIMIT {
            return judged;
        }
        judged.time = judged.time.min(run_once(target, input).time);
    }
    if judged.time >= INPUT_LIMIT && judged.result.is_ok() {
        judged.result = Err(format!("it takes {:.1} s", judged.time.as_secs_f64()));
    }
    judged
}

/// Runs a target. `note` is told of each input before it is run, with the number of those before.
pub fn run(target: &Target, budget: Budget, mut note: impl FnMut(u64, &[u8])) -> Report {
    catch_panics();
    let begun = Instant::now();
    let mut state = State::new(target, budget.seed);
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "a target has valid inputs to begin with");
    let at_first = coverage::edges();
    for seed in seeds {
        note(state.report.inputs, &seed);
        state.take(seed, true);
    }
    if state.report.taken == 0 {
        state.report.failures.push(Failure {
            input: (target.seeds)().swap_remove(0),
            reason: "no input to begin with is taken for valid".to_owned(),
        });
    }
    state.report.edges_at_first =
        coverage::is_counted().then(|| coverage::edges().saturating_sub(at_first));
    // Where no valid input is as it should be, there is nothing to change.
    while !state.corpus.is_empty() && state.report.inputs < budget.inputs {
        // A look at the clock costs as much as a small parser.
        let due = state.report.inputs.is_multiple_of(64);
        if due && budget.time.is_some_and(|time| begun.elapsed() >= time) {
            break;
        }
        let input = state.next();
        note(state.report.inputs, &input);
        state.take(input, false);
    }
    let mut report = state.report;
    report.kept = state.corpus.len() as u64;
    report.kinds = state.kinds.len() as u64;
    report.edges = coverage::is_counted().then(|| coverage::edges().saturating_sub(at_first));
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

struct State<'a> {
    target: &'a Target,
    rng: Rng,
    corpus: Vec<Vec<u8>>,
    /// Places in it.
    valid: Vec<usize>,
    kinds: HashSet<u64>,
    failed: HashSet<u64>,
    edges: u64,
    report: Report,
}

impl<'a> State<'a> {
    fn new(target: &'a Target, seed: u64) -> Self {
        let name = target
            .name
            .bytes()
            .fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        Self {
            target,
            rng: Rng::for_part(seed, name),
            corpus: Vec::new(),
            valid: Vec::new(),
            kinds: HashSet::new(),
            failed: HashSet::new(),
            edges: coverage::edges(),
            report: Report::default(),
        }
    }

    /// One of the corpus: mostly one that is valid, and half of the time one that came late.
    fn pick(&mut self) -> usize {
        if !self.valid.is_empty() && self.rng.percent(60) {
            let which = self.rng.below(self.valid.len() as u64);
            return self.valid[which as usize];
        }
        let count = self.corpus.len() as u64;
        let first = self.rng.below(count);
        let second = if self.rng.percent(50) {
            self.rng.below(count)
        } else {
            0
        };
        first.max(second) as usize
    }

    fn next(&mut self) -> Vec<u8> {
        let mutator = Mutator {
            words: self.target.words,
            max_bytes: self.target.max_bytes,
        };
        let (base, other) = (self.pick(), self.pick());
        let mut input = self.corpus[base].clone();
        mutator.change(&mut self.rng, &mut input, &self.corpus[other]);
        // A parser that refuses a wrong checksum would see nothing else of the change.
        if self.rng.percent(90) {
            (self.target.repair)(&mut input);
        }
        input
    }

    fn take(&mut self, input: Vec<u8>, is_seed: bool) {
        let judged = judged(self.target, &input);
        let report = &mut self.report;
        report.inputs += 1;
        report.slowest_ms = report.slowest_ms.max(judged.time.as_secs_f64() * 1e3);
        report.largest_bytes = report.largest_bytes.max(judged.bytes as u64);
        let edges = coverage::edges();
        let kind = match judged.result {
            Ok(kind) => kind,
            Err(reason) => {
                let is_new = self.failed.insert(Kind::of_text(&reason).0);
                if is_new && report.failures.len() < MAX_FAILURES {
                    report.failures.push(Failure { input, reason });
                }
                self.edges = edges;
                return;
            }
        };
        report.taken += u64::from(kind.is_accepted());
        let is_new_kind = self.kinds.len() < MAX_KINDS && self.kinds.insert(kind.0);
        if is_seed || is_new_kind || edges > self.edges {
            if kind.is_accepted() {
                self.valid.push(self.corpus.len());
            }
            self.corpus.push(input);
        }
        self.edges = edges;
    }
}
