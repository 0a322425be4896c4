//! A series in the module's memory, in the order of its writes and flushes: `marking.c`, `losing.c`, `save.c`, `quiesce.c`,
//! `making.c`, `retiring.c` and `resume.c` of `kmod/src`.

mod memory;
mod saving;

use std::collections::VecDeque;
use std::rc::Rc;

use cowbird_core::persist::{
    Kind, Layout, Marks, Mode, SLOT_BYTES, Sample, Series, Slot, Status, encode_extents,
};
use cowbird_core::{HEADER_SUMS, Header, sum};

use crate::disks::{At, Content, Health, Stop};
use crate::faults::Fault;
use memory::{DATA_SLOTS, OnDisk};

pub use memory::{Blocks, Device, Machine, Phase, layout_of};

fn empty_marks(layout: &Layout, regions: impl IntoIterator<Item = u64>) -> Marks {
    let mut marks = Marks::new(layout);
    let blocks = 1 << layout.region_shift();
    for region in regions {
        marks.want(region * blocks, region * blocks);
    }
    for slot in (0..64)
        .filter(|slot| marks.wanted_slots() >> slot & 1 != 0)
        .collect::<Vec<_>>()
    {
        marks.issue(slot, &mut [0; SLOT_BYTES]);
        marks.done(slot);
    }
    marks
}

/// `cb_written_seed`: what a reload goes on from.
fn last_of(samples: &[Sample]) -> VecDeque<u64> {
    let blocks = samples.iter().filter(|sample| sample.sectors == 8);
    blocks.map(|sample| sample.sector / 8).collect()
}

impl Device {
    /// A new series: `cb_meta_format`, then the cut.
    pub fn set_up(io: &mut Machine, uuid: [u8; 16], base: u64) -> Result<Self, Stop> {
        let (layout, slots) = layout_of(io.blocks);
        let mut device = Self {
            uuid,
            epoch: 1,
            before_epoch: 0,
            phase: Phase::Active,
            base,
            layout,
            tracked: Blocks::new(),
            tracked_from: 1,
            changes: None,
            marks: empty_marks(&layout, []),
            sequence: 0,
            saved: false,
            saved_known: false,
            saved_mode: Mode::Snapshot,
            lost_in_cow: false,
            loss_was_told: false,
            state_in_flight: false,
            kept: Vec::new(),
            on_disk: OnDisk::default(),
            last: VecDeque::new(),
        };
        for (index, mut slot) in encode_extents(&[(base, slots)]).into_iter().enumerate() {
            device.put(io, Kind::Extents, index as u64, 1, 0, &mut slot, false)?;
        }
        for copy in 0..2 {
            let mut slot = [0; SLOT_BYTES];
            device.state(io, Status::Dirty).encode(&mut slot);
            device.put(io, Kind::State, copy, 1, 0, &mut slot, false)?;
        }
        for kind in [Kind::Samples, Kind::Regions, Kind::Fine, Kind::Index] {
            for index in 0..layout.slots(kind).count() as u64 {
                device.put(io, kind, index, 0, 0, &mut [0; SLOT_BYTES], false)?;
            }
        }
        let state = device.state(io, Status::Dirty);
        device.write_state(io, &state, true)?;
        device.cut(io, true)?;
        Ok(device)
    }

    /// What a reload found: `cb_resume_load`.
    pub fn resume(series: &Series, io: &Machine, base: u64, sequence: u64) -> Self {
        let header = io.disks.slot(base);
        let header = header.and_then(|slot| Header::decode(&slot).ok());
        let (layout, _) = layout_of(io.blocks);
        let blocks = |words: &[u64]| -> Blocks {
            let bits = words.iter().enumerate().flat_map(|(at, word)| {
                (0..64)
                    .filter(move |bit| word >> bit & 1 != 0)
                    .map(move |bit| at as u64 * 64 + bit)
            });
            bits.collect()
        };
        let mut tracked = blocks(&series.tracked.words);
        if io.has(Fault::ReloadForgetsMarks) && !series.clean {
            tracked.clear();
        }
        Self {
            uuid: series.uuid,
            epoch: series.epoch,
            before_epoch: header.expect("a reload has read it").before_epoch,
            phase: if series.snapshot {
                Phase::Active
            } else {
                Phase::Tracking
            },
            base,
            layout,
            tracked,
            tracked_from: series.tracked.from_epoch,
            changes: series
                .before
                .as_ref()
                .map(|before| (before.from_epoch, blocks(&before.words))),
            marks: empty_marks(&layout, blocks(&series.marked)),
            sequence,
            saved: series.clean,
            saved_known: series.clean,
            saved_mode: series.mode,
            lost_in_cow: false,
            loss_was_told: false,
            state_in_flight: false,
            kept: series
                .index
                .iter()
                .map(|kept| (kept.block, kept.sum))
                .collect(),
            on_disk: OnDisk::default(),
            last: last_of(&series.samples),
        }
    }

