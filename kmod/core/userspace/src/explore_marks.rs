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

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::cow_disk::{self, CowDisk};
use crate::persist::{Changes, FineRule, Kind, Mode, Series, Slot, State as DiskState, Status};
use crate::{Action, Phase};

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write does not wait for its mark.
    ReleaseBeforeMark,
    /// A mark counts as stable when it is issued, not when it is on disk.
    StableWhenIssued,
    /// Writes do not wait until the disk says that it is not clean any more.
    CleanNotCleared,
    /// They wait until that is issued, not until it is on disk.
    DirtyNotAwaited,
    /// A save does not wait for writes that have passed the look but not noted their blocks.
    SaveWithoutLeave,
    /// Marks go to the area of the other parity.
    WrongParity,
    /// The next epoch begins before its header is on disk.
    BeginBeforeHeader,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 7] = [
        Self::ReleaseBeforeMark,
        Self::StableWhenIssued,
        Self::CleanNotCleared,
        Self::DirtyNotAwaited,
        Self::SaveWithoutLeave,
        Self::WrongParity,
        Self::BeginBeforeHeader,
    ];
}

/// The size of the world. Regions have 256 blocks, which is why writers choose regions.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Which region each writer writes to, once, always at its first block.
    pub writers: &'static [usize],
    /// How often it is saved.
    pub saves: u8,
    /// How often a next epoch begins.
    pub epochs: u8,
}

const REGIONS: usize = 2;
const REGION_BLOCKS: u64 = 256;

/// One bit per region.
type Bits = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Start,
    /// Inside the hook: the look without the lock let it pass, perhaps after noting its block.
    Passing {
        note: bool,
    },
    /// Noted and submitted, still inside the hook.
    InFlightInside,
    Held,
    InFlight,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Saver {
    Idle,
    /// The engine rests, nothing passes.
    Holding,
    /// Writers that had passed have left the hook, and nothing is in flight.
    Drained,
    /// Maps are on disk.
    Mapped,
    /// The state is on disk.
    Stated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Switch {
    Idle,
    Gated,
    Drained,
    /// The header is on disk.
    Marked,
}

/// A write of the engine: issued, then on disk, then known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flight<T> {
    None,
    Issued(T),
    OnDisk(T),
}

/// What is on stable storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Disk {
    header_epoch: u64,
    /// By area: epoch and marked regions.
    areas: [(u64, Bits); 2],
    /// By copy: sequence, epoch, clean.
    states: [(u64, u64, bool); 2],
    /// By area, of the last save: epoch, sequence, blocks.
    fine: [(u64, u64, Bits); 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    epoch: u64,
    noted: Bits,
    /// Noted in the epoch before.
    changes: Bits,
    stable: Bits,
    issued: Bits,
    mark: Flight<Bits>,
    dirty: Flight<()>,
    saved: bool,
    sequence: u64,
    saver: Saver,
    saves_left: u8,
    switch: Switch,
    epochs_left: u8,
    writers: Vec<Writer>,
    /// By writer: the epoch in which its write may have reached the disk.
    truth: Vec<Option<u64>>,
    disk: Disk,
}

/// One step, as it is shown in a counterexample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next step of this writer.
    Writer(usize),
    /// The device has carried out the write of this writer.
    Applied(usize),
    /// The engine issues a mark, or the next step of the one under way.
    Mark,
    /// The engine issues the dirty state, or the next step of the one under way.
    Dirty,
    /// The engine releases the held writes that may go.
    Release,
    /// The next step of a save.
    Save,
    /// The next step of the next T0.
    Switch,
}

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

