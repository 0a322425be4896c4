//! The loop device on another one.

use std::os::fd::AsRawFd;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use rustix::ioctl::{NoArg, Setter, ioctl};

use super::device::{LOOP_DEVICE, open};

const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_CONFIGURE: u32 = 0x4C0A;
/// `LO_FLAGS_DIRECT_IO`: else the backing device would lag behind by the page cache.
pub(super) const LO_DIRECT_IO: u32 = 16;
/// `LO_FLAGS_PARTSCAN`: the ioctl returns when the partitions have been read.
pub(super) const LO_PARTSCAN: u32 = 8;

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

/// Takes the loop device off what it is on.
pub(super) fn unstack_loop() -> GuestResult<()> {
    let file = open(LOOP_DEVICE)?;
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl(&file, NoArg::<LOOP_CLR_FD>::new()) }
        .context(format_args!("clear {LOOP_DEVICE}"))
}

/// Puts the loop device on a device; answers its path.
pub(super) fn stack_loop(device: &str, flags: u32) -> GuestResult<String> {
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
