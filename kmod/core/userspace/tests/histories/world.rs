//! A machine with one series through its life: what happens to it, and the truth that no reload may miss.

mod state;
mod trouble;
mod truth;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use cowbird_core::persist;

use crate::device::{Blocks, Device, Machine, Phase};
use crate::disks::{Disks, Health, ORIGIN, Rng, Stop};
use crate::faults::Fault;
use crate::rows::Row;

pub use state::{Cause, Tally, World};

/// Where COW files begin.
const PLACES: [u64; 2] = [4096, 1 << 20];
/// Blocks of origins: one slot of a map, and two.
const SIZES: [u64; 2] = [900, 33_000];
/// So many of the last writes' ends are sure to be looked at.
const CERTAIN_ENDS: usize = 32;

impl World {
    pub fn new(seed: u64, ordinary: bool, fault: Option<Fault>) -> Self {
        let mut rng = Rng(seed);
        let disks = if rng.percent(75) { 2 } else { 1 };
        let size = SIZES[usize::from(rng.percent(15))];
        let io = Machine {
            disks: Disks::new(disks, rng.next()),
            boot_id: [0; 16],
            written: 0,
            ends: Vec::new(),
            version: 0,
            blocks: size,
            log: Vec::new(),
            untold: Blocks::new(),
            fault,
        };
        let mut world = Self {
            io,
            device: None,
            record: None,
            recorded: [0; 16],
            remembers: rng.percent(50),
            untracked: None,
            serial: 0,
            recorded_serial: 0,
            told: false,
            must_refuse: false,
            images: HashMap::new(),
            refused: BTreeSet::new(),
            complete: BTreeSet::new(),
            forgetful: BTreeSet::new(),
            hazards: Vec::new(),
            moments: Vec::new(),
            troubled: false,
            ordinary,
            series: 0,
            boots: 0,
            trace: vec![format!("{disks} disks, {size} blocks")],
            tally: Tally::default(),
        };
        world.boot();
        world
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.io.boot_id = [0; 16];
        self.io.boot_id[..8].copy_from_slice(&self.boots.to_le_bytes());
        self.io.written = 0;
        self.io.ends.clear();
        self.io.disks.fuse = None;
        self.device = None;
        let untold = std::mem::take(&mut self.io.untold);
        if !untold.is_empty() && self.untracked.is_none() {
            self.hazard(Row::CowHangs, untold, None);
        }
    }

    // ---- one step ----

    /// Something happens.
    pub fn step(&mut self) -> Result<(), String> {
        if self.rng().percent(12) {
            let left = self.rng().below(24);
            self.io.disks.fuse = Some(left);
        }
        let cow = self.io.disks.cow();
        if self.io.disks.disks[cow].health == Health::Failing && self.rng().percent(15) {
            self.health(cow, Health::Well, "COW disk is well again");
        }
        let done = match self.rng().below(100) {
            0..45 => self.some_writes(),
            45..52 => self.save(),
            52..60 => self.next_epoch()?,
            60..67 => self.give_up(),
            67..73 => self.unmount(),
            73..80 => self.reboot()?,
            80..86 => {
                self.note("power cut", String::new());
                Err(Stop::Cut)
            }
            86..90 => self.reload_module()?,
            _ if self.ordinary => self.some_writes(),
            _ => self.trouble()?,
        };
        self.io.disks.fuse = None;
        if done == Err(Stop::Cut) {
            self.power_cut()?;
        }
        if self.device.is_none() && self.rng().percent(40) {
            self.set_up()?;
        }
        Ok(())
    }

    /// The end of a history: the machine comes back once more, and the next map is used.
    pub fn end(&mut self) -> Result<(), String> {
        self.note("the end", String::new());
        if self.rng().percent(50) {
            self.reboot()?
                .or(Err("the power cannot go here".to_owned()))?;
        } else {
            self.power_cut()?;
        }
        if self
            .device
            .as_ref()
            .is_some_and(|device| device.phase == Phase::Active)
        {
            self.give_up()
                .or(Err("the power cannot go here".to_owned()))?;
        }
        self.next_epoch()?
            .or(Err("the power cannot go here".to_owned()))
    }

    // ---- the ordinary ----

