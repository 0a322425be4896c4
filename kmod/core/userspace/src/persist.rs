//! What lies in a COW file besides preserved blocks, and what it is worth.
//!
//! [`reload`] is the entrance for anybody who has the bytes of a disk, however they came about: it
//! runs the C code by which the module takes a series up again, and gives its answer. The other
//! items write slots, so that tests can make COW files.
//!
//! ```no_run
//! # use cowbird_core::persist::{self, Now};
//! # let (disk, header_sector): (Vec<u8>, u64) = (Vec::new(), 0);
//! let read = |sector: u64| {
//!     let at = sector as usize * 512;
//!     disk.get(at..at + 4096)?.try_into().ok()
//! };
//! match persist::reload(read, header_sector, disk.len() as u64 / 512, &Now::next_boot(0)) {
//!     Ok(series) => println!("epoch {}: {:?}", series.epoch, series.tracked.ranges()),
//!     Err(lost) => println!("tracking lost: {lost}"),
//! }
//! ```

use std::ffi::{CStr, c_void};
use std::fmt;
use std::ops::Range;

use crate::{Errno, Extents, Header, check, ffi};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;
/// One slot.
pub type Slot = [u8; SLOT_BYTES];

/// Bytes at the start of the origin whose checksum is compared after a clean save.
pub const HEAD_BYTES: usize = 65536;
/// Where a slot's payload begins, and its length.
pub const PAYLOAD: Range<usize> = 64..4064;

/// What the one who takes a series up again knows of the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Identity of this boot.
    pub boot_id: [u8; 16],
    /// Sectors of the origin that were written since this boot.
    pub written_sectors: u64,
    /// CRC-32C of the origin's first [`HEAD_BYTES`] (of all of it where it is shorter).
    pub head_crc: u32,
    /// What the origin's stamp says.
    pub stamped: Stamped,
}

/// What the origin says of the epoch in a header; `core/stamp.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stamped {
    /// Nothing: the COW file lies on the same disk.
    Needless,
    /// Nothing: the epoch has no stamp.
    Not,
    /// That it belongs to it.
    Fits,
    /// That writes passed unmarked.
    Lost,
    /// That it belongs to another one.
    Other,
    /// There is no stamp in its place.
    Gone,
}

impl Stamped {
    const ALL: [Self; 6] = [
        Self::Needless,
        Self::Not,
        Self::Fits,
        Self::Lost,
        Self::Other,
        Self::Gone,
    ];

    fn of(number: u32) -> Self {
        Self::ALL[number as usize]
    }

    /// What must be there for an epoch with this header.
    pub fn expected(header: &Header) -> Self {
        let header = header.raw();
        // SAFETY: the function reads the header.
        Self::of(unsafe { ffi::cb_stamp_expected(&raw const header) })
    }

    /// What a block of the origin says of an epoch with this header.
    pub fn judge(header: &Header, block: &Slot) -> Self {
        let header = header.raw();
        // SAFETY: the block has the length that the function reads.
        Self::of(unsafe { ffi::cb_stamp_judge(&raw const header, block.as_ptr()) })
    }
}

/// A stamp; `core/stamp.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Series.
    pub uuid: [u8; 16],
    /// Where it lies, from the start of the origin.
    pub sector: u64,
    /// Whether writes passed unmarked.
    pub lost: bool,
    /// Epochs that it fits.
    pub ids: [[u8; 16]; 2],
}

impl Stamp {
    /// The bytes on disk.
    pub fn encode(&self) -> Slot {
        let stamp = ffi::Stamp {
            uuid: self.uuid,
            sector: self.sector,
            status: if self.lost { 2 } else { 1 },
            ids: self.ids,
        };
        let mut block = [0xAA; SLOT_BYTES];
        // SAFETY: the block has the length that the function writes.
        unsafe { ffi::cb_stamp_encode(&raw const stamp, block.as_mut_ptr()) };
        block
    }
}

