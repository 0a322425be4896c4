//! Declarations of `kmod/core/*.h`, by hand: they are few and have no macros.

use std::ffi::{c_char, c_void};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Geom {
    pub start: u64,
    pub sectors: u64,
}

#[repr(C)]
pub struct Blocks {
    pub first: u64,
    pub last: u64,
}

#[repr(C)]
pub struct SlotMap {
    buckets: *mut u32,
    words: *mut u64,
    bucket_mask: u32,
    capacity: u32,
    used: u32,
    pub block_bits: u32,
}

impl SlotMap {
    pub fn empty() -> Self {
        Self {
            buckets: std::ptr::null_mut(),
            words: std::ptr::null_mut(),
            bucket_mask: 0,
            capacity: 0,
            used: 0,
            block_bits: 0,
        }
    }
}

#[repr(C)]
pub struct Extent {
    pub sector: u64,
    pub slots: u64,
    pub first_slot: u64,
}

#[repr(C)]
pub struct Extents {
    list: *mut Extent,
    pub count: u32,
    pub slots: u64,
}

impl Extents {
    pub fn empty() -> Self {
        Self {
            list: std::ptr::null_mut(),
            count: 0,
            slots: 0,
        }
    }
}

#[repr(C)]
#[derive(Default)]
pub struct Header {
    pub uuid: [u8; 16],
    pub epoch: u64,
    pub before_epoch: u64,
    pub origin_start: u64,
    pub origin_sectors: u64,
    pub cow_slots: u64,
    pub sector: u64,
    pub extents_sector: u64,
    pub data_first: u64,
    pub extent_count: u32,
    pub region_shift: u32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub block_count: u64,
    pub region_count: u64,
    pub region_shift: u32,
    pub extent_slots: u64,
    pub region_slots: u64,
    pub fine_slots: u64,
    pub index_slots: u64,
    pub extents_first: u64,
    pub state_first: u64,
    pub samples_first: u64,
    pub regions_first: u64,
    pub fine_first: u64,
    pub index_first: u64,
    pub data_first: u64,
}

#[repr(C)]
#[derive(Default)]
pub struct Meta {
    pub uuid: [u8; 16],
    pub epoch: u64,
    pub index: u64,
    pub sector: u64,
    pub sequence: u64,
    pub kind: u32,
}

/// Of a block whose content comes in pieces; `core/sum.h`.
#[repr(C)]
#[derive(Default)]
pub struct Sum {
    pub lanes: [u64; 4],
    pub rest: [u8; 32],
    pub rest_bytes: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct State {
    pub status: u32,
    pub mode: u32,
    pub boot_id: [u8; 16],
    pub written_sectors: u64,
    pub head_crc: u32,
    pub fine_rule: u32,
    pub slots_used: u64,
    pub tracked_from: u64,
    pub changes_from: u64,
    pub fine_since: u64,
}

/// A piece of the origin, and its checksum at a clean save; `core/samples.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// From the start of the origin.
    pub sector: u64,
    /// A multiple of those of a block.
    pub sectors: u32,
    /// Of these, without GRUB's environment blocks.
    pub crc: u32,
}

#[repr(C)]
pub struct Samples {
    pub count: u32,
    pub list: [Sample; 81],
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            count: 0,
            list: [Sample::default(); 81],
        }
    }
}

#[repr(C)]
pub struct SamplesOf {
    pub origin_sectors: u64,
    pub written: *const u64,
    pub written_count: u32,
    pub head: *const u8,
    pub head_bytes: u32,
    pub own: unsafe extern "C" fn(*mut c_void, u64, u32) -> bool,
    pub context: *mut c_void,
}

#[repr(C)]
pub struct Now {
    pub boot_id: [u8; 16],
    pub written_sectors: u64,
    pub head_crc: u32,
    pub uncounted: bool,
}

#[repr(C)]
pub struct Marks {
    wanted: *mut u64,
    issued: *mut u64,
    stable: *mut u64,
    regions: u64,
    pub wanted_slots: u64,
    region_shift: u32,
}

impl Marks {
    pub fn empty() -> Self {
        Self {
            wanted: std::ptr::null_mut(),
            issued: std::ptr::null_mut(),
            stable: std::ptr::null_mut(),
            regions: 0,
            wanted_slots: 0,
            region_shift: 0,
        }
    }
}

#[repr(C)]
pub struct Reader {
    pub read: unsafe extern "C" fn(*mut c_void, u64, *mut u8) -> i32,
    /// Reads several slots at once; the core does it by `read` where there is none.
    pub scan: *const c_void,
    pub context: *mut c_void,
}

#[repr(C)]
pub struct Reload {
    pub reader: Reader,
    pub slot: *mut u8,
    pub groups: *mut u8,
    pub disk_sectors: u64,
    pub series: *const u8,
    pub header: Header,
    pub geom: Geom,
    pub layout: Layout,
    pub extents: Extents,
    pub state: State,
    pub state_sequence: u64,
    pub clean: bool,
    pub overtaken: bool,
    pub mode: u32,
    pub snapshot: bool,
    pub unusable: u64,
    pub tracked_from: u64,
    pub changes_from: u64,
    pub reason: *const c_char,
}

