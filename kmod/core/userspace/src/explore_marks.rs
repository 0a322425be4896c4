//! An explorer of schedules with power cuts.
//!
//! Writers, the engine's marks, the state on disk, clean saves and the next T0 are small step
//! machines, and every order of their steps is walked. After each step the power is cut: the COW
//! file as it is on stable storage then is encoded by the core's own code and taken up again by
//! [`persist::reload`], and the question is
//!
//! * is every block whose write may have reached the disk in an epoch named by the map that claims
//!   to know that epoch?
//!
//! and, at the end of a schedule, whether a write was never carried out.
//!
//! The decisions come from `core/protocol.c`; the order of the steps around them mirrors
//! `kmod/src` (`origin.c`, `marking.c`, `save.c`, `quiesce.c`). Steps in which a write is on the disk
//! but not yet known to be are states of their own. What it does not check: memory ordering, torn
//! slots (`tests/persistence.rs` does), more than one region map slot, and I/O errors.

mod steps;
mod world;

use std::collections::{HashMap, HashSet};
use std::fmt;

pub use self::world::{Fault, Step, World};

use self::steps::{Bits, Disk, State, Writer};
use crate::cow_disk::{self, CowDisk};
use crate::persist::{Changes, FineRule, Kind, Mode, Series, Slot, State as DiskState, Status};

const REGIONS: usize = 2;
const REGION_BLOCKS: u64 = 256;

/// What was found wrong, and the schedule that leads there.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// What is wrong.
    pub what: String,
    /// The steps from the start.
    pub steps: Vec<Step>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} after:", self.what)?;
        for step in &self.steps {
            writeln!(f, "  {step:?}")?;
        }
        Ok(())
    }
}

/// How an exploration ended.
#[derive(Debug)]
pub struct Outcome {
    /// Distinct states that were seen, each with a power cut.
    pub states: usize,
    /// Distinct contents of the disk among them.
    pub disks: usize,
    /// The first thing that was wrong.
    pub counterexample: Option<Counterexample>,
}

/// Walks every schedule.
pub fn explore(world: &World, fault: Option<Fault>) -> Outcome {
    let mut explorer = Explorer {
        world,
        fault,
        seen: HashSet::new(),
        reloads: HashMap::new(),
        steps: Vec::new(),
        empty: CowDisk::new(0, REGIONS as u64 * REGION_BLOCKS * 8, &[(8192, 32)]),
    };
    let counterexample = explorer.walk(&State::start(world)).err();
    Outcome {
        states: explorer.seen.len(),
        disks: explorer.reloads.len(),
        counterexample,
    }
}

struct Explorer<'a> {
    world: &'a World,
    fault: Option<Fault>,
    seen: HashSet<State>,
    reloads: HashMap<Disk, Result<Series, String>>,
    steps: Vec<Step>,
    empty: CowDisk,
}

impl Explorer<'_> {
    fn walk(&mut self, state: &State) -> Result<(), Counterexample> {
        if !self.seen.insert(state.clone()) {
            return Ok(());
        }
        if let Err(what) = self.cut_power(state) {
            return Err(self.counterexample(what));
        }
        let mut moved = false;
        for step in self.candidates() {
            let mut next = state.clone();
            if !next.take(step, self.world, self.fault) {
                continue;
            }
            moved = true;
            self.steps.push(step);
            self.walk(&next)?;
            self.steps.pop();
        }
        let unfinished = state
            .writers
            .iter()
            .position(|&writer| writer != Writer::Done);
        match unfinished {
            Some(writer) if !moved => {
                Err(self.counterexample(format!("writer {writer} was never carried out")))
            }
            _ => Ok(()),
        }
    }

    fn counterexample(&self, what: String) -> Counterexample {
        Counterexample {
            what,
            steps: self.steps.clone(),
        }
    }

    fn candidates(&self) -> Vec<Step> {
        let mut steps = vec![
            Step::Mark,
            Step::Dirty,
            Step::Release,
            Step::Save,
            Step::Switch,
        ];
        for writer in 0..self.world.writers.len() {
            steps.extend([Step::Writer(writer), Step::Applied(writer)]);
        }
        steps
    }

    /// What the next boot makes of the disk, compared with what was written.
    fn cut_power(&mut self, state: &State) -> Result<(), String> {
        let empty = &self.empty;
        let series = self
            .reloads
            .entry(state.disk.clone())
            .or_insert_with(|| {
                encode(empty, &state.disk)
                    .reload(&cow_disk::next_boot())
                    .map_err(|lost| lost.to_string())
            })
            .as_ref()
            .map_err(|lost| format!("power cut: tracking lost: {lost}"))?;
        for (writer, epoch) in state.truth.iter().enumerate() {
            let Some(epoch) = *epoch else { continue };
            let block = self.world.writers[writer] as u64 * REGION_BLOCKS;
            // Nobody saw an epoch begin whose T0 is not over: its image is of the one before.
            let map: Option<&Changes> = if epoch >= series.tracked.from_epoch {
                Some(&series.tracked)
            } else {
                series
                    .before
                    .as_ref()
                    .filter(|before| epoch >= before.from_epoch)
            };
            if map.is_some_and(|map| !map.contains(block)) {
                return Err(format!(
                    "power cut: writer {writer} wrote block {block} in epoch {epoch}, which is \
                     missing from the changes since {}",
                    series.tracked.from_epoch
                ));
            }
            if epoch >= series.epoch && !series.since_epoch.contains(block) {
                return Err(format!(
                    "power cut: block {block} of epoch {epoch} is missing from its own changes"
                ));
            }
        }
        Ok(())
    }
}

/// The COW file with this content.
fn encode(empty: &CowDisk, disk: &Disk) -> CowDisk {
    let mut cow = empty.clone();
    let regions = |bits: Bits| -> Vec<u64> {
        (0..REGIONS as u64)
            .filter(|region| bits >> region & 1 != 0)
            .collect()
    };
    for (area, &(epoch, bits)) in disk.areas.iter().enumerate() {
        // A fault may have put an epoch where it does not belong; the slot says where it lies.
        let mut slot: Slot = [0; 4096];
        slot[crate::persist::PAYLOAD.start] = bits;
        cow.put(Kind::Regions, area as u64, epoch, 0, &mut slot);
    }
    for &(epoch, sequence, bits) in disk.fine.iter().filter(|fine| fine.1 != 0) {
        let blocks: Vec<u64> = regions(bits)
            .iter()
            .map(|region| region * REGION_BLOCKS)
            .collect();
        cow.map(Kind::Fine, epoch, sequence, &blocks);
    }
    for &(sequence, epoch, clean) in &disk.states {
        let state = DiskState {
            status: if clean { Status::Clean } else { Status::Dirty },
            mode: Mode::Incremental,
            boot_id: cow_disk::THIS_BOOT,
            written_sectors: cow_disk::WRITTEN,
            head_crc: cow_disk::HEAD_CRC,
            slots_used: 0,
            tracked_from: epoch,
            changes_from: if clean && epoch > 1 { epoch - 1 } else { 0 },
            fine_rule: FineRule::All,
        };
        cow.put_state(sequence, epoch, &state);
    }
    cow.header(disk.header_epoch, disk.header_epoch - 1);
    cow
}
