//! Disks with volatile caches, and the power that may go before any of their writes.

use std::collections::HashMap;
use std::rc::Rc;

use cowbird_core::persist::{SLOT_BYTES, Slot};

const SECTOR_BYTES: usize = 512;

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A place on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// A block of the origin.
    Origin(u64),
    /// 4096 bytes from a sector on, of the device with the COW file.
    Cow(u64),
}

/// What lies there. Origins hold which write it was, 0 for none.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Version(u32),
    Slot(Rc<Slot>),
}

/// Why something was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The power went.
    Cut,
    /// The disk refused it.
    Failed,
    /// The disk does not answer.
    Hung,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    Failing,
    Hung,
}

/// One disk: what is on stable storage, what its cache has, and what a reader sees.
#[derive(Clone, Debug)]
pub struct Disk {
    stable: HashMap<At, Content>,
    cache: Vec<(At, Content)>,
    seen: HashMap<At, Content>,
    /// What a disk that hangs has been given, and whether it goes to stable storage.
    queue: Vec<(At, Content, bool)>,
    pub health: Health,
}

/// What a snapshot of a disk keeps of it.
#[derive(Clone, Debug)]
pub struct Backup(HashMap<At, Content>);

impl Disk {
    pub fn new() -> Self {
        Self {
            stable: HashMap::new(),
            cache: Vec::new(),
            seen: HashMap::new(),
            queue: Vec::new(),
            health: Health::Well,
        }
    }

    pub fn read(&self, at: At) -> Option<&Content> {
        self.seen.get(&at)
    }

    fn put(&mut self, at: At, content: &Content, stable: bool) {
        self.seen.insert(at, content.clone());
        if stable {
            // What the cache had of this place is older.
            self.cache.retain(|(other, _)| *other != at);
            self.stable.insert(at, content.clone());
        } else {
            self.cache.push((at, content.clone()));
        }
    }

    /// All, nothing, or some sectors of a write that is not reported as done.
    fn put_in_part(&mut self, at: At, content: &Content, fua: bool, rng: &mut Rng) {
        match rng.below(3) {
            0 => {}
            1 => self.put(at, content, fua),
            _ => {
                let content = torn(self.seen.get(&at), content, rng);
                self.put(at, &content, fua);
            }
        }
    }

    /// The machine is reset: what a disk that hangs was given has been done by then, or never will be.
    fn end_queue(&mut self, rng: &mut Rng) {
        while !self.queue.is_empty() {
            let next = rng.below(self.queue.len() as u64);
            let (at, content, fua) = self.queue.swap_remove(next as usize);
            self.put_in_part(at, &content, fua, rng);
        }
    }

    pub fn flush(&mut self) {
        self.stable.clone_from(&self.seen);
        self.cache.clear();
    }

    /// The cache is lost in part: of each of its writes all, nothing, or some sectors reach the disk.
    pub fn lose_cache(&mut self, rng: &mut Rng) {
        self.end_queue(rng);
        let survives = [0, 50, 90, 100][rng.below(4) as usize];
        for (at, content) in std::mem::take(&mut self.cache) {
            if rng.percent(survives) {
                let content = if rng.percent(10) {
                    torn(self.stable.get(&at), &content, rng)
                } else {
                    content
                };
                self.stable.insert(at, content);
            }
        }
        self.seen.clone_from(&self.stable);
    }

    /// All of the cache reaches the disk, as before a machine is turned off in order.
    pub fn settle(&mut self, rng: &mut Rng) {
        self.end_queue(rng);
        self.flush();
        self.health = Health::Well;
    }

    pub fn backup(&self) -> Backup {
        Backup(self.seen.clone())
    }

    /// The disk is put back. `of` says which places: there may be two volumes on it.
    pub fn revert(&mut self, backup: &Backup, of: impl Fn(&At) -> bool) {
        self.seen.retain(|at, _| !of(at));
        let kept = backup.0.iter().filter(|(at, _)| of(at));
        self.seen
            .extend(kept.map(|(at, content)| (*at, content.clone())));
        self.flush();
    }

