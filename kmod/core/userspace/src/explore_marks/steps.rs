//! The step machines: writers, the engine's marks, the state on disk, a save and the next T0, as `kmod/src` orders
//! their steps around the decisions of the core.

use super::world::{Fault, Step, World};
use crate::{Action, Phase};

/// One bit per region.
pub(super) type Bits = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Writer {
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
pub(super) struct Disk {
    pub(super) header_epoch: u64,
    /// By area: epoch and marked regions.
    pub(super) areas: [(u64, Bits); 2],
    /// By copy: sequence, epoch, clean.
    pub(super) states: [(u64, u64, bool); 2],
    /// By area, of the last save: epoch, sequence, blocks.
    pub(super) fine: [(u64, u64, Bits); 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
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
    pub(super) writers: Vec<Writer>,
    /// By writer: the epoch in which its write may have reached the disk.
    pub(super) truth: Vec<Option<u64>>,
    pub(super) disk: Disk,
}

impl State {
    pub(super) fn start(world: &World) -> Self {
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

    pub(super) fn take(&mut self, step: Step, world: &World, fault: Option<Fault>) -> bool {
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