impl State {
    fn start(world: &World) -> Self {
        Self {
            epoch: 1,
            noted: 0,
            changes: 0,
            stable: 0,
            issued: 0,
            mark: Flight::None,
            dirty: Flight::None,
            saved: false,
            sequence: 2,
            saver: Saver::Idle,
            saves_left: world.saves,
            switch: Switch::Idle,
            epochs_left: world.epochs,
            writers: vec![Writer::Start; world.writers.len()],
            truth: vec![None; world.writers.len()],
            disk: Disk {
                header_epoch: 1,
                areas: [(0, 0); 2],
                states: [(2, 1, false), (1, 1, false)],
                fine: [(0, 0, 0); 2],
            },
        }
    }

    fn take(&mut self, step: Step, world: &World, fault: Option<Fault>) -> bool {
        match step {
            Step::Writer(writer) => self.step_writer(writer, 1 << world.writers[writer], fault),
            Step::Applied(writer) => self.applied(writer),
            Step::Mark => self.step_mark(world, fault),
            Step::Dirty => self.step_dirty(fault),
            Step::Release => self.release(world, fault),
            Step::Save => self.step_save(fault),
            Step::Switch => self.step_switch(fault),
        }
    }

    fn inside_hook(&self) -> bool {
        self.writers
            .iter()
            .any(|writer| matches!(writer, Writer::Passing { .. } | Writer::InFlightInside))
    }

    fn in_flight(&self) -> bool {
        self.writers
            .iter()
            .any(|writer| matches!(writer, Writer::InFlight | Writer::InFlightInside))
    }

    fn parked(&self) -> bool {
        self.saver != Saver::Idle
    }

    fn gated(&self) -> bool {
        self.switch != Switch::Idle
    }

    /// `cb_origin_decide`, for one region that is one block here.
    fn decide(&self, bit: Bits, fault: Option<Fault>) -> Action {
        let saved = self.saved && fault != Some(Fault::CleanNotCleared);
        let marked = (!saved && self.stable & bit != 0) || fault == Some(Fault::ReleaseBeforeMark);
        let phase = if self.gated() {
            Phase::Holding
        } else {
            Phase::Tracking
        };
        phase.write_action(self.noted & bit != 0, marked, false)
    }

    /// `cb_origin_write`: a look without the lock, then the note, then the submission.
    fn step_writer(&mut self, writer: usize, bit: Bits, fault: Option<Fault>) -> bool {
        self.writers[writer] = match self.writers[writer] {
            Writer::Start => match self.decide(bit, fault) {
                Action::Pass | Action::Absorb => Writer::Passing { note: false },
                Action::Note => Writer::Passing { note: true },
                Action::Hold => Writer::Held,
            },
            Writer::Passing { note } => {
                if note {
                    self.noted |= bit;
                }
                self.truth[writer] = Some(self.epoch);
                Writer::InFlightInside
            }
            Writer::InFlightInside => Writer::InFlight,
            Writer::Held | Writer::InFlight | Writer::Done => return false,
        };
        true
    }

    fn applied(&mut self, writer: usize) -> bool {
        let possible = self.writers[writer] == Writer::InFlight;
        if possible {
            self.writers[writer] = Writer::Done;
        }
        possible
    }

    fn held_bits(&self, world: &World) -> Bits {
        self.writers
            .iter()
            .zip(world.writers)
            .filter(|(writer, _)| **writer == Writer::Held)
            .fold(0, |bits, (_, region)| bits | 1 << region)
    }

    fn step_mark(&mut self, world: &World, fault: Option<Fault>) -> bool {
        match self.mark {
            Flight::None => {
                let wanted = self.held_bits(world) & !self.issued;
                if wanted == 0 || self.parked() || self.gated() {
                    return false;
                }
                self.issued |= wanted;
                self.mark = Flight::Issued(self.issued);
                if fault == Some(Fault::StableWhenIssued) {
                    self.stable = self.issued;
                }
            }
            Flight::Issued(bits) => {
                let parity = self.epoch + u64::from(fault == Some(Fault::WrongParity));
                self.disk.areas[(parity & 1) as usize] = (self.epoch, bits);
                self.mark = Flight::OnDisk(bits);
            }
            Flight::OnDisk(bits) => {
                self.stable = bits;
                self.mark = Flight::None;
            }
        }
        true
    }