    fn some_writes(&mut self) -> Result<(), Stop> {
        for _ in 0..=self.rng().below(4) {
            let (first, count) = self.some_blocks();
            self.note("write", format!("{first}+{count}"));
            self.write(first, count)?;
            if self.rng().percent(25) {
                // A filesystem does so.
                self.io.disks.flush(ORIGIN).or_else(unless_cut)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, first: u64, count: u64) -> Result<(), Stop> {
        match &mut self.device {
            Some(device) => {
                let done = device.write(&mut self.io, first, count);
                if done.is_ok() && !device.is_lost() {
                    let epoch = device.epoch;
                    let hazards = self.hazards.iter_mut();
                    hazards.for_each(|hazard| hazard.see(first, count, epoch));
                }
                if done != Err(Stop::Cut) && self.device.as_ref().is_some_and(Device::is_lost) {
                    // `cowbirdctl watch`.
                    self.remember();
                }
                done.or_else(unless_cut)
            }
            None => {
                self.troubled = true;
                if self.record.is_some() && !self.told && self.untracked.is_none() {
                    let blocks = (first..first + count).collect();
                    let boot = Some(self.boots);
                    self.hazard(Row::NotTakenUp, blocks, boot);
                }
                self.io.write_origin(first, count).or_else(unless_cut)
            }
        }
    }

    fn save(&mut self) -> Result<(), Stop> {
        let meanwhile = self.rng().percent(30).then(|| self.some_blocks());
        self.note(
            "save",
            meanwhile.map_or(String::new(), |it| format!("during {it:?}")),
        );
        match &mut self.device {
            Some(device) => device.save(&mut self.io, meanwhile).map(drop),
            None => Ok(()),
        }
    }

    fn unmount(&mut self) -> Result<(), Stop> {
        self.note("unmount", String::new());
        self.io.disks.flush(ORIGIN).or_else(unless_cut)?;
        match &mut self.device {
            Some(device) => device.save(&mut self.io, None).map(drop),
            None => Ok(()),
        }
    }

    fn give_up(&mut self) -> Result<(), Stop> {
        let Some(device) = &mut self.device else {
            return Ok(());
        };
        if device.is_lost() {
            // What is tried again from time to time.
            return device.tell_loss(&mut self.io);
        }
        if device.phase == Phase::Tracking {
            return Ok(());
        }
        self.complete.insert((device.uuid, device.epoch));
        let done = device.track(&mut self.io);
        self.note("track", String::new());
        done
    }

    fn next_epoch(&mut self) -> Result<Result<(), Stop>, String> {
        let refused = self.rng().percent(12);
        let between = self.some_blocks();
        let image = Rc::new(self.io.image());
        let Some(device) = &mut self.device else {
            return Ok(Ok(()));
        };
        if device.phase != Phase::Tracking {
            return Ok(self.give_up());
        }
        let (uuid, epoch) = (device.uuid, device.epoch + 1);
        self.images.insert((uuid, epoch), Rc::clone(&image));
        let done = device.next_epoch(&mut self.io, refused.then_some(between));
        self.note("next epoch", format!("{epoch}: {done:?}"));
        if done == Ok(true) {
            self.refused.remove(&(uuid, epoch));
        } else if refused {
            self.refused.insert((uuid, epoch));
        }
        match done {
            Err(stop) => Ok(Err(stop)),
            Ok(false) => Ok(Ok(())),
            Ok(true) => {
                self.tally.maps += 1;
                let changes = self
                    .device
                    .as_ref()
                    .and_then(|device| device.changes.clone());
                if let Some((from, blocks)) = changes {
                    self.check("the map", (uuid, from), epoch, &image, |block| {
                        blocks.contains(&block)
                    })?;
                }
                Ok(self.write_late_header())
            }
        }
    }

    fn write_late_header(&mut self) -> Result<(), Stop> {
        if !self.io.has(Fault::BeginBeforeHeader) {
            return Ok(());
        }
        let (first, count) = self.some_blocks();
        self.write(first, count)?;
        let device = self.device.as_ref();
        device.map_or(Ok(()), |device| device.late_header(&mut self.io))
    }

    fn set_up(&mut self) -> Result<(), String> {
        if self
            .io
            .disks
            .disks
            .iter()
            .any(|disk| disk.health != Health::Well)
        {
            return Ok(());
        }
        self.series += 1;
        let uuid = [self.series; 16];
        let place = PLACES[usize::from(self.rng().percent(50))];
        self.images.insert((uuid, 1), Rc::new(self.io.image()));
        let boot = self.boots;
        let made = Device::set_up(&mut self.io, uuid, place);
        self.note("set up", format!("series {} at {place}", self.series));
        match made {
            Ok(device) => {
                self.device = Some(device);
                self.record = Some(place);
                self.recorded = uuid;
                self.recorded_serial = self.serial;
                self.untracked = None;
                self.told = false;
                self.must_refuse = false;
                self.io.ends.clear();
                self.troubled = false;
                self.hazards.clear();
                self.io.untold.clear();
                debug_assert_eq!(boot, self.boots);
                Ok(())
            }
            Err(_) => self.power_cut(),
        }
    }

    // ---- ends of a session ----

    /// Everything is saved, and the disks are quiet.
    fn end_in_order(&mut self) -> Result<(), Stop> {
        self.io.disks.flush(ORIGIN).or_else(unless_cut)?;
        if let Some(device) = &mut self.device {
            device.tell_loss(&mut self.io)?;
            device.save(&mut self.io, None)?;
        }
        if self.io.disks.disks[self.io.disks.cow()].health == Health::Well {
            // It has been told, or could have been.
            self.io.untold.clear();
        }
        Ok(())
    }

    fn reboot(&mut self) -> Result<Result<(), Stop>, String> {
        self.note("reboot", String::new());
        if let Err(stop) = self.end_in_order() {
            return Ok(Err(stop));
        }
        let well = self
            .io
            .disks
            .disks
            .iter()
            .all(|disk| disk.health == Health::Well);
        let mut rng = Rng(self.rng().next());
        let disks = self.io.disks.disks.iter_mut();
        disks.for_each(|disk| disk.settle(&mut rng));
        self.come_back(if well {
            Cause::CleanReboot
        } else {
            Cause::Other
        })?;
        Ok(Ok(()))
    }

    fn power_cut(&mut self) -> Result<(), String> {
        let only = self.rng().percent(30).then(|| self.rng().below(2) as usize);
        let mut cause = Cause::PowerCut;
        let mut rng = Rng(self.rng().next());
        let count = self.io.disks.disks.len();
        for (at, disk) in self.io.disks.disks.iter_mut().enumerate() {
            if disk.health != Health::Well {
                cause = Cause::Other;
            }
            if count == 1 || only.is_none_or(|only| only == at) {
                disk.lose_cache(&mut rng);
                disk.health = Health::Well;
            } else {
                disk.settle(&mut rng);
                cause = cause.max(Cause::PowerCutOfOneDisk);
            }
        }
        self.trace.push(format!("the power goes, {only:?}"));
        self.come_back(cause)
    }

    /// Another boot, from which something may have kept the machine for a while.
    fn come_back(&mut self, cause: Cause) -> Result<(), String> {
        let saved = self
            .latest_state()
            .is_some_and(|(_, state)| state.status == persist::Status::Clean);
        let phase = self.device.as_ref().map(|device| device.phase);
        let tracked = phase.is_some_and(|phase| phase != Phase::Lost);
        // What a filesystem does at its end is among these.
        let ends = self.io.ends.iter().rev().take(CERTAIN_ENDS);
        let last: Blocks = ends.copied().filter(|_| saved && tracked).collect();
        self.boot();
        let away = !self.ordinary && self.rng().percent(15);
        if away {
            self.while_away(saved, &last);
        }
        if !self.ordinary && self.rng().percent(15) {
            // The series is not taken up in this boot; maybe something writes.
            self.note("not taken up", String::new());
            self.remember();
            self.troubled = true;
            return Ok(());
        }
        if !self.ordinary && self.rng().percent(8) {
            let (first, count) = self.some_blocks();
            self.note("written before the reload", format!("{first}+{count}"));
            let _ = self.write(first, count);
        }
        self.reload(cause, phase)
    }

    fn reload_module(&mut self) -> Result<Result<(), Stop>, String> {
        self.note("module reload", String::new());
        if let Err(stop) = self.io.disks.flush(ORIGIN).or_else(unless_cut) {
            return Ok(Err(stop));
        }
        // Without a save there is no suspend, and the module stays.
        if let Some(device) = &mut self.device {
            match device.save(&mut self.io, None) {
                Err(stop) => return Ok(Err(stop)),
                Ok(false) => return Ok(Ok(())),
                Ok(true) => {}
            }
        }
        let phase = self.device.take().map(|device| device.phase);
        if !self.ordinary && self.rng().percent(40) {
            let (first, count) = self.some_blocks();
            self.note("unseen write", format!("{first}+{count}"));
            if let Err(stop) = self.write(first, count) {
                return Ok(Err(stop));
            }
        }
        self.reload(Cause::ModuleReload, phase)?;
        Ok(Ok(()))
    }
}

/// A disk that refuses or hangs is no end of a session.
fn unless_cut(stop: Stop) -> Result<(), Stop> {
    match stop {
        Stop::Cut => Err(stop),
        Stop::Failed | Stop::Hung => Ok(()),
    }
}
