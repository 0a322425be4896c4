//! The C code by which the module takes a series up again, run step by step.

use std::ffi::{CStr, c_void};

use super::slots::{GROUPS_BYTES, SLOT_BYTES, Slot};
use super::{Changes, Lost, Mode, Now, Sample, Series, samples, words};
use crate::{Errno, Kept, check, ffi};

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
    _series: Option<Box<[u8; 16]>>,
    list: Vec<ffi::Extent>,
}

impl<'a> Session<'a> {
    fn new(
        read: &'a mut dyn FnMut(u64) -> Option<Slot>,
        disk_sectors: u64,
        series: Option<[u8; 16]>,
    ) -> Self {
        let series = series.map(Box::new);
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
                series: series
                    .as_ref()
                    .map_or(std::ptr::null(), |series| series.as_ptr()),
                header: ffi::Header::default(),
                geom: ffi::Geom::default(),
                layout: ffi::Layout::default(),
                extents: ffi::Extents::empty(),
                state: ffi::State::default(),
                state_sequence: 0,
                clean: false,
                overtaken: false,
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
            _series: series,
            list: Vec::new(),
        }
    }

    fn check(&self, result: i32) -> Result<(), Lost> {
        check(result).map_err(|Errno(errno)| Lost {
            errno,
            overtaken: self.raw.overtaken,
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

    fn samples(&mut self) -> Result<Vec<Sample>, Lost> {
        let mut found = ffi::Samples::default();
        // SAFETY: as above; the list is a live structure of the right layout.
        let result = unsafe { ffi::cb_reload_samples(&raw mut self.raw, &raw mut found) };
        self.check(result)?;
        Ok(samples::listed(&found))
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

    fn index(&mut self) -> Result<Vec<Kept>, Lost> {
        if !self.raw.snapshot {
            return Ok(Vec::new());
        }
        let capacity = u32::try_from(self.raw.header.cow_slots).map_err(|_| Lost {
            errno: EIO,
            overtaken: false,
            reason: "the COW file has too many slots".to_owned(),
        })?;
        let mut map = crate::SlotMap::new(capacity, self.raw.layout.block_count).map_err(
            |Errno(errno)| Lost {
                errno,
                overtaken: false,
                reason: "no map for the COW file's slots".to_owned(),
            },
        )?;
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
        uncounted: now.uncounted,
    }
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
    let mut session = Session::new(&mut read, disk_sectors, now.series);
    session.open(header_sector, now)?;
    let samples = session.samples()?;
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
        samples,
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