    fn put_state(&mut self, clean: bool) {
        let copy = (self.sequence % 2) as usize;
        self.disk.states[copy] = (self.sequence, self.epoch, clean);
    }

    fn step_dirty(&mut self, fault: Option<Fault>) -> bool {
        match self.dirty {
            Flight::None => {
                let waiting = self.writers.contains(&Writer::Held);
                if !self.saved
                    || !waiting
                    || self.parked()
                    || self.gated()
                    || fault == Some(Fault::CleanNotCleared)
                {
                    return false;
                }
                self.sequence += 1;
                self.dirty = Flight::Issued(());
                if fault == Some(Fault::DirtyNotAwaited) {
                    self.saved = false;
                }
            }
            Flight::Issued(()) => {
                self.put_state(false);
                self.dirty = Flight::OnDisk(());
            }
            Flight::OnDisk(()) => {
                self.saved = false;
                self.dirty = Flight::None;
            }
        }
        true
    }

    fn release(&mut self, world: &World, fault: Option<Fault>) -> bool {
        if self.parked() || self.gated() {
            return false;
        }
        let mut released = false;
        for (writer, &region) in world.writers.iter().enumerate() {
            let bit = 1 << region;
            if self.writers[writer] == Writer::Held && self.decide(bit, fault) != Action::Hold {
                self.noted |= bit;
                self.truth[writer] = Some(self.epoch);
                self.writers[writer] = Writer::InFlight;
                released = true;
            }
        }
        released
    }

    fn engine_rests(&self) -> bool {
        self.mark == Flight::None && self.dirty == Flight::None
    }

    /// `cb_save`.
    fn step_save(&mut self, fault: Option<Fault>) -> bool {
        self.saver = match self.saver {
            Saver::Idle => {
                if self.saves_left == 0 || self.saved || self.gated() || !self.engine_rests() {
                    return false;
                }
                self.saves_left -= 1;
                self.saved = true;
                Saver::Holding
            }
            Saver::Holding => {
                if (self.inside_hook() || self.in_flight())
                    && fault != Some(Fault::SaveWithoutLeave)
                {
                    return false;
                }
                Saver::Drained
            }
            Saver::Drained => {
                let sequence = self.sequence + 1;
                let area = (self.epoch & 1) as usize;
                self.disk.fine[area] = (self.epoch, sequence, self.noted);
                if self.epoch > 1 {
                    self.disk.fine[1 - area] = (self.epoch - 1, sequence, self.changes);
                }
                Saver::Mapped
            }
            Saver::Mapped => {
                self.sequence += 1;
                self.put_state(true);
                Saver::Stated
            }
            Saver::Stated => Saver::Idle,
        };
        true
    }

    /// `cb_cut` and `cb_device_take_over`: what the old epoch still holds goes on in the new one.
    fn step_switch(&mut self, fault: Option<Fault>) -> bool {
        self.switch = match self.switch {
            Switch::Idle => {
                if self.epochs_left == 0 || self.parked() || !self.engine_rests() {
                    return false;
                }
                self.epochs_left -= 1;
                Switch::Gated
            }
            Switch::Gated => {
                if self.inside_hook() || self.in_flight() {
                    return false;
                }
                Switch::Drained
            }
            Switch::Drained if fault == Some(Fault::BeginBeforeHeader) => {
                self.begin();
                Switch::Idle
            }
            Switch::Drained => {
                self.disk.header_epoch = self.epoch + 1;
                Switch::Marked
            }
            Switch::Marked => {
                self.begin();
                Switch::Idle
            }
        };
        true
    }

    fn begin(&mut self) {
        self.epoch += 1;
        self.changes = self.noted;
        self.noted = 0;
        self.stable = 0;
        self.issued = 0;
        // A state of the epoch before is not clean for this one.
        self.saved = false;
    }
}