    /// What a reload has refused that the COW file would let go on: `cb_resume_tell`. None where the file is not
    /// that of a series.
    pub fn refused(io: &Machine, base: u64, sequence: u64) -> Option<Self> {
        let header = Header::decode(&io.disks.slot(base)?).ok()?;
        let (layout, _) = layout_of(io.blocks);
        Some(Self {
            uuid: header.uuid,
            epoch: header.epoch,
            before_epoch: header.before_epoch,
            phase: Phase::Lost,
            base,
            layout,
            tracked: Blocks::new(),
            tracked_from: 0,
            changes: None,
            marks: empty_marks(&layout, Blocks::new()),
            sequence,
            saved: false,
            saved_known: false,
            saved_mode: Mode::Incremental,
            lost_in_cow: false,
            loss_was_told: false,
            state_in_flight: false,
            kept: Default::default(),
            on_disk: OnDisk::default(),
            last: VecDeque::new(),
        })
    }

    // ---- writes ----

    /// A write that meets the hook, from its arrival to its end.
    pub fn write(&mut self, io: &mut Machine, first: u64, count: u64) -> Result<(), Stop> {
        let mut told = Ok(());
        if !self.is_lost() && io.has(Fault::MarkAfterWrite) {
            self.let_go(io, first, count)?;
        }
        if !self.is_lost() {
            told = self.make_stable(io, first, first + count - 1);
        }
        match told {
            Ok(()) => {}
            Err(Stop::Cut) => return Err(Stop::Cut),
            Err(Stop::Failed | Stop::Hung) => self.phase = Phase::Lost,
        }
        if self.is_lost() {
            // It waits a second for that at most.
            self.tell_loss(io)?;
            if !self.lost_in_cow && io.disks.disks[io.disks.cow()].health != Health::Well {
                io.untold.extend(first..first + count);
            }
        } else {
            self.preserve(io, first, count)?;
            self.tracked.extend(first..first + count);
        }
        if io.has(Fault::MarkAfterWrite) && !self.is_lost() {
            return Ok(());
        }
        self.let_go(io, first, count)
    }

    /// `cb_marking_start`: state and marks are under way together.
    fn make_stable(&mut self, io: &mut Machine, first: u64, last: u64) -> Result<(), Stop> {
        let dirty = self.saved && !io.has(Fault::CleanNotCleared);
        // `cb_origin_marked`
        if !dirty && self.marks.next_unstable(first, last).is_none() {
            return Ok(());
        }
        self.marks.want(first, last);
        let wanted = self.marks.wanted_slots();
        let slots: Vec<u32> = (0..64).filter(|slot| wanted >> slot & 1 != 0).collect();
        let marks_first = io.disks.rng.percent(50);
        for step in [marks_first, !marks_first] {
            if !step && dirty {
                let state = self.state(io, Status::Dirty);
                self.write_state(io, &state, false)?;
                self.saved = false;
            }
            for slot in slots.iter().filter(|_| step) {
                self.write_marks(io, *slot)?;
            }
        }
        assert_eq!(self.marks.next_unstable(first, last), None);
        Ok(())
    }

    fn write_marks(&mut self, io: &mut Machine, slot: u32) -> Result<(), Stop> {
        let mut bytes = [0; SLOT_BYTES];
        self.marks.issue(slot, &mut bytes);
        let index = self.layout.area(Kind::Regions, self.epoch).start + u64::from(slot);
        let fua = !io.has(Fault::MarkInCache);
        self.put(io, Kind::Regions, index, self.epoch, 0, &mut bytes, fua)?;
        self.marks.done(slot);
        Ok(())
    }

    /// Content at the instant goes to a slot; where there is none, the snapshot is invalidated.
    fn preserve(&mut self, io: &mut Machine, first: u64, count: u64) -> Result<(), Stop> {
        if self.phase != Phase::Active {
            return Ok(());
        }
        for block in (first..first + count).filter(|block| !self.tracked.contains(block)) {
            let slot = self.layout.data_first() + self.kept.len() as u64;
            if self.kept.len() as u64 >= DATA_SLOTS {
                self.phase = Phase::Invalidated;
                return Ok(());
            }
            let version = io.disks.version(block);
            let mut bytes = [0; SLOT_BYTES];
            bytes[..4].copy_from_slice(&version.to_le_bytes());
            let at = At::Cow(self.sector(slot));
            let sum = sum(block, &bytes);
            match io.disks.write(at, Content::Slot(Rc::new(bytes)), false) {
                Err(Stop::Cut) => return Err(Stop::Cut),
                Err(_) => {
                    self.phase = Phase::Invalidated;
                    return Ok(());
                }
                Ok(()) => self.kept.push((block, sum)),
            }
        }
        Ok(())
    }

