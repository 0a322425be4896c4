//! All that a history has of its machine, and what is counted and noted of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::device::{Blocks, Device, Machine};
use crate::disks::{Backup, Rng};
use crate::rows::{Hazard, Row};

/// Of the device with the COW file; no history needs its end.
pub(super) const DISK_SECTORS: u64 = 1 << 24;

/// Why a series is taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    CleanReboot,
    PowerCut,
    PowerCutOfOneDisk,
    ModuleReload,
    /// Something happened that the module cannot stand.
    Other,
}

/// What histories came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Reloads, those after which tracking went on, and those after which the snapshot did, too.
    pub reloads: BTreeMap<Cause, [u64; 3]>,
    /// Epochs that ended with a map.
    pub maps: u64,
    /// Missed blocks by row, and the histories with any.
    pub missed: BTreeMap<Row, u64>,
    /// Reloads that have forgotten the epoch before, of which nobody may have an image.
    pub forgotten: u64,
    /// Reloads of a machine that had stood something else.
    pub refused: BTreeMap<String, u64>,
    /// What happened, by kind.
    pub events: BTreeMap<&'static str, u64>,
}

/// A state of both volumes at one moment.
pub(super) struct Moment {
    pub(super) origin: Backup,
    pub(super) cow: Backup,
    /// Writes that had been done by then.
    pub(super) writes: usize,
    /// What the COW file did not know by then: it may be that of an earlier series.
    pub(super) hazards: Vec<Hazard>,
    /// `/etc/cowbird` is on a disk, too.
    pub(super) record: Option<u64>,
    pub(super) recorded: [u8; 16],
    pub(super) serial: u32,
    pub(super) recorded_serial: u32,
    pub(super) untracked: Option<u64>,
}

pub struct World {
    pub(super) io: Machine,
    pub(super) device: Option<Device>,
    /// Where `/etc/cowbird` says that the COW file is.
    pub(super) record: Option<u64>,
    /// And of which series.
    pub(super) recorded: [u8; 16],
    /// The tool runs after each boot, and a process that watches. Otherwise all that there is of the record is a copy
    /// in an initramfs.
    pub(super) remembers: bool,
    /// The first boot in which nobody tracked, as the record has it.
    pub(super) untracked: Option<u64>,
    /// What the origin's disk says of itself, and what `/etc/cowbird` has of it.
    pub(super) serial: u32,
    pub(super) recorded_serial: u32,
    /// The COW file says that tracking is lost, since a reload was refused.
    pub(super) told: bool,
    /// Another system has changed a block that was written last before an orderly end.
    pub(super) must_refuse: bool,
    /// Content at the instants of epochs, which is what images show.
    pub(super) images: HashMap<([u8; 16], u64), Rc<Vec<u32>>>,
    /// Epochs that were refused when their header was on disk: nobody has an image of them.
    pub(super) refused: BTreeSet<([u8; 16], u64)>,
    /// Epochs whose image was complete when their snapshot was given up.
    pub(super) complete: BTreeSet<([u8; 16], u64)>,
    /// Epochs whose snapshot was invalidated, and that an orderly end has saved as if they had an image.
    pub(super) forgetful: BTreeSet<([u8; 16], u64)>,
    pub(super) hazards: Vec<Hazard>,
    pub(super) moments: Vec<Moment>,
    /// Something has happened to this series that may end its tracking.
    pub(super) troubled: bool,
    /// Nothing but what every machine goes through.
    pub(super) ordinary: bool,
    pub(super) series: u8,
    pub(super) boots: u64,
    pub trace: Vec<String>,
    pub tally: Tally,
}

impl World {
    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.io.disks.rng
    }

    pub(super) fn note(&mut self, what: &'static str, more: String) {
        *self.tally.events.entry(what).or_default() += 1;
        self.trace.push(format!("{what} {more}"));
    }

    /// A place of a write and its length.
    pub(super) fn some_blocks(&mut self) -> (u64, u64) {
        let blocks = self.io.blocks;
        let longest = if self.rng().percent(10) { 300 } else { 4 };
        let count = 1 + self.rng().below(longest);
        // Places that come again, the head among them.
        let first = match self.rng().below(3) {
            0 => self.rng().below(20),
            1 => self.rng().below(40) * 23 % blocks,
            _ => self.rng().below(blocks),
        };
        (first, count.min(blocks - first))
    }

    pub(super) fn hazard(&mut self, row: Row, blocks: Blocks, boot: Option<u64>) {
        self.hazards.push(Hazard::new(row, blocks, boot));
    }
}
