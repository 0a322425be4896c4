//! Clean saves, as `save.c` does them.

use cowbird_core::persist::{
    FineRule, Kind, Mode, PAYLOAD, SLOT_BYTES, Status, choose_samples, encode_samples,
};

use super::memory::{Blocks, Device, Machine, OnDisk, Phase};
use crate::disks::{Health, ORIGIN, Stop};
use crate::faults::Fault;

/// Bits of a slot of a map.
const SLOT_BITS: u64 = 32000;

impl Device {
    /// `cb_save`; false where it was given up. `meanwhile` are writes that come while maps are written ahead.
    pub fn save(&mut self, io: &mut Machine, meanwhile: Option<(u64, u64)>) -> Result<bool, Stop> {
        if self.is_lost() {
            self.tell_loss(io)?;
            return Ok(false);
        }
        let current = self.phase != Phase::Active || self.saved_mode == Mode::Snapshot;
        if self.saved && self.saved_known && current {
            return Ok(true);
        }
        match self.save_all(io, meanwhile) {
            Err(Stop::Cut) => Err(Stop::Cut),
            Ok(()) => Ok(true),
            Err(_) => {
                // `cb_save_forget`, `cb_save_skip_sequence`
                self.on_disk = OnDisk::default();
                self.sequence += 2;
                Ok(false)
            }
        }
    }

    fn save_all(&mut self, io: &mut Machine, meanwhile: Option<(u64, u64)>) -> Result<(), Stop> {
        self.save_maps(io)?;
        io.disks.flush(io.disks.cow())?;
        self.sync_origin(io)?;
        if let Some((first, count)) = meanwhile {
            self.write(io, first, count)?;
            if self.is_lost() {
                return Err(Stop::Failed);
            }
        }
        // Nothing passes from here on. A disk that hangs does not let itself be drained.
        if io.disks.disks[ORIGIN].health == Health::Hung {
            return Err(Stop::Hung);
        }
        self.save_maps(io)?;
        let mut state = self.state(io, Status::Clean);
        state.mode = Mode::Incremental;
        if self.phase == Phase::Active {
            state.mode = Mode::Snapshot;
            state.slots_used = self.layout.data_first() + self.kept.len() as u64;
            self.save_index(io)?;
        }
        state.changes_from = self.changes.as_ref().map_or(0, |changes| changes.0);
        let since = self.on_disk.since.unwrap_or(self.sequence + 1);
        state.fine_rule = FineRule::Groups { since };
        state.head_crc = io.head_crc();
        self.save_samples(io)?;
        if !io.has(Fault::OriginUnflushedAtSave) {
            self.sync_origin(io)?;
        }
        state.written_sectors = io.written;
        // From here on the state on disk may be clean.
        self.saved = true;
        self.saved_known = false;
        self.saved_mode = state.mode;
        let flush = !io.has(Fault::SaveUnflushed);
        self.write_state(io, &state, flush)?;
        self.saved_known = true;
        Ok(())
    }

    fn save_maps(&mut self, io: &mut Machine) -> Result<(), Stop> {
        self.on_disk.since.get_or_insert(self.sequence + 1);
        let slots = self.layout.area(Kind::Fine, self.epoch).count() as u64;
        self.on_disk.bits.resize(slots as usize, None);
        let changes = self.changes.take();
        if let Some((_, blocks)) = changes.as_ref().filter(|_| !self.on_disk.changes) {
            let used: Blocks = blocks.iter().map(|block| block / SLOT_BITS).collect();
            for slot in used {
                self.on_disk.groups[1].insert(slot);
                if let Err(stop) = self.save_slot(io, blocks, self.epoch - 1, slot) {
                    self.changes = changes;
                    return Err(stop);
                }
            }
            self.on_disk.changes = true;
        }
        self.changes = changes;
        let tracked = std::mem::take(&mut self.tracked);
        let mut result = Ok(());
        for slot in 0..slots {
            let bits = tracked
                .range(slot * SLOT_BITS..(slot + 1) * SLOT_BITS)
                .count();
            let on_disk = self.on_disk.bits[slot as usize];
            if on_disk == Some(bits) || (bits == 0 && on_disk.is_none()) {
                continue;
            }
            self.on_disk.groups[0].insert(slot);
            result = self.save_slot(io, &tracked, self.epoch, slot);
            if result.is_err() {
                break;
            }
            self.on_disk.bits[slot as usize] = Some(bits);
        }
        self.tracked = tracked;
        result
    }

    fn save_slot(&self, io: &mut Machine, map: &Blocks, epoch: u64, slot: u64) -> Result<(), Stop> {
        let mut bytes = [0; SLOT_BYTES];
        let first = slot * SLOT_BITS;
        let all = map.range(first..first + SLOT_BITS);
        for bit in all
            .filter(|_| !io.has(Fault::SaveEmptyMap))
            .map(|block| block - first)
        {
            bytes[PAYLOAD.start + (bit / 8) as usize] |= 1 << (bit % 8);
        }
        let index = self.layout.area(Kind::Fine, epoch).start + slot;
        self.put(
            io,
            Kind::Fine,
            index,
            epoch,
            self.sequence + 1,
            &mut bytes,
            false,
        )
    }

    fn save_index(&self, io: &mut Machine) -> Result<(), Stop> {
        let per_slot = (PAYLOAD.len() / 8) as u64;
        let used = self.layout.data_first() + self.kept.len() as u64;
        for index in self.layout.data_first() / per_slot..used.div_ceil(per_slot) {
            let mut bytes = [0; SLOT_BYTES];
            for (at, slot) in (index * per_slot..used.min((index + 1) * per_slot)).enumerate() {
                let Some(kept) = slot.checked_sub(self.layout.data_first()) else {
                    continue;
                };
                let (block, sum) = self.kept[kept as usize];
                let word = block | u64::from(sum) << 32;
                bytes[PAYLOAD.start + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
            }
            let sequence = self.sequence + 1;
            self.put(
                io,
                Kind::Index,
                index,
                self.epoch,
                sequence,
                &mut bytes,
                false,
            )?;
        }
        Ok(())
    }

    /// `cb_samples_save`
    fn save_samples(&self, io: &mut Machine) -> Result<(), Stop> {
        let last: Vec<u64> = self.last.iter().copied().collect();
        let mut samples = choose_samples(io.blocks * 8, &last, &[], |_, _| false);
        for sample in &mut samples {
            sample.crc = io.sample_crc(sample);
        }
        let mut slot = [0; SLOT_BYTES];
        encode_samples(&samples, &mut slot);
        let sequence = self.sequence + 1;
        let copy = sequence % 2;
        self.put(
            io,
            Kind::Samples,
            copy,
            self.epoch,
            sequence,
            &mut slot,
            false,
        )
    }
}
