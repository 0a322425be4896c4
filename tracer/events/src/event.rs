//! One event of a trace, and the words that describe it.

use std::fmt;

use serde::{Serialize, Serializer};

/// Bytes of a sector, everywhere in the block layer.
pub const SECTOR_BYTES: u64 = 512;

/// Bytes of a block, the unit of preservation.
pub const BLOCK_BYTES: u64 = 4096;

/// A place on a whole disk, in units of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Sector(pub u64);

/// A place on a device, in units of 4096 bytes from the device's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct BlockIndex(pub u64);

/// Names one use of a bio or request within a trace, so that its events can be joined. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct IoId(pub u64);

/// A device number as the kernel has it inside: 12 bits major, 20 bits minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceNumber(pub u32);

impl DeviceNumber {
    const MINOR_BITS: u32 = 20;

    /// From major and minor; `None` if one does not fit.
    #[must_use]
    pub fn new(major: u32, minor: u32) -> Option<Self> {
        (major < 1 << (32 - Self::MINOR_BITS) && minor < 1 << Self::MINOR_BITS)
            .then_some(Self(major << Self::MINOR_BITS | minor))
    }

    /// From the form that sysfs uses, `major:minor`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Self::new(major.parse().ok()?, minor.parse().ok()?)
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minor = self.0 & ((1 << Self::MINOR_BITS) - 1);
        write!(f, "{}:{}", self.0 >> Self::MINOR_BITS, minor)
    }
}