    /// `losing.c`: LOST is tried with each write, and before a filesystem or the machine ends. Errors are no error here.
    pub fn tell_loss(&mut self, io: &mut Machine) -> Result<(), Stop> {
        let again = self.loss_was_told;
        self.loss_was_told = self.is_lost();
        if self.is_lost() && io.disks.disks[io.disks.cow()].health == Health::Well {
            // It has been told, or could be.
            io.untold.clear();
        }
        if !self.is_lost()
            || self.lost_in_cow
            || self.state_in_flight
            || (again && io.has(Fault::TellLossOnce))
        {
            return Ok(());
        }
        let state = self.state(io, Status::Lost);
        match self.write_state(io, &state, false) {
            Err(Stop::Cut) => Err(Stop::Cut),
            Err(_) => Ok(()),
            Ok(()) => {
                self.lost_in_cow = true;
                Ok(())
            }
        }
    }

    // ---- epochs ----

    /// `cb_device_track`: the snapshot is given up, and the disk told.
    pub fn track(&mut self, io: &mut Machine) -> Result<(), Stop> {
        self.phase = Phase::Tracking;
        self.kept.clear();
        if io.has(Fault::ForgetAtTransition) {
            self.tracked.clear();
        }
        let state = self.state(io, Status::Dirty);
        match self.write_state(io, &state, true) {
            Err(Stop::Cut) => Err(Stop::Cut),
            // It is only told.
            Err(_) => Ok(()),
            Ok(()) => {
                self.saved = false;
                Ok(())
            }
        }
    }

    /// From the gate to the header: what was written before is stable, then the epoch is on disk.
    fn cut(&self, io: &mut Machine, with_header: bool) -> Result<(), Stop> {
        if !io.has(Fault::OriginUnflushed) {
            self.sync_origin(io)?;
        }
        if with_header || !io.has(Fault::BeginBeforeHeader) {
            self.write_header(io)?;
        }
        Ok(())
    }

    fn write_header(&self, io: &mut Machine) -> Result<(), Stop> {
        let (_, slots) = layout_of(io.blocks);
        let header = Header {
            uuid: self.uuid,
            epoch: self.epoch,
            before_epoch: self.before_epoch,
            origin_start: 0,
            origin_sectors: io.blocks * 8,
            cow_slots: slots,
            sector: self.sector(0),
            extents_sector: self.sector(1),
            data_first: self.layout.data_first(),
            extent_count: 1,
            region_shift: self.layout.region_shift(),
            flags: HEADER_SUMS,
        };
        let flush = !io.has(Fault::OriginUnflushed) || !io.disks.is_one();
        if flush {
            io.disks.flush(io.disks.cow())?;
        }
        let slot: Slot = header.encode().try_into().expect("a header is a slot");
        let content = Content::Slot(Rc::new(slot));
        io.disks.write(At::Cow(self.sector(0)), content, true)
    }

    /// The next epoch; false where it is refused. `refused` has it refused when its header is on disk, with a write before that
    /// is put back.
    pub fn next_epoch(
        &mut self,
        io: &mut Machine,
        refused: Option<(u64, u64)>,
    ) -> Result<bool, Stop> {
        let (epoch, before_epoch) = (self.epoch, self.before_epoch);
        self.before_epoch = epoch;
        self.epoch += 1;
        let cut = self.cut(io, false);
        if cut == Err(Stop::Cut) {
            return Err(Stop::Cut);
        }
        if cut.is_err() || refused.is_some() {
            // `cb_device_restore_header`
            (self.epoch, self.before_epoch) = (epoch, before_epoch);
            if let Some((first, count)) = refused
                && self.write(io, first, count) == Err(Stop::Cut)
            {
                return Err(Stop::Cut);
            }
            match self.write_header(io) {
                Err(Stop::Cut) => return Err(Stop::Cut),
                Err(_) => {
                    self.phase = Phase::Lost;
                    self.tell_loss(io)?;
                }
                Ok(()) => {}
            }
            return Ok(false);
        }
        self.phase = Phase::Active;
        self.changes = Some((self.tracked_from, std::mem::take(&mut self.tracked)));
        self.tracked_from = self.epoch;
        self.marks = empty_marks(&self.layout, []);
        self.sequence += 2;
        (self.saved, self.saved_known) = (false, false);
        self.saved_mode = Mode::Snapshot;
        self.kept.clear();
        self.on_disk = OnDisk::default();
        Ok(true)
    }

    /// A reader of the header that comes later than the epoch.
    pub fn late_header(&self, io: &mut Machine) -> Result<(), Stop> {
        if io.has(Fault::BeginBeforeHeader) {
            return self.write_header(io);
        }
        Ok(())
    }
}