impl Now {
    /// Right after another boot than the one that wrote the COW file. The checksum matters only
    /// when the series was saved.
    pub fn next_boot(head_crc: u32) -> Self {
        Self {
            boot_id: *b"\xFFanother boot id",
            written_sectors: 0,
            head_crc,
            stamped: Stamped::Needless,
        }
    }
}

/// Why tracking cannot go on: a full backup is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Errno of the core, positive.
    pub errno: i32,
    /// In words.
    pub reason: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {})", self.reason, self.errno)
    }
}

impl std::error::Error for Lost {}

/// What a series was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It had a snapshot.
    Snapshot,
    /// It only tracked changes.
    Incremental,
}

/// A superset of the blocks that were written since an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The epoch.
    pub from_epoch: u64,
    /// Bit `n % 64` of word `n / 64` is block `n`.
    pub words: Vec<u64>,
}

impl Changes {
    /// Whether a block is named.
    pub fn contains(&self, block: u64) -> bool {
        self.words
            .get((block / 64) as usize)
            .is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    /// Runs of blocks that are named.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for block in 0..self.words.len() as u64 * 64 {
            if !self.contains(block) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => ranges.push(block..block + 1),
            }
        }
        ranges
    }
}

/// A series that can be taken up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Its identity.
    pub uuid: [u8; 16],
    /// The current epoch.
    pub epoch: u64,
    /// Whether it was saved, so that maps are exact and a snapshot goes on.
    pub clean: bool,
    /// What it was doing.
    pub mode: Mode,
    /// Whether its snapshot goes on: it was saved, and all of it can be read.
    pub snapshot: bool,
    /// Slots of the maps that regions stand in for.
    pub unusable: u64,
    /// Blocks of the origin.
    pub block_count: u64,
    /// What was written since `tracked.from_epoch`. That is the current epoch, or, after a snapshot
    /// that ended without being saved, the one before: nobody knows whether its backup was complete.
    pub tracked: Changes,
    /// What was written since the current epoch alone. As `tracked` where that begins there.
    pub since_epoch: Changes,
    /// Of a series that was saved: what was written before the current epoch.
    pub before: Option<Changes>,
    /// Regions that are marked on disk for the current epoch.
    pub marked: Vec<u64>,
    /// Blocks of a region.
    pub region_blocks: u64,
    /// Pieces of the COW file, `(first sector on its disk, slots)`.
    pub extents: Vec<(u64, u64)>,
    /// Slots that keep preserved blocks, `(slot, block)`; of a snapshot that was saved.
    pub index: Vec<(u32, u64)>,
}

struct Source<'a> {
    read: &'a mut dyn FnMut(u64) -> Option<Slot>,
}

const EIO: i32 = 5;

unsafe extern "C" fn read_slot(context: *mut c_void, sector: u64, slot: *mut u8) -> i32 {
    // SAFETY: the context is the source that `reload` put there, alive and used by nobody else.
    let source = unsafe { &mut *context.cast::<Source<'_>>() };
    match (source.read)(sector) {
        Some(bytes) => {
            // SAFETY: the core passes its scratch slot, which has that many bytes.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), slot, SLOT_BYTES) };
            0
        }
        None => -EIO,
    }
}

struct Session<'a> {
    raw: ffi::Reload,
    // The raw structure points into these.
    _source: Box<Source<'a>>,
    _slot: Box<Slot>,
    _groups: Box<[u8; GROUPS_BYTES]>,
    list: Vec<ffi::Extent>,
}

impl<'a> Session<'a> {
    fn new(read: &'a mut dyn FnMut(u64) -> Option<Slot>, disk_sectors: u64) -> Self {
        let mut source = Box::new(Source { read });
        let mut slot = Box::new([0; SLOT_BYTES]);
        let mut groups = Box::new([0; GROUPS_BYTES]);
        let context = (&raw mut *source).cast();
        Self {
            raw: ffi::Reload {
                reader: ffi::Reader {
                    read: read_slot,
                    scan: std::ptr::null(),
                    context,
                },
                slot: slot.as_mut_ptr(),
                groups: groups.as_mut_ptr(),
                disk_sectors,
                header: ffi::Header::default(),
                geom: ffi::Geom::default(),
                layout: ffi::Layout::default(),
                extents: ffi::Extents::empty(),
                state: ffi::State::default(),
                state_sequence: 0,
                clean: false,
                mode: 0,
                snapshot: false,
                unusable: 0,
                tracked_from: 0,
                changes_from: 0,
                reason: std::ptr::null(),
            },
            _source: source,
            _slot: slot,
            _groups: groups,
            list: Vec::new(),
        }
    }

