//! What a reload says, against what is true.

use cowbird_core::Kept;
use cowbird_core::persist::{self, Kind, Mode, Now, SLOT_BYTES, Series, State};

use super::state::{Cause, DISK_SECTORS, World};
use crate::device::{Device, Phase, layout_of};
use crate::faults::Fault;
use crate::rows::Row;

impl World {
    pub(super) fn now(&self) -> Now {
        Now {
            boot_id: self.io.boot_id,
            written_sectors: self.io.written,
            head_crc: self.io.head_crc(),
            uncounted: false,
            series: Some(self.recorded).filter(|_| !self.io.has(Fault::ReloadTakesAnySeries)),
        }
    }

    /// The state that counts, whatever it says, with its sequence.
    pub(super) fn latest_state(&self) -> Option<(u64, State)> {
        let place = self.record?;
        let (layout, _) = layout_of(self.io.blocks);
        let states = layout.slots(Kind::State);
        states
            .filter_map(|slot| self.io.disks.slot(place + slot * 8))
            .filter(|slot| {
                crc32c::crc32c(&slot[..SLOT_BYTES - 4]).to_le_bytes() == slot[SLOT_BYTES - 4..]
            })
            .filter_map(|slot| {
                let sequence = u64::from_le_bytes(slot[56..64].try_into().expect("eight bytes"));
                Some((sequence, State::decode(&slot)?))
            })
            .max_by_key(|(sequence, _)| *sequence)
    }

    fn ask(&self, now: &Now) -> Result<Series, persist::Lost> {
        let read = |sector: u64| self.io.disks.slot(sector);
        let series = persist::reload(read, self.record.unwrap_or(0), DISK_SECTORS, now)?;
        let ignored = self.io.has(Fault::SamplesIgnored) || self.io.has(Fault::ReloadTrustsAll);
        match series.changed_sample(|sample| self.io.sample_crc(sample)) {
            // `cb_samples_compare`
            Some(_) if !ignored => Err(persist::Lost {
                errno: 116,
                overtaken: false,
                reason: "the origin is not as it was when tracking was saved".to_owned(),
            }),
            _ => Ok(series),
        }
    }

    /// `phase` is that of the module before.
    pub(super) fn reload(&mut self, cause: Cause, phase: Option<Phase>) -> Result<(), String> {
        let Some(place) = self.record else {
            return Ok(());
        };
        let cause = if self.troubled { Cause::Other } else { cause };
        if self.serial != self.recorded_serial && !self.io.has(Fault::ReloadTakesAnyDisk) {
            self.refused_by_tool(
                cause,
                "the origin is another device than the one that is recorded",
            );
            return Ok(());
        }
        if self.untracked.is_some_and(|boot| boot != self.boots)
            && !self.io.has(Fault::RecordForgetsBoots)
        {
            self.refused_by_tool(cause, "its changes were not tracked in an earlier boot");
            return Ok(());
        }
        let mut found = self.ask(&self.now());
        if self.io.has(Fault::ReloadTrustsAll)
            && found.is_err()
            && let Some((_, state)) = self.latest_state()
        {
            let now = Now {
                boot_id: state.boot_id,
                written_sectors: state.written_sectors,
                head_crc: state.head_crc,
                ..self.now()
            };
            found = self.ask(&now);
        }
        let count = self.tally.reloads.entry(cause).or_default();
        count[0] += 1;
        let series = match found {
            Ok(series) => series,
            Err(lost) if cause == Cause::Other => {
                self.trace.push(format!("refused: {lost}"));
                if lost.overtaken {
                    self.tell_refusal(place);
                }
                self.remember();
                *self.tally.refused.entry(lost.reason).or_default() += 1;
                self.troubled = true;
                return Ok(());
            }
            Err(lost) => return Err(format!("tracking ends after {cause:?}: {lost}")),
        };
        self.check_doubt(&series)?;
        let must_refuse = std::mem::take(&mut self.must_refuse) && series.clean;
        if must_refuse && !self.io.has(Fault::ReloadTrustsAll) {
            return Err("a change of what was written last was missed".to_owned());
        }
        self.untracked = None;
        let count = self.tally.reloads.entry(cause).or_default();
        count[1] += 1;
        count[2] += u64::from(series.snapshot);
        self.trace.push(format!(
            "reload after {cause:?}: epoch {}, clean {}, snapshot {}, from {}",
            series.epoch, series.clean, series.snapshot, series.tracked.from_epoch
        ));
        self.check_reach(&series)?;
        self.check_series(&series, place)?;
        self.check_order(&series, cause, phase)?;
        if self.rng().percent(40) && !self.io.has(Fault::ReloadTrustsAll) {
            self.check_unreadable(&series, place)?;
        }
        let sequence = self.latest_state().map_or(0, |(sequence, _)| sequence);
        self.device = Some(Device::resume(&series, &self.io, place, sequence));
        Ok(())
    }

