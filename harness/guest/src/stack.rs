//! Devices stacked on another one: device-mapper linear, and loop with direct I/O.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use cowbird_proto::message::{Reply, StackKind};
use rustix::ioctl::{NoArg, Setter, Updater, ioctl, opcode};

use crate::error::{Context, GuestResult, failure};
use crate::ops;

const DM_CONTROL: &str = "/dev/mapper/control";
const DM_NAME: &[u8] = b"stacked";
const LOOP_DEVICE: &str = "/dev/loop0";

const DM_DEV_CREATE: u32 = opcode::read_write::<DmHeader>(0xfd, 3);
const DM_DEV_REMOVE: u32 = opcode::read_write::<DmHeader>(0xfd, 4);
const DM_DEV_SUSPEND: u32 = opcode::read_write::<DmHeader>(0xfd, 6);
const DM_TABLE_LOAD: u32 = opcode::read_write::<DmHeader>(0xfd, 9);
const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_CONFIGURE: u32 = 0x4C0A;
/// `LO_FLAGS_DIRECT_IO`: else the backing device would lag behind by the page cache.
const LO_DIRECT_IO: u32 = 16;

/// `struct dm_ioctl` of `linux/dm-ioctl.h`, with room for one target behind it.
#[repr(C)]
struct DmRequest {
    header: DmHeader,
    target: DmTarget,
    params: [u8; 64],
}

#[repr(C)]
struct DmHeader {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

#[repr(C)]
struct DmTarget {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

#[repr(C)]
struct LoopInfo64 {
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// Stacks a device on another; answers the path of the new one.
pub fn stack(device: &str, kind: StackKind) -> GuestResult<Reply> {
    match kind {
        StackKind::Linear => stack_linear(device),
        StackKind::Loop => stack_loop(device),
    }
    .map(Reply::Text)
}

/// Takes it off again.
pub fn unstack(kind: StackKind) -> GuestResult<()> {
    match kind {
        StackKind::Linear => dm(DM_DEV_REMOVE, &mut dm_request(&[], 0)).map(|_| ()),
        StackKind::Loop => {
            let file = open(LOOP_DEVICE)?;
            // SAFETY: LOOP_CLR_FD takes no argument.
            unsafe { ioctl(&file, NoArg::<LOOP_CLR_FD>::new()) }
                .context(format_args!("clear {LOOP_DEVICE}"))
        }
    }
}

fn open(path: &str) -> GuestResult<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(path).context(format_args!("open {path}"))
}

fn stack_linear(device: &str) -> GuestResult<String> {
    let sectors = ops::size_of(device)? / 512;
    let number = std::fs::metadata(device)
        .context(format_args!("stat {device}"))?
        .rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let created = dm(DM_DEV_CREATE, &mut dm_request(&[], 0))?;
    let params = format!("{major}:{minor} 0");
    dm(DM_TABLE_LOAD, &mut dm_request(params.as_bytes(), sectors))?;
    // Without the suspend flag this resumes, which makes the table live.
    dm(DM_DEV_SUSPEND, &mut dm_request(&[], 0))?;
    Ok(format!("/dev/dm-{}", rustix::fs::minor(created)))
}

/// A request about the one device; `sectors` is the length of its only target.
fn dm_request(params: &[u8], sectors: u64) -> DmRequest {
    let mut request = DmRequest {
        header: DmHeader {
            version: [4, 0, 0],
            data_size: size_of::<DmRequest>() as u32,
            data_start: size_of::<DmHeader>() as u32,
            target_count: u32::from(sectors > 0),
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        },
        target: DmTarget {
            sector_start: 0,
            length: sectors,
            status: 0,
            next: 0,
            target_type: [0; 16],
        },
        params: [0; 64],
    };
    request.header.name[..DM_NAME.len()].copy_from_slice(DM_NAME);
    request.target.target_type[..6].copy_from_slice(b"linear");
    request.params[..params.len()].copy_from_slice(params);
    request
}

/// Sends a request; gives the device number of the answer.
fn dm(number: u32, request: &mut DmRequest) -> GuestResult<u64> {
    let control = open(DM_CONTROL)?;
    // The size in the ioctl's number is that of the header alone; the kernel reads data_size.
    let result = match number {
        // SAFETY: each of these reads and writes at most data_size bytes, the size of the request,
        // which is repr(C), initialised, and lives across the call.
        DM_DEV_CREATE => unsafe { ioctl(&control, Updater::<DM_DEV_CREATE, _>::new(request)) },
        // SAFETY: as above.
        DM_DEV_REMOVE => unsafe { ioctl(&control, Updater::<DM_DEV_REMOVE, _>::new(request)) },
        // SAFETY: as above.
        DM_DEV_SUSPEND => unsafe { ioctl(&control, Updater::<DM_DEV_SUSPEND, _>::new(request)) },
        // SAFETY: as above.
        DM_TABLE_LOAD => unsafe { ioctl(&control, Updater::<DM_TABLE_LOAD, _>::new(request)) },
        other => {
            return Err(failure(format!(
                "{other:#x} is no request of device-mapper"
            )));
        }
    };
    result.context(format_args!("device-mapper request {number:#x}"))?;
    Ok(request.header.dev)
}

fn stack_loop(device: &str) -> GuestResult<String> {
    let backing = open(device)?;
    let file = open(LOOP_DEVICE)?;
    let config = LoopConfig {
        fd: u32::try_from(backing.as_raw_fd()).map_err(|_| failure("bad descriptor"))?,
        block_size: 512,
        info: LoopInfo64 {
            numbers: [0; 5],
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_DIRECT_IO,
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads one struct loop_config, whose layout this is, and keeps its own
    // reference to the descriptor in it.
    unsafe { ioctl(&file, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
        .context(format_args!("put {device} under {LOOP_DEVICE}"))?;
    Ok(LOOP_DEVICE.to_owned())
}