unsafe extern "C" {
    pub fn cb_geom_init(geom: *mut Geom, start: u64, sectors: u64) -> i32;
    pub fn cb_geom_block_count(geom: *const Geom) -> u64;
    pub fn cb_geom_block_sectors(geom: *const Geom, block: u64) -> u32;
    pub fn cb_geom_block_start(geom: *const Geom, block: u64) -> u64;
    pub fn cb_geom_touched(
        geom: *const Geom,
        sector: u64,
        sectors: u64,
        touched: *mut Blocks,
    ) -> bool;

    pub fn cb_slotmap_bucket_count(capacity: u32) -> u32;
    pub fn cb_slotmap_init(
        map: *mut SlotMap,
        capacity: u32,
        block_count: u64,
        buckets: *mut u32,
        words: *mut u64,
    ) -> i32;
    pub fn cb_slotmap_insert(map: *mut SlotMap, block: u64, sum: u32, slot: u32) -> i32;
    pub fn cb_slotmap_keeps(map: *const SlotMap, slot: u32) -> bool;
    pub fn cb_slotmap_copy(to: *mut SlotMap, from: *const SlotMap, next: *mut u64, end: u64)
    -> i32;
    pub fn cb_slotmap_find(map: *const SlotMap, block: u64) -> u32;

    pub fn cb_extents_init(
        extents: *mut Extents,
        list: *mut Extent,
        count: u32,
        grid: u64,
        disk_sectors: u64,
    ) -> i32;
    pub fn cb_extents_slot(
        extents: *const Extents,
        slot: u64,
        sector: *mut u64,
        run: *mut u64,
    ) -> i32;
    pub fn cb_extents_touch(extents: *const Extents, sector: u64, sectors: u64) -> bool;

    pub fn cb_sum(block: u64, content: *const u8) -> u32;
    pub fn cb_sum_begin(sum: *mut Sum, block: u64);
    pub fn cb_sum_more(sum: *mut Sum, bytes: *const u8, length: usize);
    pub fn cb_sum_end(sum: *const Sum) -> u32;
    pub fn cb_crc32c(bytes: *const u8, length: usize) -> u32;
    pub fn cb_header_encode(header: *const Header, block: *mut u8);
    pub fn cb_header_decode(header: *mut Header, block: *const u8) -> i32;

    pub fn cb_layout_init(
        layout: *mut Layout,
        block_count: u64,
        cow_slots: u64,
        extent_count: u32,
    ) -> i32;

    pub fn cb_meta_seal(meta: *const Meta, slot: *mut u8);
    pub fn cb_meta_open(meta: *mut Meta, slot: *const u8) -> i32;

    pub fn cb_state_encode(state: *const State, payload: *mut u8);
    pub fn cb_state_decode(state: *mut State, payload: *const u8);

    pub fn cb_samples_choose(samples: *mut Samples, of: *const SamplesOf);
    pub fn cb_sample_crc(crc: u32, block: *const u8) -> u32;
    pub fn cb_samples_encode(samples: *const Samples, payload: *mut u8);

    pub fn cb_marks_init(
        marks: *mut Marks,
        layout: *const Layout,
        wanted: *mut u64,
        issued: *mut u64,
        stable: *mut u64,
    );
    pub fn cb_marks_next_unstable(marks: *const Marks, first: u64, last: u64) -> u64;
    pub fn cb_marks_want(marks: *mut Marks, first: u64, last: u64);
    pub fn cb_marks_issue(marks: *mut Marks, slot: u32, payload: *mut u8);
    pub fn cb_marks_done(marks: *mut Marks, slot: u32);

    pub fn cb_reload_header(reload: *mut Reload, sector: u64) -> i32;
    pub fn cb_reload_extents(reload: *mut Reload, list: *mut Extent) -> i32;
    pub fn cb_reload_state(reload: *mut Reload, now: *const Now) -> i32;
    pub fn cb_reload_samples(reload: *mut Reload, samples: *mut Samples) -> i32;
    pub fn cb_reload_tracked(
        reload: *mut Reload,
        blocks: *mut u64,
        marked: *mut u64,
        older: *mut u64,
    ) -> i32;
    pub fn cb_reload_before(reload: *mut Reload, blocks: *mut u64, older: *const u64) -> i32;
    pub fn cb_reload_settle(reload: *mut Reload, blocks: *mut u64, before: *const u64);
    pub fn cb_reload_confirm(reload: *mut Reload, now: *const Now) -> i32;
    pub fn cb_reload_index(reload: *mut Reload, map: *mut SlotMap) -> i32;

    pub fn cb_utf8_length(text: *const u8) -> u32;

    pub fn cb_phase_next(phase: u32, event: u32) -> i32;
    pub fn cb_write_decide(phase: u32, preserved: bool, marked: bool, advisory: bool) -> u32;
    pub fn cb_read_decide(phase: u32, own: bool, preserved: bool, in_memory: bool) -> u32;
    pub fn cb_read_confirm(phase: u32, preserved: bool) -> bool;
}