    /// Before the module is asked.
    fn refused_by_tool(&mut self, cause: Cause, reason: &str) {
        self.trace.push(format!("refused: {reason}"));
        self.tally.reloads.entry(cause).or_default()[0] += 1;
        *self.tally.refused.entry(reason.to_owned()).or_default() += 1;
        self.troubled = true;
        self.remember();
    }

    /// The record says from then on that nobody tracked in this boot.
    pub(super) fn remember(&mut self) {
        if self.remembers {
            self.untracked.get_or_insert(self.boots);
            self.hazards.retain(|hazard| hazard.row != Row::NotTakenUp);
            self.io.untold.clear();
        }
    }

    /// `cb_resume_tell`: the COW file says from then on that tracking is lost.
    fn tell_refusal(&mut self, place: u64) {
        let sequence = self.latest_state().map_or(0, |(sequence, _)| sequence);
        let Some(mut refused) = Device::refused(&self.io, place, sequence) else {
            return;
        };
        if self.io.has(Fault::RefusalIsNotTold) {
            self.told = true;
        } else if refused.tell_loss(&mut self.io).is_ok() {
            self.told = refused.lost_in_cow;
        }
        if self.told {
            self.hazards.retain(|hazard| hazard.row != Row::NotTakenUp);
        }
    }

    /// Whoever goes on has not been given a reason for doubt.
    fn check_doubt(&self, series: &Series) -> Result<(), String> {
        if self.io.has(Fault::ReloadTrustsAll) {
            return Ok(());
        }
        let Some((_, state)) = self.latest_state() else {
            return Err("tracking goes on without a state".to_owned());
        };
        if series.clean && state.head_crc != self.io.head_crc() {
            return Err("tracking goes on with another head of the origin".to_owned());
        }
        let seen = series.clean && state.boot_id == self.io.boot_id;
        if self.io.written != if seen { state.written_sectors } else { 0 } {
            return Err("tracking goes on after writes that nobody saw".to_owned());
        }
        Ok(())
    }

    /// What ended in order has been saved, and its snapshot goes on.
    fn check_order(
        &mut self,
        series: &Series,
        cause: Cause,
        phase: Option<Phase>,
    ) -> Result<(), String> {
        if !matches!(cause, Cause::CleanReboot | Cause::ModuleReload) {
            return Ok(());
        }
        if !series.clean {
            return Err(format!("what {cause:?} has saved is not known"));
        }
        if phase == Some(Phase::Active) && !series.snapshot {
            return Err(format!("a snapshot ends with {cause:?}"));
        }
        Ok(())
    }

    /// The same reload, where one slot cannot be read.
    fn check_unreadable(&mut self, series: &Series, place: u64) -> Result<(), String> {
        let (layout, _) = layout_of(self.io.blocks);
        let kinds = [
            Kind::Extents,
            Kind::State,
            Kind::Regions,
            Kind::Fine,
            Kind::Index,
            Kind::Samples,
        ];
        let kind = kinds[self.rng().below(6) as usize];
        let slots = layout.slots(kind);
        let index = self.rng().below(slots.end - slots.start);
        let bad = place + (slots.start + index) * 8;
        let read = |sector: u64| self.io.disks.slot(sector).filter(|_| sector != bad);
        let found = persist::reload(read, place, DISK_SECTORS, &self.now());
        let needed = match kind {
            Kind::Extents | Kind::State => true,
            Kind::Regions => layout.area(kind, series.epoch).contains(&index),
            Kind::Fine | Kind::Index => false,
            Kind::Samples => {
                let sequence = self.latest_state().map_or(0, |(sequence, _)| sequence);
                series.clean && index == sequence % 2
            }
        };
        *self.tally.events.entry("slot unreadable").or_default() += 1;
        let what = format!("slot {index} of {kind:?} cannot be read");
        match found {
            Ok(_) if needed => Err(format!("{what}, and tracking goes on")),
            Ok(series) => {
                // It does not happen: what is known to be missed there does not count.
                let missed = self.tally.missed.clone();
                let checked = self.check_series(&series, place);
                self.tally.missed = missed;
                checked.map_err(|error| format!("{what}: {error}"))
            }
            Err(lost)
                if matches!(kind, Kind::Fine | Kind::Index)
                    || (kind == Kind::Samples && !needed) =>
            {
                Err(format!("{what}, and tracking ends: {lost}"))
            }
            Err(_) => Ok(()),
        }
    }

