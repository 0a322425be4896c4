//! An explorer of schedules.
//!
//! The engine, the writers, the snapshot readers, the switch at T0 and the
//! devices are small step machines. The explorer walks every order in which
//! their steps can happen on a small volume, and asks two questions:
//!
//! * did a reader ever get something else than the content at T0?
//! * can the system come to rest with a write that was never carried out, or a
//!   reader that never got an answer?
//!
//! What to do at each step is asked from `core/protocol.c`, the code that runs
//! in the kernel; the order of the steps around it mirrors `kmod/src`
//! (`origin.c`, `engine.c`, `loading.c`, `storing.c`, `snapread.c`, `quiesce.c`),
//! where the same names are used. A [`Fault`] leaves one rule out.
//!
//! What it does not check: memory ordering (each step is atomic and seen by all
//! at once), blocks that are partly overwritten, and I/O errors.

use std::collections::HashSet;
use std::fmt;

use crate::{Action, Event, Phase, Source};

/// A rule of the protocol that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reads of the origin are returned without a second look.
    NoRevalidation,
    /// The switch does not wait for writes that are inside the hook.
    NoLeave,
    /// The switch does not wait for writes that are in flight.
    NoDrain,
    /// A slot is entered in the map before its data is on disk.
    MapBeforeData,
    /// A block counts as preserved when its load starts, not when it ends.
    PreservedBeforeLoaded,
    /// Writes pass while the cut is made.
    NoGate,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 6] = [
        Self::NoRevalidation,
        Self::NoLeave,
        Self::NoDrain,
        Self::MapBeforeData,
        Self::PreservedBeforeLoaded,
        Self::NoGate,
    ];
}

/// The size of the world.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Which block each writer overwrites once.
    pub writers: &'static [usize],
    /// Which block each reader reads once.
    pub readers: &'static [usize],
    /// Number of blocks.
    pub blocks: usize,
}

/// Content of a block: 0 at the start, otherwise 1 + the writer that wrote it.
type Content = u8;

/// What a slot of the COW file holds before anything was stored there.
const GARBAGE: Content = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Start,
    /// Inside the hook, after the look without the lock that let it pass.
    Passing,
    /// Inside the hook, before the look with the lock.
    Locking,
    Held,
    /// Given to the device by its submitter, which is still inside the hook.
    InFlightInside,
    /// Given to the device.
    InFlight,
    Done,
}

impl Writer {
    fn inside_hook(self) -> bool {
        matches!(self, Self::Passing | Self::Locking | Self::InFlightInside)
    }

    fn in_flight(self) -> bool {
        matches!(self, Self::InFlightInside | Self::InFlight)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Start,
    /// The origin was chosen; the device has not answered yet.
    AtOrigin,
    /// The device has answered; not yet looked again.
    Answered(Content),
    AtMemory,
    AtCow,
    Done,
}

/// What the engine knows of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    None,
    Loading,
    Loaded(Content),
    Dirty(Content),
    Storing(Content),
    Stored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Switch {
    Start,
    Gated,
    Left,
    Drained,
    Begun,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    phase: Phase,
    switch: Switch,
    origin: Vec<Content>,
    cow: Vec<Content>,
    t0: Vec<Content>,
    preserved: Vec<bool>,
    mapped: Vec<bool>,
    entries: Vec<Entry>,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
}

/// One step, as it is shown in a counterexample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next step of the switch at T0.
    Switch,
    /// The next step of this writer.
    Writer(usize),
    /// The device carries out the write of this writer.
    Apply(usize),
    /// The next step of this reader.
    Reader(usize),
    /// The engine starts to load this block.
    Load(usize),
    /// The device answers the engine's load of this block.
    Loaded(usize),
    /// The engine declares this block preserved.
    Preserve(usize),
    /// The engine releases the held writes of this block.
    Release(usize),
    /// The engine starts to store this block.
    Store(usize),
    /// The device has stored this block.
    Stored(usize),
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
    /// Distinct states that were seen.
    pub states: usize,
    /// The first thing that was wrong.
    pub counterexample: Option<Counterexample>,
}

/// Walks every schedule.
pub fn explore(world: &World, fault: Option<Fault>) -> Outcome {
    let mut explorer = Explorer {
        world,
        fault,
        seen: HashSet::new(),
        steps: Vec::new(),
    };
    let counterexample = explorer.walk(&State::start(world)).err();
    Outcome {
        states: explorer.seen.len(),
        counterexample,
    }
}

struct Explorer<'a> {
    world: &'a World,
    fault: Option<Fault>,
    seen: HashSet<State>,
    steps: Vec<Step>,
}

