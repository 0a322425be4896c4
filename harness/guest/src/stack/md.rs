//! RAIDs without metadata, made by the ioctls of `linux/raid/md_u.h`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use cowbird_guest_system::error::{Context, GuestResult};
use cowbird_guest_system::files;
use rustix::ioctl::{NoArg, Setter, ioctl, opcode};

use super::device::open;

const ARRAY: &str = "/dev/md0";

/// A name written here makes an array of that name.
const NEW_ARRAY: &str = "/sys/module/md_mod/parameters/new_array";

const ADD_NEW_DISK: u32 = opcode::write::<Disk>(9, 0x21);
const SET_ARRAY_INFO: u32 = opcode::write::<Array>(9, 0x23);
const RUN_ARRAY: u32 = opcode::write::<[i32; 3]>(9, 0x30);
const STOP_ARRAY: u32 = opcode::none(9, 0x32);

/// `MD_SB_CLEAN`: nothing has to be copied or computed when the array starts.
const CLEAN: i32 = 1;

/// `MD_DISK_ACTIVE` and `MD_DISK_SYNC`.
const IN_SYNC: i32 = 1 << 1 | 1 << 2;

/// `mdu_array_info_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Array {
    version: [i32; 3],
    ctime: u32,
    level: i32,
    size_kib: i32,
    nr_disks: i32,
    raid_disks: i32,
    md_minor: i32,
    not_persistent: i32,
    utime: u32,
    state: i32,
    active_disks: i32,
    working_disks: i32,
    failed_disks: i32,
    spare_disks: i32,
    layout: i32,
    chunk_size: i32,
}

/// `mdu_disk_info_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Disk {
    number: i32,
    major: i32,
    minor: i32,
    raid_disk: i32,
    state: i32,
}

/// `ALGORITHM_LEFT_SYMMETRIC`: where the parity of a RAID 5 is.
const LEFT_SYMMETRIC: i32 = 2;

/// Chunks of a RAID 5, bytes.
const CHUNK_BYTES: i32 = 64 << 10;

/// Mirrors the devices, which must have the same content.
pub fn mirror(devices: &[String]) -> GuestResult<String> {
    let level = Array {
        level: 1,
        ..Array::default()
    };
    start(devices, level)
}

/// A RAID 5 of the devices, whose parity is not made right: nothing may be read without one of them.
pub fn parity(devices: &[String]) -> GuestResult<String> {
    let level = Array {
        level: 5,
        layout: LEFT_SYMMETRIC,
        chunk_size: CHUNK_BYTES,
        ..Array::default()
    };
    start(devices, level)
}

/// Starts an array of these devices; gives its path.
fn start(devices: &[String], level: Array) -> GuestResult<String> {
    fs::write(NEW_ARRAY, "md0").context(format_args!("make {ARRAY}"))?;
    let count = devices.len() as i32;
    let mut bytes = u64::MAX;
    for device in devices {
        bytes = bytes.min(files::size_of(device)?);
    }
    let file = open(ARRAY)?;
    let array = Array {
        version: [0, 90, 0],
        size_kib: i32::try_from(bytes / 1024).unwrap_or(i32::MAX),
        nr_disks: count,
        raid_disks: count,
        not_persistent: 1,
        state: CLEAN,
        active_disks: count,
        working_disks: count,
        ..level
    };
    // SAFETY: SET_ARRAY_INFO reads one mdu_array_info_t, whose layout this is.
    unsafe { ioctl(&file, Setter::<SET_ARRAY_INFO, Array>::new(array)) }
        .context(format_args!("describe {ARRAY}"))?;
    for (index, device) in (0_i32..).zip(devices) {
        add(&file, index, device)?;
    }
    // SAFETY: RUN_ARRAY reads one mdu_param_t, which is three int.
    unsafe { ioctl(&file, Setter::<RUN_ARRAY, [i32; 3]>::new([0; 3])) }
        .context(format_args!("start {ARRAY}"))?;
    Ok(ARRAY.to_owned())
}

fn add(file: &File, index: i32, device: &str) -> GuestResult<()> {
    let number = fs::metadata(device)
        .context(format_args!("stat {device}"))?
        .rdev();
    let disk = Disk {
        number: index,
        major: rustix::fs::major(number) as i32,
        minor: rustix::fs::minor(number) as i32,
        raid_disk: index,
        state: IN_SYNC,
    };
    // SAFETY: ADD_NEW_DISK reads one mdu_disk_info_t, whose layout this is.
    unsafe { ioctl(file, Setter::<ADD_NEW_DISK, Disk>::new(disk)) }
        .context(format_args!("add {device} to {ARRAY}"))
}

/// Takes the array apart.
pub fn stop() -> GuestResult<()> {
    let file = open(ARRAY)?;
    // SAFETY: STOP_ARRAY takes no argument.
    unsafe { ioctl(&file, NoArg::<STOP_ARRAY>::new()) }.context(format_args!("stop {ARRAY}"))
}