    fn check(&self, result: i32) -> Result<(), Lost> {
        check(result).map_err(|Errno(errno)| Lost {
            errno,
            reason: if self.raw.reason.is_null() {
                "no reason".to_owned()
            } else {
                // SAFETY: the core's reasons are string constants.
                unsafe { CStr::from_ptr(self.raw.reason) }
                    .to_string_lossy()
                    .into_owned()
            },
        })
    }

    /// Header, extents and state.
    fn open(&mut self, header_sector: u64, now: &Now) -> Result<(), Lost> {
        // SAFETY: reader and scratch were set by `new` and live as long as the session.
        let result = unsafe { ffi::cb_reload_header(&raw mut self.raw, header_sector) };
        self.check(result)?;
        self.list = (0..self.raw.header.extent_count)
            .map(|_| ffi::Extent {
                sector: 0,
                slots: 0,
                first_slot: 0,
            })
            .collect();
        // SAFETY: the list has the length that the header names, and stays.
        let result = unsafe { ffi::cb_reload_extents(&raw mut self.raw, self.list.as_mut_ptr()) };
        self.check(result)?;
        let now = raw_now(now);
        // SAFETY: as above.
        let result = unsafe { ffi::cb_reload_state(&raw mut self.raw, &raw const now) };
        self.check(result)
    }

    /// Blocks since `tracked_from`, marked regions, and what [`Self::before`] needs.
    fn tracked(&mut self) -> Result<[Vec<u64>; 3], Lost> {
        let mut blocks = vec![0; words(self.raw.layout.block_count)];
        let mut marked = vec![0; words(self.raw.layout.region_count)];
        let mut older = marked.clone();
        // SAFETY: the arrays are zeroed and have the lengths that the header asks for.
        let result = unsafe {
            ffi::cb_reload_tracked(
                &raw mut self.raw,
                blocks.as_mut_ptr(),
                marked.as_mut_ptr(),
                older.as_mut_ptr(),
            )
        };
        self.check(result)?;
        Ok([blocks, marked, older])
    }

    fn before(&mut self, older: &[u64]) -> Result<Option<Changes>, Lost> {
        if self.raw.changes_from == 0 {
            return Ok(None);
        }
        let mut blocks = vec![0; words(self.raw.layout.block_count)];
        // SAFETY: as above.
        let result = unsafe {
            ffi::cb_reload_before(&raw mut self.raw, blocks.as_mut_ptr(), older.as_ptr())
        };
        self.check(result)?;
        Ok(Some(Changes {
            from_epoch: self.raw.changes_from,
            words: blocks,
        }))
    }

    fn index(&mut self) -> Result<Vec<(u32, u64)>, Lost> {
        if !self.raw.snapshot {
            return Ok(Vec::new());
        }
        let capacity = u32::try_from(self.raw.header.cow_slots).map_err(|_| Lost {
            errno: EIO,
            reason: "the COW file has too many slots".to_owned(),
        })?;
        let mut map = crate::SlotMap::new(capacity).map_err(|Errno(errno)| Lost {
            errno,
            reason: "no map for the COW file's slots".to_owned(),
        })?;
        // SAFETY: the map is empty and initialised for all slots.
        let result = unsafe { ffi::cb_reload_index(&raw mut self.raw, map.raw()) };
        self.check(result)?;
        if !self.raw.snapshot {
            return Ok(Vec::new());
        }
        Ok(map.entries())
    }