impl Serialize for DeviceNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! named_numbers {
    ($(#[$meta:meta])* $type:ident: $number:ty { $($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(u8)]
        pub enum $type { $($(#[$doc])* $name = $value,)* }

        impl $type {
            /// Every value, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// From the number that stands in a trace file; `None` for an unknown one.
            #[must_use]
            pub fn from_number(number: $number) -> Option<Self> {
                match number { $($value => Some(Self::$name),)* _ => None }
            }

            /// The name in every output.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

named_numbers! {
    /// What happened. The numbers are those of `tracer/bpf/event.h`.
    Kind: u8 {
        /// A bio enters the block layer.
        #[default]
        BioQueue = 1, "bio_queue";
        /// A request goes to the driver.
        RqIssue = 2, "rq_issue";
        /// A part of a request, or all of it, is done.
        RqComplete = 3, "rq_complete";
        /// A bio of a driver without requests is done.
        BioComplete = 4, "bio_complete";
        /// What a block of a write contains when it is submitted, or of a read when it is complete.
        Fingerprint = 5, "fingerprint";
        /// A write must wait for blocks to be preserved.
        Intercept = 16, "cowbird_intercept";
        /// The module starts to read T0 content.
        PreserveBegin = 17, "cowbird_preserve_begin";
        /// A block is preserved.
        PreserveComplete = 18, "cowbird_preserve_complete";
        /// A block goes to its slot of the COW file.
        PreserveStore = 19, "cowbird_preserve_store";
        /// A held write goes on.
        Release = 20, "cowbird_release";
        /// A snapshot read finds a block.
        SnapshotRead = 21, "cowbird_snapshot_read";
        /// A step of the cut.
        Epoch = 22, "cowbird_epoch";
        /// The snapshot's phase changes.
        State = 23, "cowbird_state";
        /// A bound was reached.
        Overflow = 24, "cowbird_overflow";
        /// The snapshot has failed.
        Error = 25, "cowbird_error";
        /// Blocks enter the change map.
        Change = 26, "cowbird_change";
    }
}

impl Kind {
    /// Whether the event is the block layer's; otherwise it is the module's.
    #[must_use]
    pub fn is_block_layer(self) -> bool {
        (self as u8) < Self::Intercept as u8
    }
}

named_numbers! {
    /// What a bio or request does, the same number on every kernel.
    Op: u8 {
        /// Read.
        Read = 0, "read";
        /// Write.
        Write = 1, "write";
        /// Flush the device's cache.
        Flush = 2, "flush";
        /// Discard.
        Discard = 3, "discard";
        /// Secure erase.
        SecureErase = 4, "secure_erase";
        /// Write one block many times (up to 5.17).
        WriteSame = 5, "write_same";
        /// Write zeros.
        WriteZeroes = 6, "write_zeroes";
        /// Any operation on zones.
        Zone = 7, "zone";
        /// A driver's or passthrough command.
        Driver = 8, "driver";
        /// None of these.
        Other = 9, "other";
        /// The event has no operation.
        #[default]
        None = 10, "none";
    }
}

/// Flags of a bio or request, the same bits on every kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// Bit by bit: the name in output, the name in the kernel's `enum req_flag_bits`.
    pub const NAMES: [(&'static str, &'static str); 8] = [
        ("sync", "__REQ_SYNC"),
        ("meta", "__REQ_META"),
        ("prio", "__REQ_PRIO"),
        ("fua", "__REQ_FUA"),
        ("preflush", "__REQ_PREFLUSH"),
        ("readahead", "__REQ_RAHEAD"),
        ("background", "__REQ_BACKGROUND"),
        ("nowait", "__REQ_NOWAIT"),
    ];
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, (name, _)) in Self::NAMES.iter().enumerate() {
            if self.0 & 1 << bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        Ok(())
    }
}

/// What is special about an event; bits of `enum cbt_mark` in `tracer/bpf/event.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Marks(pub u8);

impl Marks {
    /// A field could not be read in the kernel and is zero.
    pub const READ_FAULT: u8 = 1;
    /// Place and length are those at the queueing of the bio.
    pub const FROM_QUEUE: u8 = 2;
    /// The first program was busy; a later one recorded the event.
    pub const RESCUED: u8 = 4;

    /// Whether the bit is set.
    #[must_use]
    pub fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// One event. What `sector`, `second`, `amount`, `disk` and `bdev` mean depends on the kind:
///
/// | kind | `disk` | `bdev` | `sector` | `second` | `amount` |
/// |---|---|---|---|---|---|
/// | block layer | whole disk | device the bio names, 0 if the kernel has none | sector of the whole disk | 0 | bytes |
/// | fingerprint | whole disk | 0 | sector of the whole disk | XXH64, sealed or plain | bytes: 4096, or less for a part of a block |
/// | intercept | minor | 0 | first block | last block | 0 |
/// | `preserve_begin` | minor | 0 | first block | 0 | blocks |
/// | `preserve_complete` | minor | 0 | block | 0 | 0 |
/// | `preserve_store` | minor | 0 | block | 0 | slot |
/// | release | minor | 0 | sector of the whole disk | 0 | bytes |
/// | `snapshot_read` | minor | 1 if it was overtaken | block | 0 | source |
/// | epoch | minor | 0 | epoch | 0 | step |
/// | state | minor | from | 0 | 0 | to |
/// | overflow | minor | 0 | value | bound | 0 |
/// | error | minor | 0 | 0 | 0 | 0 |
/// | change | minor | 0 | first block | last block | 0 |
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Place in the trace, from 0 without gaps: the order in which the ring buffer took the events.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// What happened.
    pub kind: Kind,
    /// CPU on which it happened.
    pub cpu: u16,
    /// What is special about it.
    pub marks: Marks,
    /// The operation.
    pub op: Op,
    /// Flags of the operation.
    pub flags: Flags,
    /// Operation and flags as the recorded kernel numbers them.
    pub opf: u32,
    /// See the table.
    pub disk: u32,
    /// See the table.
    pub bdev: u32,
    /// See the table.
    pub sector: u64,
    /// See the table.
    pub second: u64,
    /// See the table.
    pub amount: u32,
    /// 0, or the negative errno with which it ended.
    pub status: i32,
    /// The bio or request; none for the module's events.
    pub io: IoId,
    /// The first bio of a request, if it was seen.
    pub parent: IoId,
    /// Process that ran; 0 at a completion, where any process may have been interrupted.
    pub tgid: u32,
    /// Thread that ran.
    pub tid: u32,
    /// Name of the thread, up to the first zero.
    pub comm: [u8; 16],
}

impl Record {
    /// Name of the thread that ran; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn comm(&self) -> String {
        let end = self.comm.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.comm[..end.unwrap_or(self.comm.len())]).into_owned()
    }

    /// Whole disk of a block layer event.
    #[must_use]
    pub fn disk(&self) -> Option<DeviceNumber> {
        self.kind
            .is_block_layer()
            .then_some(DeviceNumber(self.disk))
    }

    /// Minor of the snapshot of a module event.
    #[must_use]
    pub fn minor(&self) -> Option<u32> {
        (!self.kind.is_block_layer()).then_some(self.disk)
    }

    /// Sectors of the whole disk that the event is about: first, and one past the last.
    #[must_use]
    pub fn disk_range(&self) -> Option<(Sector, Sector)> {
        let on_disk = self.kind.is_block_layer() || self.kind == Kind::Release;
        let sectors = u64::from(self.amount).div_ceil(SECTOR_BYTES);
        (on_disk && sectors > 0).then(|| {
            (
                Sector(self.sector),
                Sector(self.sector.saturating_add(sectors)),
            )
        })
    }

    /// Blocks of the origin that a module event is about: first and last.
    #[must_use]
    pub fn origin_blocks(&self) -> Option<(BlockIndex, BlockIndex)> {
        let last = match self.kind {
            Kind::Intercept | Kind::Change => self.second,
            Kind::PreserveBegin => self
                .sector
                .saturating_add(u64::from(self.amount.saturating_sub(1))),
            Kind::PreserveComplete | Kind::PreserveStore | Kind::SnapshotRead => self.sector,
            _ => return None,
        };
        Some((BlockIndex(self.sector), BlockIndex(last)))
    }
}

/// Names of the sources of a snapshot read, by number; see `EVENTS.md`.
pub const READ_SOURCES: [&str; 5] = ["origin", "memory", "cow_file", "zeros", "failed"];

/// Names of the steps of the cut, by number; see `EVENTS.md`.
pub const EPOCH_STEPS: [&str; 4] = ["frozen", "gated", "drained", "begun"];

/// Names of the phases of a snapshot, by number; see `EVENTS.md`.
pub const PHASES: [&str; 8] = [
    "new",
    "holding",
    "active",
    "tracking",
    "failed",
    "closing",
    "invalidated",
    "losing",
];

/// A name by number, or the number itself.
#[must_use]
pub fn name_of(names: &[&str], number: u32) -> String {
    names
        .get(number as usize)
        .map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_read_and_print_alike() {
        for text in ["7:0", "254:17", "259:1048575"] {
            assert_eq!(DeviceNumber::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(DeviceNumber::parse("4096:0"), None);
        assert_eq!(DeviceNumber::parse("8"), None);
    }

    #[test]
    fn flags_name_every_bit() {
        assert_eq!(Flags(0).to_string(), "");
        assert_eq!(Flags(0b1001).to_string(), "sync|fua");
    }
}
