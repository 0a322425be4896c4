//! Devices stacked on others.

mod dm;
mod md;
mod ruled;
mod scanned;
mod spread;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use cowbird_proto::message::{Reply, StackKind};
use rustix::ioctl::{NoArg, Setter, ioctl};

pub use self::ruled::rule;

use crate::error::{Context, GuestResult, failure};

const LOOP_DEVICE: &str = "/dev/loop0";

const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_CONFIGURE: u32 = 0x4C0A;
/// `LO_FLAGS_DIRECT_IO`: else the backing device would lag behind by the page cache.
const LO_DIRECT_IO: u32 = 16;
/// `LO_FLAGS_PARTSCAN`: the ioctl returns when the partitions have been read.
const LO_PARTSCAN: u32 = 8;

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

/// Stacks a device on others; answers the path of the new one.
pub fn stack(devices: &[String], kind: StackKind) -> GuestResult<Reply> {
    match (kind, devices) {
        (StackKind::Linear, [device]) => dm::linear(device, 1),
        (StackKind::Quarters, [device]) => dm::quarters(device),
        (StackKind::TwoPieces, [device]) => dm::linear(device, 2),
        (StackKind::Loop, [device]) => stack_loop(device, LO_DIRECT_IO),
        (StackKind::Scanned, [device]) => scanned::stack(device),
        (StackKind::Crypt, [device]) => dm::crypt(device, ""),
        (StackKind::CryptInline, [device]) => {
            dm::crypt(device, " 2 no_read_workqueue no_write_workqueue")
        }
        (StackKind::Striped, [first, second]) => dm::striped(first, second),
        (StackKind::Thin, [data, metadata]) => dm::thin(data, metadata),
        (StackKind::Mirror, devices) => md::mirror(devices),
        (StackKind::Parity, devices) => md::parity(devices),
        (StackKind::Ruled, [device]) => ruled::stack(device),
        (StackKind::Spread { number, sectors }, [device]) => {
            spread::spread(device, number, sectors)
        }
        (StackKind::Gathered { number, sectors }, [device]) => {
            spread::gather(device, number, sectors)
        }
        (StackKind::Many(count), [device]) => dm::many(device, count),
        (kind, devices) => Err(failure(format!("{kind:?} of {} devices", devices.len()))),
    }
    .map(Reply::Text)
}

/// Takes it off again.
pub fn unstack(kind: StackKind) -> GuestResult<()> {
    match kind {
        StackKind::Linear | StackKind::TwoPieces => dm::remove("linear"),
        StackKind::Quarters => dm::remove_quarters(),
        StackKind::Crypt | StackKind::CryptInline => dm::remove("crypt"),
        StackKind::Striped => dm::remove("striped"),
        StackKind::Thin => dm::remove("thin").and_then(|()| dm::remove("pool")),
        StackKind::Mirror | StackKind::Parity => md::stop(),
        StackKind::Ruled => ruled::unstack(),
        StackKind::Spread { number, .. } => dm::remove(&spread::spread_name(number)),
        StackKind::Gathered { number, .. } => dm::remove(&spread::gathered_name(number)),
        StackKind::Many(count) => dm::remove_many(count),
        StackKind::Scanned => scanned::unstack(),
        StackKind::Loop => unstack_loop(),
    }
}

fn open(path: &str) -> GuestResult<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(path).context(format_args!("open {path}"))
}

fn unstack_loop() -> GuestResult<()> {
    let file = open(LOOP_DEVICE)?;
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl(&file, NoArg::<LOOP_CLR_FD>::new()) }
        .context(format_args!("clear {LOOP_DEVICE}"))
}

fn stack_loop(device: &str, flags: u32) -> GuestResult<String> {
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
            flags,
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
