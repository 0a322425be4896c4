//! What somebody wants of a run, before it is compared with what there is.

use std::path::PathBuf;

use anyhow::Result;
use cowbird_images::Tier;
use cowbird_vm::command::DEFAULT_CPUS;
use cowbird_vm::probe::AccelRequest;
use cowbird_workload::Timing;

use crate::plan::Shard;
use crate::select::{Selectable, select, select_named};

/// Which kernels or cases are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those of this tier and of the ones before it.
    Tier(Tier),
    /// Those that match one of these patterns.
    Globs(Vec<String>),
    /// Those that have one of these names.
    Names(Vec<String>),
}

impl Selection {
    /// What a command line asks for that may have patterns, which then override the tier.
    pub fn of(globs: &[String], tier: Tier) -> Self {
        if globs.is_empty() {
            Self::Tier(tier)
        } else {
            Self::Globs(globs.to_vec())
        }
    }

    /// The one of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self::Names(vec![name.into()])
    }

    /// Those that are wanted of all that there are, in their own order. A pattern or name that nothing has is an error.
    pub fn among<'a, T: Selectable>(&self, all: &'a [T]) -> Result<Vec<&'a T>> {
        match self {
            Self::Tier(tier) => select(all, &[], *tier),
            Self::Globs(globs) => select(all, globs, Tier::Full),
            Self::Names(names) => select_named(all, names),
        }
    }
}

/// What the cells do.
#[derive(Clone, Debug, PartialEq)]
pub enum Cases {
    /// These cases.
    Of(Selection),
    /// The case that replays a recording.
    Recorded(Recording),
}

/// A recording that is replayed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Its file, of any kind that can be read.
    pub file: PathBuf,
    /// How fast it is replayed.
    pub timing: Timing,
    /// The snapshot is taken after so many percent of its changes; none: the seed decides.
    pub snapshot_at_percent: Option<u32>,
}

/// A run of the matrix as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSpec {
    /// Which kernels.
    pub kernels: Selection,
    /// Which cases.
    pub cases: Cases,
    /// Mutants in place of the module as it is, by their names, or [`ALL`](crate::mutants::ALL).
    pub mutants: Vec<String>,
    /// How long the case soak goes on, minutes; none: as long as it says.
    pub soak_minutes: Option<u32>,
    /// How many snapshot instants the cases with writers above the origin have; none: as many as each says.
    pub cuts: Option<u32>,
    /// Whether the tracer records in every guest.
    pub traced: bool,
    /// Whether every cell is recorded, so that it can be replayed exactly.
    pub record: bool,
    /// Virtual CPUs of each guest.
    pub cpus: u32,
    /// The seed that every cell's seed is derived from; none: that of the run which goes on, or a random one.
    pub seed: Option<u64>,
    /// Whether the run in `out` goes on.
    pub resume: bool,
    /// Cells at the same time; none: so many that their CPUs are as many as the host's.
    pub jobs: Option<usize>,
    /// The part of the matrix that is run; none: all of it.
    pub shard: Option<Shard>,
    /// How QEMU runs the guests.
    pub accel: AccelRequest,
    /// Whether nothing may be fetched or installed.
    pub offline: bool,
    /// Where the results go.
    pub out: PathBuf,
}

impl RunSpec {
    /// Kernels and cases of the quick tier with the module as it is, and the results in a folder.
    pub fn new(out: PathBuf) -> Self {
        Self {
            kernels: Selection::Tier(Tier::Quick),
            cases: Cases::Of(Selection::Tier(Tier::Quick)),
            mutants: Vec::new(),
            soak_minutes: None,
            cuts: None,
            traced: false,
            record: false,
            cpus: DEFAULT_CPUS,
            seed: None,
            resume: false,
            jobs: None,
            shard: None,
            accel: AccelRequest::Auto,
            offline: false,
            out,
        }
    }
}
