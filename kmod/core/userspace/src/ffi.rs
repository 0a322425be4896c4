//! Declarations of `kmod/core/*.h`, by hand: they are few and have no macros.

#[repr(C)]
#[derive(Clone, Copy, Debug)]
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
    block_of: *mut u64,
    bucket_mask: u32,
    capacity: u32,
    used: u32,
}

impl SlotMap {
    pub fn empty() -> Self {
        Self {
            buckets: std::ptr::null_mut(),
            block_of: std::ptr::null_mut(),
            bucket_mask: 0,
            capacity: 0,
            used: 0,
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
    count: u32,
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
pub struct Header {
    pub uuid: [u8; 16],
    pub epoch: u64,
    pub origin_sectors: u64,
    pub cow_slots: u64,
    pub flags: u32,
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
        buckets: *mut u32,
        block_of: *mut u64,
    ) -> i32;
    pub fn cb_slotmap_insert(map: *mut SlotMap, block: u64, slot: u32) -> i32;
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

    pub fn cb_crc32c(bytes: *const u8, length: usize) -> u32;
    pub fn cb_header_encode(header: *const Header, block: *mut u8);
    pub fn cb_header_decode(header: *mut Header, block: *const u8) -> i32;

    pub fn cb_phase_next(phase: u32, event: u32) -> i32;
    pub fn cb_write_decide(phase: u32, preserved: bool, advisory: bool) -> u32;
    pub fn cb_read_decide(phase: u32, own: bool, preserved: bool, in_memory: bool) -> u32;
    pub fn cb_read_confirm(phase: u32, preserved: bool) -> bool;
}
