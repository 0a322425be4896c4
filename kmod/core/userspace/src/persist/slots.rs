//! Slots of metadata: what each says of itself, and the state of a series.

use std::ops::Range;

use super::{Kind, Mode};
use crate::{Errno, check, ffi};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;

/// One slot.
pub type Slot = [u8; SLOT_BYTES];

/// Where a slot's payload begins, and its length.
pub const PAYLOAD: Range<usize> = 64..4064;

/// Identity of a metadata slot; `core/meta.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Kind.
    pub kind: Kind,
    /// Series.
    pub uuid: [u8; 16],
    /// Epoch.
    pub epoch: u64,
    /// Number within the kind.
    pub index: u64,
    /// Where it lies.
    pub sector: u64,
    /// Number of the state that it belongs to.
    pub sequence: u64,
}

impl Meta {
    /// Completes a slot whose payload is in place.
    pub fn seal(&self, slot: &mut Slot) {
        let meta = ffi::Meta {
            uuid: self.uuid,
            epoch: self.epoch,
            index: self.index,
            sector: self.sector,
            sequence: self.sequence,
            kind: self.kind as u32,
        };
        // SAFETY: the slot has the length that the function writes.
        unsafe { ffi::cb_meta_seal(&raw const meta, slot.as_mut_ptr()) };
    }

    /// Whether a slot is whole and says exactly this of itself.
    pub fn is_that_of(&self, slot: &Slot) -> Result<bool, Errno> {
        let mut meta = ffi::Meta::default();
        // SAFETY: the slot has the length that the function reads.
        check(unsafe { ffi::cb_meta_open(&raw mut meta, slot.as_ptr()) })?;
        Ok(meta.kind == self.kind as u32
            && meta.uuid == self.uuid
            && (meta.epoch, meta.index, meta.sector, meta.sequence)
                == (self.epoch, self.index, self.sector, self.sequence))
    }
}

/// Bytes of the groups that a state names; `core/groups.h`.
pub const GROUPS_BYTES: usize = 3904;

/// Where they lie in a state's slot.
pub const GROUPS: Range<usize> = PAYLOAD.start + 96..PAYLOAD.start + 96 + GROUPS_BYTES;

/// Most groups of one map.
pub const GROUPS_MAX: u64 = GROUPS_BYTES as u64 / 2 * 8;

/// Which slots of the maps a state means; `core/state.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FineRule {
    /// All, each with the state's own sequence.
    All,
    /// Those of the groups that it names, with any sequence from this one on.
    Groups {
        /// The first sequence that counts.
        since: u64,
    },
}

/// What a state says; `core/state.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Status {
    /// Saved, and nothing written since.
    Clean = 1,
    /// Writes go on.
    Dirty,
    /// A mark could not be written.
    Lost,
    /// Destroyed.
    Ended,
}

/// State of a series; `core/state.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// What it is worth.
    pub status: Status,
    /// What it was doing.
    pub mode: Mode,
    /// Boot that wrote it.
    pub boot_id: [u8; 16],
    /// The origin's write counter.
    pub written_sectors: u64,
    /// Checksum of the origin's head.
    pub head_crc: u32,
    /// Slots that the index names.
    pub slots_used: u64,
    /// Since when the fine map names all changes.
    pub tracked_from: u64,
    /// Since when the other fine map does.
    pub changes_from: u64,
    /// Which slots of both count.
    pub fine_rule: FineRule,
}

impl State {
    /// Writes the payload of a slot.
    pub fn encode(&self, slot: &mut Slot) {
        let state = ffi::State {
            status: self.status as u32,
            mode: match self.mode {
                Mode::Snapshot => 1,
                Mode::Incremental => 2,
            },
            boot_id: self.boot_id,
            written_sectors: self.written_sectors,
            head_crc: self.head_crc,
            fine_rule: u32::from(self.fine_rule != FineRule::All),
            slots_used: self.slots_used,
            tracked_from: self.tracked_from,
            changes_from: self.changes_from,
            fine_since: match self.fine_rule {
                FineRule::All => 0,
                FineRule::Groups { since } => since,
            },
        };
        // SAFETY: the payload has the length that the function writes.
        unsafe { ffi::cb_state_encode(&raw const state, slot[PAYLOAD].as_mut_ptr()) };
    }

    /// Reads the payload of a slot; `None` for a status or mode that does not exist.
    pub fn decode(slot: &Slot) -> Option<Self> {
        let mut state = ffi::State::default();
        // SAFETY: the payload has the length that the function reads.
        unsafe { ffi::cb_state_decode(&raw mut state, slot[PAYLOAD].as_ptr()) };
        Some(Self {
            status: match state.status {
                1 => Status::Clean,
                2 => Status::Dirty,
                3 => Status::Lost,
                4 => Status::Ended,
                _ => return None,
            },
            mode: match state.mode {
                1 => Mode::Snapshot,
                2 => Mode::Incremental,
                _ => return None,
            },
            boot_id: state.boot_id,
            written_sectors: state.written_sectors,
            head_crc: state.head_crc,
            slots_used: state.slots_used,
            tracked_from: state.tracked_from,
            changes_from: state.changes_from,
            fine_rule: match state.fine_rule {
                0 => FineRule::All,
                1 => FineRule::Groups {
                    since: state.fine_since,
                },
                _ => return None,
            },
        })
    }
}