    /// Of an epoch whose snapshot ended with the machine nobody has an image: changes since the one before are known, too.
    /// But for an invalidated snapshot: its clean save says only that there is none, and the crash of a later boot asks for a full
    /// copy.
    fn check_reach(&mut self, series: &Series) -> Result<(), String> {
        let before = series.epoch - 1;
        let epoch = (series.uuid, series.epoch);
        if before == 0 || self.complete.contains(&epoch) || series.tracked.from_epoch <= before {
            return Ok(());
        }
        let older = series.before.as_ref();
        if older.is_some_and(|older| older.from_epoch <= before) {
            if series.mode == Mode::Incremental {
                self.forgetful.insert(epoch);
            }
            return Ok(());
        }
        if self.forgetful.contains(&epoch) {
            self.tally.forgotten += 1;
            return Ok(());
        }
        Err(format!(
            "epoch {} has no image, and changes since epoch {before} are not known",
            series.epoch
        ))
    }

    fn check_series(&mut self, series: &Series, place: u64) -> Result<(), String> {
        let now = self.io.image();
        let from = (series.uuid, series.tracked.from_epoch);
        self.check("changes", from, series.epoch + 1, &now, |block| {
            series.tracked.contains(block)
        })?;
        let epoch = (series.uuid, series.epoch);
        let Some(at_epoch) = self.images.get(&epoch).cloned() else {
            return Err(format!("epoch {} has never begun", series.epoch));
        };
        if let Some(before) = &series.before {
            let from = (series.uuid, before.from_epoch);
            self.check("changes before", from, series.epoch, &at_epoch, |block| {
                before.contains(block)
            })?;
        }
        if series.snapshot {
            let mut shown = now;
            for Kept { slot, block, sum } in &series.index {
                let kept = self
                    .io
                    .disks
                    .slot(place + u64::from(*slot) * 8)
                    .unwrap_or([0; SLOT_BYTES]);
                // A reader of this block gets an error, and then of all of them.
                if cowbird_core::sum(*block, &kept) != *sum {
                    return Ok(());
                }
                shown[*block as usize] = u32::from_le_bytes([kept[0], kept[1], kept[2], kept[3]]);
            }
            self.check("the snapshot", epoch, series.epoch, &shown, |_| false)?;
        }
        Ok(())
    }

    /// Every block that differs from an image is named, or is known to be beyond what can be seen. `until` is the epoch at
    /// whose instant the map ends.
    pub(super) fn check(
        &mut self,
        what: &str,
        image: ([u8; 16], u64),
        until: u64,
        other: &[u32],
        named: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        let Some(content) = self.images.get(&image) else {
            return Err(format!("{what}: epoch {} has never begun", image.1));
        };
        if self.refused.contains(&image) {
            return Ok(());
        }
        let differ =
            (0..self.io.blocks).filter(|block| content[*block as usize] != other[*block as usize]);
        let missed: Vec<u64> = differ.filter(|block| !named(*block)).collect();
        for block in missed {
            let boot = self.boots;
            let open = self
                .hazards
                .iter()
                .find(|hazard| hazard.explains(block, boot, until))
                .map(|hazard| hazard.row);
            let Some(row) = open else {
                return Err(format!(
                    "{what} since epoch {}: block {block} was missed",
                    image.1
                ));
            };
            *self.tally.missed.entry(row).or_default() += 1;
        }
        Ok(())
    }
}