    /// What the changes mean where the snapshot cannot go on; then the state once more.
    fn settle(
        &mut self,
        blocks: &mut [u64],
        before: Option<&Changes>,
        now: &Now,
    ) -> Result<(), Lost> {
        let before = before.map_or(std::ptr::null(), |before| before.words.as_ptr());
        // SAFETY: both maps have a bit for each block; without one, nothing is known of it.
        unsafe { ffi::cb_reload_settle(&raw mut self.raw, blocks.as_mut_ptr(), before) };
        let now = raw_now(now);
        // SAFETY: reader and scratch were set by `new` and live as long as the session.
        let result = unsafe { ffi::cb_reload_confirm(&raw mut self.raw, &raw const now) };
        self.check(result)
    }

    fn mode(&self) -> Mode {
        if self.raw.mode == 1 {
            Mode::Snapshot
        } else {
            Mode::Incremental
        }
    }
}

fn raw_now(now: &Now) -> ffi::Now {
    ffi::Now {
        boot_id: now.boot_id,
        written_sectors: now.written_sectors,
        head_crc: now.head_crc,
        stamped: now.stamped as u32,
    }
}

fn words(bits: u64) -> usize {
    bits.div_ceil(64) as usize
}

/// Takes a series up again as the module does, without its effects.
///
/// `read` gives the 4096 bytes at a sector of the COW file's disk, `None` where they cannot be read.
/// `header_sector` is where slot 0 of the COW file lies, and `disk_sectors` the size of that disk.
///
/// # Errors
/// When tracking is lost.
pub fn reload(
    mut read: impl FnMut(u64) -> Option<Slot>,
    header_sector: u64,
    disk_sectors: u64,
    now: &Now,
) -> Result<Series, Lost> {
    let mut session = Session::new(&mut read, disk_sectors);
    session.open(header_sector, now)?;
    let [mut blocks, marked, older] = session.tracked()?;
    let before = session.before(&older)?;
    let index = session.index()?;
    session.settle(&mut blocks, before.as_ref(), now)?;
    let tracked = Changes {
        from_epoch: session.raw.tracked_from,
        words: blocks,
    };
    let epoch = session.raw.header.epoch;
    let since_epoch = if tracked.from_epoch == epoch || session.raw.clean {
        tracked.clone()
    } else {
        // The same question without the epoch before.
        session.raw.tracked_from = epoch;
        Changes {
            from_epoch: epoch,
            words: session.tracked()?[0].clone(),
        }
    };
    let layout = session.raw.layout;
    Ok(Series {
        uuid: session.raw.header.uuid,
        epoch,
        clean: session.raw.clean,
        mode: session.mode(),
        snapshot: session.raw.snapshot,
        unusable: session.raw.unusable,
        block_count: layout.block_count,
        tracked,
        since_epoch,
        before,
        marked,
        region_blocks: 1 << layout.region_shift,
        extents: session
            .list
            .iter()
            .map(|piece| (piece.sector, piece.slots))
            .collect(),
        index,
    })
}

/// What lies where; `core/layout.h`. Slots are counted from the start of the COW file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout(ffi::Layout);

/// Kinds of metadata; `core/layout.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// The COW file's own extents.
    Extents = 1,
    /// The state.
    State,
    /// Marked regions.
    Regions,
    /// Changed blocks.
    Fine,
    /// Which block each slot keeps.
    Index,
}

impl Layout {
    /// For an origin and a COW file.
    pub fn new(block_count: u64, cow_slots: u64, extent_count: u32) -> Result<Self, Errno> {
        let mut layout = ffi::Layout::default();
        // SAFETY: the result is a live structure of the right layout.
        check(unsafe {
            ffi::cb_layout_init(&raw mut layout, block_count, cow_slots, extent_count)
        })?;
        Ok(Self(layout))
    }

    /// First slot and number of slots of a kind, both areas together.
    pub fn slots(&self, kind: Kind) -> Range<u64> {
        let (first, count) = match kind {
            Kind::Extents => (self.0.extents_first, self.0.extent_slots),
            Kind::State => (self.0.state_first, 2),
            Kind::Regions => (self.0.regions_first, 2 * self.0.region_slots),
            Kind::Fine => (self.0.fine_first, 2 * self.0.fine_slots),
            Kind::Index => (self.0.index_first, self.0.index_slots),
        };
        first..first + count
    }