    /// Somebody else writes, and flushes.
    pub fn overwrite(&mut self, at: At, content: Content) {
        self.put(at, &content, true);
    }
}

/// Some sectors of the new content. A block of an origin is the old or the new one: which is as good as any mixture.
fn torn(old: Option<&Content>, new: &Content, rng: &mut Rng) -> Content {
    let Content::Slot(new_slot) = new else {
        return new.clone();
    };
    let mut slot: Slot = match old {
        Some(Content::Slot(old)) => **old,
        _ => [0; SLOT_BYTES],
    };
    for at in (0..SLOT_BYTES).step_by(SECTOR_BYTES) {
        if rng.percent(50) {
            slot[at..at + SECTOR_BYTES].copy_from_slice(&new_slot[at..at + SECTOR_BYTES]);
        }
    }
    Content::Slot(Rc::new(slot))
}

/// The disks of a machine: origin and COW file on one, or on one each.
#[derive(Clone, Debug)]
pub struct Disks {
    pub disks: Vec<Disk>,
    /// The power goes before so many more writes are done.
    pub fuse: Option<u64>,
    pub rng: Rng,
}

/// Which disk.
pub const ORIGIN: usize = 0;

impl Disks {
    pub fn new(count: usize, seed: u64) -> Self {
        Self {
            disks: vec![Disk::new(); count],
            fuse: None,
            rng: Rng(seed),
        }
    }

    pub fn cow(&self) -> usize {
        self.disks.len() - 1
    }

    pub fn is_one(&self) -> bool {
        self.disks.len() == 1
    }

    pub fn disk_of(&self, at: At) -> usize {
        match at {
            At::Origin(_) => ORIGIN,
            At::Cow(_) => self.cow(),
        }
    }

    /// True when the power goes now.
    fn burns_down(&mut self) -> bool {
        match &mut self.fuse {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// Writes, to stable storage if `fua`. What the power or the disk stops may have been done, in part too; what a disk that
    /// hangs was given is done at the reset, if at all.
    pub fn write(&mut self, at: At, content: Content, fua: bool) -> Result<(), Stop> {
        let cut = self.burns_down();
        let which = self.disk_of(at);
        let disk = &mut self.disks[which];
        match (disk.health, cut) {
            (Health::Well, false) => {
                disk.put(at, &content, fua);
                return Ok(());
            }
            (Health::Well, true) | (Health::Failing, false) => {
                disk.put_in_part(at, &content, fua, &mut self.rng);
            }
            (Health::Hung, false) => disk.queue.push((at, content, fua)),
            (Health::Failing | Health::Hung, true) => {}
        }
        Err(match (cut, disk.health) {
            (true, _) => Stop::Cut,
            (false, Health::Hung) => Stop::Hung,
            (false, _) => Stop::Failed,
        })
    }

    pub fn flush(&mut self, which: usize) -> Result<(), Stop> {
        if self.burns_down() {
            return Err(Stop::Cut);
        }
        match self.disks[which].health {
            Health::Well => {
                self.disks[which].flush();
                Ok(())
            }
            Health::Failing => Err(Stop::Failed),
            Health::Hung => Err(Stop::Hung),
        }
    }

    pub fn version(&self, block: u64) -> u32 {
        match self.disks[ORIGIN].read(At::Origin(block)) {
            Some(Content::Version(version)) => *version,
            _ => 0,
        }
    }

    pub fn slot(&self, sector: u64) -> Option<Slot> {
        match self.disks[self.cow()].read(At::Cow(sector)) {
            Some(Content::Slot(slot)) => Some(**slot),
            // Whatever lay there before.
            _ => Some([0xE5; SLOT_BYTES]),
        }
    }
}
