//! What the module has in memory of a series, and the machine below it.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use cowbird_core::persist::{
    FineRule, GROUPS, GROUPS_BYTES, Kind, Layout, Marks, Meta, Mode, SAMPLES_LAST, SLOT_BYTES,
    Sample, Slot, State, Status,
};

use crate::disks::{At, Content, Disks, ORIGIN, Stop};
use crate::faults::Fault;

/// Slots for preserved blocks.
pub const DATA_SLOTS: u64 = 48;
/// Blocks whose checksum a clean save keeps.
const HEAD_BLOCKS: u64 = 16;

pub type Blocks = BTreeSet<u64>;

/// The machine below the module.
pub struct Machine {
    pub disks: Disks,
    pub boot_id: [u8; 16],
    /// Sectors of the origin that were written since the boot.
    pub written: u64,
    /// Where the writes of this boot began and ended, in order, as far as a module was there.
    pub ends: Vec<u64>,
    /// Number of the last write to the origin.
    pub version: u32,
    pub blocks: u64,
    /// Every block that was written, in order.
    pub log: Vec<u64>,
    /// Blocks that were written while no disk knew that tracking is lost.
    pub untold: Blocks,
    pub fault: Option<Fault>,
}

impl Machine {
    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// A write that reaches the origin's disk, block by block.
    pub fn write_origin(&mut self, first: u64, count: u64) -> Result<(), Stop> {
        self.written += count * 8;
        for block in first..first + count {
            self.version += 1;
            self.log.push(block);
            let content = Content::Version(self.version);
            self.disks.write(At::Origin(block), content, false)?;
        }
        Ok(())
    }

    pub fn head_crc(&self) -> u32 {
        let versions = (0..HEAD_BLOCKS).flat_map(|block| self.disks.version(block).to_le_bytes());
        crc32c::crc32c(&versions.collect::<Vec<u8>>())
    }

    /// In place of a checksum of its content.
    pub fn sample_crc(&self, sample: &Sample) -> u32 {
        let first = sample.sector / 8;
        let blocks = first..first + u64::from(sample.sectors / 8);
        let versions = blocks.flat_map(|block| self.disks.version(block).to_le_bytes());
        crc32c::crc32c(&versions.collect::<Vec<u8>>())
    }

    pub fn image(&self) -> Vec<u32> {
        (0..self.blocks)
            .map(|block| self.disks.version(block))
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Active,
    Tracking,
    Invalidated,
    /// Tracking is lost.
    Lost,
}

pub struct Device {
    pub uuid: [u8; 16],
    pub epoch: u64,
    pub(super) before_epoch: u64,
    pub phase: Phase,
    pub(super) base: u64,
    pub(super) layout: Layout,
    pub tracked: Blocks,
    pub tracked_from: u64,
    pub changes: Option<(u64, Blocks)>,
    pub(super) marks: Marks,
    pub(super) sequence: u64,
    pub(super) saved: bool,
    pub(super) saved_known: bool,
    pub(super) saved_mode: Mode,
    pub lost_in_cow: bool,
    pub(super) loss_was_told: bool,
    /// A state that the engine has written to a disk that hangs: there is only one at a time.
    pub(super) state_in_flight: bool,
    /// Preserved blocks and their sums by slot, from the first data slot on.
    pub(super) kept: Vec<(u64, u32)>,
    pub(super) on_disk: OnDisk,
    /// Blocks that were written last, the last one first.
    pub(super) last: VecDeque<u64>,
}

/// What is known of the maps on disk.
#[derive(Default)]
pub(super) struct OnDisk {
    pub(super) bits: Vec<Option<usize>>,
    pub(super) groups: [Blocks; 2],
    pub(super) since: Option<u64>,
    pub(super) changes: bool,
}

const ROOM: &str = "the file has room for its metadata";

pub fn layout_of(blocks: u64) -> (Layout, u64) {
    // The layout decides how many slots it takes itself.
    let first = Layout::new(blocks, 1 << 20, 1).expect(ROOM).data_first();
    let slots = first + DATA_SLOTS;
    (Layout::new(blocks, slots, 1).expect(ROOM), slots)
}

impl Device {
    pub fn is_lost(&self) -> bool {
        self.phase == Phase::Lost
    }

    pub(super) fn sector(&self, slot: u64) -> u64 {
        self.base + slot * 8
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of a slot")]
    pub(super) fn put(
        &self,
        io: &mut Machine,
        kind: Kind,
        index: u64,
        epoch: u64,
        sequence: u64,
        slot: &mut Slot,
        fua: bool,
    ) -> Result<(), Stop> {
        let meta = Meta {
            kind,
            uuid: self.uuid,
            epoch,
            index,
            sector: self.sector(self.layout.slots(kind).start + index),
            sequence,
        };
        meta.seal(slot);
        let content = Content::Slot(Rc::new(*slot));
        io.disks.write(At::Cow(meta.sector), content, fua)
    }

    pub(super) fn state(&self, io: &Machine, status: Status) -> State {
        State {
            status,
            mode: if self.phase == Phase::Tracking {
                Mode::Incremental
            } else {
                Mode::Snapshot
            },
            boot_id: io.boot_id,
            written_sectors: 0,
            head_crc: 0,
            slots_used: 0,
            tracked_from: self.tracked_from,
            changes_from: 0,
            fine_rule: FineRule::All,
        }
    }

    /// `cb_meta_write_state`, or the engine's without a flush. A clean state names the groups of maps that count.
    pub(super) fn write_state(
        &mut self,
        io: &mut Machine,
        state: &State,
        flush: bool,
    ) -> Result<(), Stop> {
        if flush {
            io.disks.flush(io.disks.cow())?;
        }
        let mut slot = [0; SLOT_BYTES];
        state.encode(&mut slot);
        let counts = state.status == Status::Clean;
        let groups = self.on_disk.groups.iter().zip([0, GROUPS_BYTES / 2]);
        for (groups, at) in groups.filter(|_| counts) {
            for group in groups {
                slot[GROUPS.start + at + (group / 8) as usize] |= 1 << (group % 8);
            }
        }
        self.sequence += 1;
        let (copy, sequence) = (self.sequence % 2, self.sequence);
        let done = self.put(io, Kind::State, copy, self.epoch, sequence, &mut slot, true);
        self.state_in_flight |= !flush && done == Err(Stop::Hung);
        done
    }

    /// `cb_written_note`, and the write.
    pub(super) fn let_go(&mut self, io: &mut Machine, first: u64, count: u64) -> Result<(), Stop> {
        for block in [first, first + count - 1] {
            self.last.push_front(block);
            io.ends.push(block);
        }
        self.last.truncate(SAMPLES_LAST);
        io.write_origin(first, count)
    }

    /// `cb_meta_sync_origin`
    pub(super) fn sync_origin(&self, io: &mut Machine) -> Result<(), Stop> {
        if io.disks.is_one() {
            return Ok(());
        }
        io.disks.flush(ORIGIN)
    }
}