    /// Slots of a kind that belong to an epoch, numbered within the kind.
    pub fn area(&self, kind: Kind, epoch: u64) -> Range<u64> {
        let slots = self.slots(kind);
        let half = (slots.end - slots.start) / 2;
        let first = (epoch & 1) * half;
        first..first + half
    }

    /// First slot that is no metadata.
    pub fn data_first(&self) -> u64 {
        self.0.data_first
    }

    /// Blocks of the origin.
    pub fn block_count(&self) -> u64 {
        self.0.block_count
    }

    /// Regions.
    pub fn region_count(&self) -> u64 {
        self.0.region_count
    }

    /// A region has `1 << region_shift` blocks.
    pub fn region_shift(&self) -> u32 {
        self.0.region_shift
    }
}

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

/// Marks of regions; `core/marks.h`.
pub struct Marks {
    marks: ffi::Marks,
    // The C structure points into these.
    _wanted: Box<[u64]>,
    _issued: Box<[u64]>,
    _stable: Box<[u64]>,
}

impl Marks {
    /// None marked.
    pub fn new(layout: &Layout) -> Self {
        let map = || vec![0u64; words(layout.0.region_count)].into_boxed_slice();
        let (mut wanted, mut issued, mut stable) = (map(), map(), map());
        let mut marks = ffi::Marks::empty();
        // SAFETY: the arrays are zeroed and have the lengths that the header asks for.
        unsafe {
            ffi::cb_marks_init(
                &raw mut marks,
                &raw const layout.0,
                wanted.as_mut_ptr(),
                issued.as_mut_ptr(),
                stable.as_mut_ptr(),
            );
        }
        Self {
            marks,
            _wanted: wanted,
            _issued: issued,
            _stable: stable,
        }
    }

    /// First block in `first..=last` that is not marked on stable storage.
    pub fn next_unstable(&self, first: u64, last: u64) -> Option<u64> {
        // SAFETY: the structure was initialised, its arrays are alive.
        let next = unsafe { ffi::cb_marks_next_unstable(&raw const self.marks, first, last) };
        (next <= last).then_some(next)
    }

    /// Asks for the regions of these blocks.
    pub fn want(&mut self, first: u64, last: u64) {
        // SAFETY: as above, and nothing else reads the arrays meanwhile.
        unsafe { ffi::cb_marks_want(&raw mut self.marks, first, last) };
    }

    /// Slots that have to be written.
    pub fn wanted_slots(&self) -> u64 {
        self.marks.wanted_slots
    }

    /// Fills a slot's payload.
    pub fn issue(&mut self, slot: u32, to: &mut Slot) {
        // SAFETY: as above; the payload has the length that the function writes.
        unsafe { ffi::cb_marks_issue(&raw mut self.marks, slot, to[PAYLOAD].as_mut_ptr()) };
    }

    /// The write of a slot has completed.
    pub fn done(&mut self, slot: u32) {
        // SAFETY: as above.
        unsafe { ffi::cb_marks_done(&raw mut self.marks, slot) };
    }
}

/// The payload of extent slots for pieces of the COW file.
pub fn encode_extents(pieces: &[(u64, u64)]) -> Vec<Slot> {
    pieces
        .chunks(PAYLOAD.len() / 16)
        .map(|chunk| {
            let mut slot = [0; SLOT_BYTES];
            for (piece, at) in chunk.iter().zip((PAYLOAD.start..).step_by(16)) {
                slot[at..at + 8].copy_from_slice(&piece.0.to_le_bytes());
                slot[at + 8..at + 16].copy_from_slice(&piece.1.to_le_bytes());
            }
            slot
        })
        .collect()
}

/// Where a slot lies, as sector of the disk.
pub fn sector_of(extents: &Extents, slot: u64) -> Result<u64, Errno> {
    extents.slot(slot).map(|(sector, _)| sector)
}
