//! Devices that are stacked on others.

use serde::{Deserialize, Serialize};

/// A device that is stacked on others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StackKind {
    /// Device-mapper, linear: works on bios.
    Linear,
    /// Four devices of device-mapper, linear, each on a quarter; the path is that of the first.
    Quarters,
    /// Device-mapper, linear, of two pieces that follow each other below as well.
    TwoPieces,
    /// Loop with direct I/O: works on requests.
    Loop,
    /// Loop whose partitions are being read, for as long as the device below takes: meanwhile whoever opens it
    /// waits in the kernel, where no signal reaches.
    Scanned,
    /// Device-mapper, crypt, AES-XTS with [`CRYPT_KEY`]; the sector number is the tweak.
    Crypt,
    /// The same without queues of its own: whoever writes encrypts and submits (from 5.9 on).
    CryptInline,
    /// Device-mapper, striped over two devices in chunks of 256 KiB.
    Striped,
    /// A thin volume, all of it provisioned in order; the second device holds the pool's metadata.
    Thin,
    /// RAID 1 of two devices, without metadata on them.
    Mirror,
    /// RAID 5 of three devices, without metadata on them. Nobody has made their parity right.
    Parity,
    /// Device-mapper, with pieces that fail or take their time, as [`super::Request::InjectFaults`] tells them.
    FaultInjection,
    /// Device-mapper: a device in [`SPREAD_PIECES`] pieces, evenly spread over one of any size, zeros between them
    /// that swallow what is written.
    Spread {
        /// Tells several of them apart.
        number: u8,
        /// Size of the device, sectors.
        sectors: u64,
    },
    /// Device-mapper: the pieces of a [`StackKind::Spread`], or of what has its size, in one again.
    Gathered {
        /// Tells several of them apart.
        number: u8,
        /// Size of what was spread, sectors.
        sectors: u64,
    },
    /// So many of [`StackKind::Linear`], each all of the same device; their paths are separated by spaces.
    Many(u32),
}

/// Pieces of [`StackKind::Spread`].
pub const SPREAD_PIECES: u64 = 16;

/// What a piece of [`StackKind::FaultInjection`] does; what no piece covers goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InjectedFault {
    /// Reads fail, writes go through.
    FailReads,
    /// Writes fail, reads and flushes go through.
    FailWrites,
    /// Both take so much longer, ms.
    Delay {
        /// Reads.
        reads_ms: u32,
        /// Writes.
        writes_ms: u32,
    },
    /// Writes and flushes end well and are not done, reads go through.
    DropWrites,
}

/// A piece of [`StackKind::FaultInjection`]; pieces are in order and do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultTarget {
    /// First sector.
    pub start: u64,
    /// Length, sectors; what is behind the end of the device does not count.
    pub sectors: u64,
    /// What it does.
    pub fault: InjectedFault,
}

/// The key of [`StackKind::Crypt`]: both halves of an AES-128 in XTS mode.
pub const CRYPT_KEY: [u8; 32] = *b"cowbird: half onecowbird: second";