impl Explorer<'_> {
    fn walk(&mut self, state: &State) -> Result<(), Counterexample> {
        if !self.seen.insert(state.clone()) {
            return Ok(());
        }
        let mut moved = false;
        for step in self.candidates() {
            let mut next = state.clone();
            match next.take(step, self.world, self.fault) {
                Taken::No => continue,
                Taken::Yes => {}
                Taken::Wrong(what) => {
                    self.steps.push(step);
                    return Err(Counterexample {
                        what,
                        steps: self.steps.clone(),
                    });
                }
            }
            moved = true;
            self.steps.push(step);
            self.walk(&next)?;
            self.steps.pop();
        }
        if !moved && let Some(what) = state.unfinished() {
            return Err(Counterexample {
                what,
                steps: self.steps.clone(),
            });
        }
        Ok(())
    }

    fn candidates(&self) -> Vec<Step> {
        let mut steps = vec![Step::Switch];
        for writer in 0..self.world.writers.len() {
            steps.extend([Step::Writer(writer), Step::Apply(writer)]);
        }
        steps.extend((0..self.world.readers.len()).map(Step::Reader));
        for block in 0..self.world.blocks {
            steps.extend([
                Step::Load(block),
                Step::Loaded(block),
                Step::Preserve(block),
                Step::Release(block),
                Step::Store(block),
                Step::Stored(block),
            ]);
        }
        steps
    }
}

enum Taken {
    /// The step is not possible now.
    No,
    Yes,
    Wrong(String),
}

fn when(possible: bool) -> Taken {
    if possible { Taken::Yes } else { Taken::No }
}

impl State {
    fn start(world: &World) -> Self {
        Self {
            phase: Phase::New,
            switch: Switch::Start,
            origin: vec![0; world.blocks],
            cow: vec![GARBAGE; world.blocks],
            t0: Vec::new(),
            preserved: vec![false; world.blocks],
            mapped: vec![false; world.blocks],
            entries: vec![Entry::None; world.blocks],
            writers: vec![Writer::Start; world.writers.len()],
            readers: vec![Reader::Start; world.readers.len()],
        }
    }

    fn take(&mut self, step: Step, world: &World, fault: Option<Fault>) -> Taken {
        match step {
            Step::Switch => self.step_switch(fault),
            Step::Writer(writer) => self.step_writer(writer, world.writers[writer], fault),
            Step::Apply(writer) => self.apply(writer, world.writers[writer]),
            Step::Reader(reader) => self.step_reader(reader, world.readers[reader], fault),
            Step::Load(block) => self.load(block, world, fault),
            Step::Loaded(block) => self.loaded(block),
            Step::Preserve(block) => self.preserve(block),
            Step::Release(block) => self.release(block, world),
            Step::Store(block) => self.store(block, fault),
            Step::Stored(block) => self.stored(block),
        }
    }

    /// `quiesce.c`: gate, leave, drain, begin.
    fn step_switch(&mut self, fault: Option<Fault>) -> Taken {
        let inside = self.writers.iter().any(|writer| writer.inside_hook());
        let in_flight = self.writers.iter().any(|writer| writer.in_flight());
        match self.switch {
            Switch::Start => {
                self.phase = self.phase.next(Event::Gate).unwrap_or(self.phase);
                self.switch = Switch::Gated;
                Taken::Yes
            }
            Switch::Gated if !inside || fault == Some(Fault::NoLeave) => {
                self.switch = Switch::Left;
                Taken::Yes
            }
            Switch::Left if !in_flight || fault == Some(Fault::NoDrain) => {
                // The epoch header: from here on T0 is what the origin contains.
                self.t0 = self.origin.clone();
                self.switch = Switch::Drained;
                Taken::Yes
            }
            Switch::Drained => {
                self.phase = self.phase.next(Event::Begin).unwrap_or(self.phase);
                self.switch = Switch::Begun;
                Taken::Yes
            }
            _ => Taken::No,
        }
    }

    fn write_passes(&self, block: usize, fault: Option<Fault>) -> bool {
        self.phase.write_action(self.preserved[block], true, false) == Action::Pass
            || (fault == Some(Fault::NoGate) && self.phase == Phase::Holding)
    }

    /// `hook.c` and `origin.c`: a look without the lock, then one with it.
    fn step_writer(&mut self, writer: usize, block: usize, fault: Option<Fault>) -> Taken {
        let passes = self.write_passes(block, fault);
        self.writers[writer] = match self.writers[writer] {
            Writer::Start if passes => Writer::Passing,
            Writer::Start => Writer::Locking,
            Writer::Locking if passes => Writer::Passing,
            Writer::Locking => Writer::Held,
            Writer::Passing => Writer::InFlightInside,
            Writer::InFlightInside => Writer::InFlight,
            Writer::Held | Writer::InFlight | Writer::Done => return Taken::No,
        };
        Taken::Yes
    }

    fn apply(&mut self, writer: usize, block: usize) -> Taken {
        // A device may answer before the submitter has returned; the model
        // lets it answer only afterwards where the hook is concerned, which
        // loses no schedule: leaving the hook changes nothing else.
        if self.writers[writer] != Writer::InFlight {
            return Taken::No;
        }
        self.origin[block] = writer as Content + 1;
        self.writers[writer] = Writer::Done;
        Taken::Yes
    }

