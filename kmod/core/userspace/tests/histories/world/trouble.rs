//! What nobody can stand: disks that fail, go back in time or are others, and writes of another system.

use cowbird_core::persist::{self, Now};

use super::state::{DISK_SECTORS, Moment, World};
use crate::device::{Blocks, layout_of};
use crate::disks::{At, Content, Health, ORIGIN, Stop};
use crate::rows::{Hazard, Row};

/// Of 100 other systems that write after a clean save, so many write to a block that was written last.
const MOUNTS_PERCENT: u64 = 60;

impl World {
    pub(super) fn trouble(&mut self) -> Result<Result<(), Stop>, String> {
        let cow = self.io.disks.cow();
        match self.rng().below(8) {
            0 => self.health(cow, Health::Hung, "COW disk hangs"),
            1 => self.health(cow, Health::Failing, "COW disk fails"),
            2 => self.health(ORIGIN, Health::Hung, "origin disk hangs"),
            3 => self.copy_of_file()?,
            _ => {
                self.note("moment kept", String::new());
                let origin = self.io.disks.disks[ORIGIN].backup();
                let cow = self.io.disks.disks[cow].backup();
                let writes = self.io.log.len();
                let mut hazards = self.hazards.clone();
                let untold = self.io.untold.iter().copied();
                hazards.push(Hazard::new(Row::CowHangs, untold, None));
                self.moments.push(Moment {
                    origin,
                    cow,
                    writes,
                    hazards,
                    record: self.record,
                    recorded: self.recorded,
                    serial: self.serial,
                    recorded_serial: self.recorded_serial,
                    untracked: self.untracked,
                });
            }
        }
        Ok(Ok(()))
    }

    pub(super) fn health(&mut self, disk: usize, health: Health, what: &'static str) {
        // What hangs stays so until the machine is reset.
        if self.io.disks.disks[disk].health == Health::Hung {
            return;
        }
        self.note(what, String::new());
        self.troubled = true;
        self.io.disks.disks[disk].health = health;
    }

    /// A copy of the COW file lies elsewhere: it is refused, whatever it says.
    fn copy_of_file(&mut self) -> Result<(), String> {
        let Some(place) = self.record else {
            return Ok(());
        };
        self.note("COW file copied", String::new());
        let (_, slots) = layout_of(self.io.blocks);
        let to = place + 8 * (slots + 5);
        let copy: Vec<_> = (0..slots * 8)
            .step_by(8)
            .map(|at| self.io.disks.slot(place + at))
            .collect();
        let read = |sector: u64| {
            let slot = sector.checked_sub(to).map(|sectors| sectors / 8);
            match slot.and_then(|slot| copy.get(slot as usize)) {
                Some(slot) => *slot,
                // The original is still there.
                None => self.io.disks.slot(sector),
            }
        };
        let next_boot = Now {
            boot_id: [0xFF; 16],
            written_sectors: 0,
            head_crc: self.io.head_crc(),
            ..Now::default()
        };
        match persist::reload(read, to, DISK_SECTORS, &next_boot) {
            Ok(_) => Err("a COW file that was copied elsewhere is believed".to_owned()),
            Err(_) => Ok(()),
        }
    }

    pub(super) fn while_away(&mut self, saved: bool, last: &Blocks) {
        self.troubled = true;
        let before = self.io.image();
        let which = self.rng().below(5);
        let row = match which {
            0 | 1 if !self.moments.is_empty() => Row::OneDiskBack,
            2 if !self.moments.is_empty() => {
                self.both_back();
                return;
            }
            3 => Row::AnotherDisk,
            _ if saved => Row::OtherSystemSaved,
            _ => Row::OtherSystemCrashed,
        };
        self.note(row.short(), String::new());
        if row == Row::OneDiskBack {
            let count = self.moments.len() as u64;
            let at = self.rng().below(count) as usize;
            let moment = &self.moments[at];
            let disks = &mut self.io.disks.disks;
            if which == 0 {
                disks[ORIGIN].revert(&moment.origin, is_origin);
                self.serial = moment.serial;
            } else {
                let cow = disks.len() - 1;
                disks[cow].revert(&moment.cow, |at| !is_origin(at));
                self.told = false;
                self.hazards.extend(moment.hazards.iter().cloned());
                self.hazards.iter_mut().for_each(Hazard::unsee);
                let since = self.io.log[moment.writes..].iter().copied().collect();
                self.hazard(row, since, None);
            }
        } else {
            let count = if row == Row::AnotherDisk {
                self.io.blocks
            } else {
                3
            };
            // Whoever mounts a filesystem writes what was written at its end.
            let mounts = row == Row::OtherSystemSaved && self.rng().percent(MOUNTS_PERCENT);
            let known = last.iter().copied().next().filter(|_| mounts);
            for number in 0..count {
                let block = match row {
                    Row::AnotherDisk => number,
                    _ if number == 0 && known.is_some() => known.unwrap_or(0),
                    _ => self.some_blocks().0,
                };
                self.io.version += 1;
                let content = Content::Version(self.io.version);
                self.io.disks.disks[ORIGIN].overwrite(At::Origin(block), content);
            }
        }
        let after = self.io.image();
        let differ =
            (0..self.io.blocks).filter(|block| before[*block as usize] != after[*block as usize]);
        let differ: Blocks = differ.collect();
        self.must_refuse = row == Row::OtherSystemSaved && !differ.is_disjoint(last);
        // For a reverted COW file these are changes that it does not know.
        self.io.log.extend(&differ);
        if row == Row::AnotherDisk && self.rng().percent(60) {
            // Not a clone: it says of itself that it is another one.
            self.serial += 1;
        } else {
            self.hazard(row, differ, None);
        }
    }

    /// Both volumes go back to one moment, as with a snapshot of a virtual machine: they fit each other. Images of later
    /// epochs are copied anew here, as whoever does this must: their numbers come again.
    fn both_back(&mut self) {
        self.note("both disks back", String::new());
        let count = self.moments.len() as u64;
        let at = self.rng().below(count) as usize;
        let moment = &self.moments[at];
        let disks = &mut self.io.disks.disks;
        let cow = disks.len() - 1;
        disks[ORIGIN].revert(&moment.origin, is_origin);
        disks[cow].revert(&moment.cow, |at| !is_origin(at));
        self.hazards.clone_from(&moment.hazards);
        self.told = false;
        (self.record, self.recorded) = (moment.record, moment.recorded);
        (self.serial, self.recorded_serial) = (moment.serial, moment.recorded_serial);
        self.untracked = moment.untracked;
    }
}

fn is_origin(at: &At) -> bool {
    matches!(at, At::Origin(_))
}
