//! What an exploration is of: a rule that is left out, the size of the world, and the steps in it.

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