    /// `snapread.c`: locate, read, look again.
    fn step_reader(&mut self, reader: usize, block: usize, fault: Option<Fault>) -> Taken {
        match self.readers[reader] {
            Reader::Start => self.locate(reader, block),
            Reader::AtOrigin => {
                self.readers[reader] = Reader::Answered(self.origin[block]);
                Taken::Yes
            }
            Reader::Answered(content) => {
                if self.phase.read_confirmed(self.preserved[block])
                    || fault == Some(Fault::NoRevalidation)
                {
                    self.answer(reader, block, content)
                } else {
                    self.locate(reader, block)
                }
            }
            Reader::AtMemory => match self.entries[block] {
                Entry::Dirty(content) | Entry::Storing(content) => {
                    self.answer(reader, block, content)
                }
                // The reference that the reader holds keeps the page.
                _ => self.answer(reader, block, self.cow[block]),
            },
            Reader::AtCow => self.answer(reader, block, self.cow[block]),
            Reader::Done => Taken::No,
        }
    }

    fn locate(&mut self, reader: usize, block: usize) -> Taken {
        if self.phase != Phase::Active {
            return Taken::No;
        }
        let in_memory = !self.mapped[block]
            && matches!(self.entries[block], Entry::Dirty(_) | Entry::Storing(_));
        self.readers[reader] = match self
            .phase
            .read_source(false, self.preserved[block], in_memory)
        {
            Source::Origin => Reader::AtOrigin,
            Source::Memory => Reader::AtMemory,
            Source::Cow => Reader::AtCow,
            Source::Zero | Source::Fail => {
                return Taken::Wrong(format!("reader {reader} found no source"));
            }
        };
        Taken::Yes
    }

    fn answer(&mut self, reader: usize, block: usize, content: Content) -> Taken {
        self.readers[reader] = Reader::Done;
        if content == self.t0[block] {
            return Taken::Yes;
        }
        Taken::Wrong(format!(
            "reader {reader} got content {content} of block {block}, which was {} at T0",
            self.t0[block]
        ))
    }

    fn is_awaited(&self, block: usize, world: &World) -> bool {
        self.writers
            .iter()
            .zip(world.writers)
            .any(|(writer, &target)| *writer == Writer::Held && target == block)
    }

    /// The engine (`loading.c`, `engine.c`, `storing.c`), from here on. Nothing moves while the cut is made.
    fn load(&mut self, block: usize, world: &World, fault: Option<Fault>) -> Taken {
        if self.phase != Phase::Active
            || self.entries[block] != Entry::None
            || !self.is_awaited(block, world)
        {
            return Taken::No;
        }
        self.entries[block] = Entry::Loading;
        if fault == Some(Fault::PreservedBeforeLoaded) {
            self.preserved[block] = true;
        }
        Taken::Yes
    }

    fn loaded(&mut self, block: usize) -> Taken {
        let possible = self.entries[block] == Entry::Loading;
        if possible {
            self.entries[block] = Entry::Loaded(self.origin[block]);
        }
        when(possible)
    }

    fn preserve(&mut self, block: usize) -> Taken {
        let Entry::Loaded(content) = self.entries[block] else {
            return Taken::No;
        };
        self.entries[block] = Entry::Dirty(content);
        self.preserved[block] = true;
        Taken::Yes
    }

    fn release(&mut self, block: usize, world: &World) -> Taken {
        let mut released = false;
        if self.phase == Phase::Active && self.preserved[block] {
            for (writer, &target) in self.writers.iter_mut().zip(world.writers) {
                if target == block && *writer == Writer::Held {
                    *writer = Writer::InFlight;
                    released = true;
                }
            }
        }
        when(released)
    }

    fn store(&mut self, block: usize, fault: Option<Fault>) -> Taken {
        let Entry::Dirty(content) = self.entries[block] else {
            return Taken::No;
        };
        self.entries[block] = Entry::Storing(content);
        if fault == Some(Fault::MapBeforeData) {
            self.mapped[block] = true;
        }
        Taken::Yes
    }

    fn stored(&mut self, block: usize) -> Taken {
        let Entry::Storing(content) = self.entries[block] else {
            return Taken::No;
        };
        self.cow[block] = content;
        self.entries[block] = Entry::Stored;
        self.mapped[block] = true;
        Taken::Yes
    }

    /// What is left undone in a state that no step leaves.
    fn unfinished(&self) -> Option<String> {
        if let Some(writer) = self
            .writers
            .iter()
            .position(|writer| *writer != Writer::Done)
        {
            return Some(format!("writer {writer} was never carried out"));
        }
        let reader = self
            .readers
            .iter()
            .position(|reader| *reader != Reader::Done)?;
        Some(format!("reader {reader} never got an answer"))
    }
}
