//! The trace file, version 1.
//!
//! ```text
//! file    = header chunk*                      all integers little-endian
//!
//! header      0  u8[8]  magic "CBTRACE\n"
//!             8  u32    container version, 1: this page without the events
//!            12  u32    header bytes, 32
//!            16  u8[12] zero
//!            28  u32    crc32c of bytes 0..28
//!
//! chunk       0  u32    magic 0x4b484342 "BCHK"
//!             4  u8     kind: 1 meta (JSON), 2 events, 3 footer (JSON)
//!             5  u8     codec of the payload: 0 stored, 1 zstd
//!             6  u16    layout of the payload: of JSON 1, of events 2 (1 in older traces)
//!             8  u32    payload bytes in the file
//!            12  u32    payload bytes when unpacked
//!            16  u32    events in the chunk
//!            20  u32    crc32c of the payload as it is in the file
//!            24  u64    sequence of the first event
//!            32  u64    number of the chunk, from 0
//!            40  u32    zero
//!            44  u32    crc32c of bytes 0..44
//!            48  payload
//! ```
//!
//! A chunk stands alone: a reader that meets a damaged one looks for the next chunk magic whose
//! header has the right checksum, and reports the bytes in between. The footer comes last; a trace
//! without one was cut short and says nothing about losses, so it is not complete.
//!
//! [`layout2`] says how events are stored, and [`layout1`] how they once were. A later layout of events
//! gets a new number, and an old reader passes over such chunks with a report; only a change of
//! this frame raises the container version, which an old reader refuses.

use serde::{Deserialize, Serialize};
use thiserror::Error;

mod layout1;
mod layout2;
mod reader;
mod writer;

pub use reader::{Chunk, Damage, Source, TraceReader};
pub use writer::TraceWriter;

use crate::devices::{BlockDevice, Snapshot};

const FILE_MAGIC: [u8; 8] = *b"CBTRACE\n";
const CONTAINER_VERSION: u32 = 1;
const FILE_HEADER_BYTES: usize = 32;

const CHUNK_MAGIC: [u8; 4] = *b"BCHK";
const CHUNK_HEADER_BYTES: usize = 48;
const CHUNK_META: u8 = 1;
const CHUNK_EVENTS: u8 = 2;
const CHUNK_FOOTER: u8 = 3;
const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Layout of JSON, and of events in older traces.
const LAYOUT_1: u16 = 1;
/// Layout of events.
const LAYOUT_2: u16 = 2;

/// No chunk is larger, packed or not; what claims to be is damaged.
const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// Events in one chunk: what a crash or a damaged byte can cost.
pub const MAX_CHUNK_EVENTS: usize = 8192;

/// What can go wrong with a trace file. As in all errors of this crate, the message tells the whole
/// story, so there is no further source to print.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The file is something else.
    #[error(
        "this is not a trace: it does not begin with {magic:?}; give a file that `cowbird-trace record` wrote",
        magic = "CBTRACE"
    )]
    NotATrace,
    /// The file header is damaged.
    #[error("the trace's header is damaged (checksum {found:#010x}, not {expected:#010x})")]
    DamagedHeader {
        /// What the file says.
        found: u32,
        /// What its bytes give.
        expected: u32,
    },
    /// A newer program wrote it.
    #[error(
        "the trace has container version {0}, this program reads version 1; use the newer \
         cowbird-trace that wrote it"
    )]
    FutureVersion(u32),
    /// Reading or writing failed.
    #[error("cannot {operation} the trace: {reason}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: std::io::Error,
    },
    /// A chunk that this program made is too large: a defect.
    #[error("a chunk of {0} bytes is larger than a trace may have")]
    TooLarge(usize),
}

/// What is known when recording begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Meta {
    /// Program and version.
    pub tool: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Seconds of `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, in nanoseconds.
    pub realtime_offset_ns: u64,
    /// `CLOCK_MONOTONIC` when recording began.
    pub start_ns: u64,
    /// Device to which the recording is limited.
    pub filter: Option<String>,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
    /// Attached programs, each as `program on tracepoint`.
    pub programs: Vec<String>,
    /// Whether the module's events are recorded.
    pub module_events: bool,
    /// Where the grid of fingerprinted blocks begins, in sectors of the disk modulo 8; none without
    /// fingerprints.
    pub fingerprint_grid: Option<u32>,
    /// Whether fingerprints are sealed with a key that nobody has; older traces have plain ones.
    pub fingerprints_sealed: bool,
    /// The fingerprints of zeros, of one sector to eight; none where they are plain.
    pub zero_prints: Vec<u64>,
    /// Block devices of the machine.
    pub devices: Vec<BlockDevice>,
    /// Snapshots at the start.
    pub snapshots: Vec<Snapshot>,
}

/// What is known when recording ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Footer {
    /// Why it ended: `signal`, `seconds` or `size-limit`.
    pub stopped_by: String,
    /// `CLOCK_MONOTONIC` when recording ended.
    pub end_ns: u64,
    /// Events that the programs made.
    pub produced: u64,
    /// Events that reached this file.
    pub received: u64,
    /// Records that were made of them: fingerprints come several in one event. None means as many
    /// as events.
    pub records: Option<u64>,
    /// Events beyond the rate limit, which were left out.
    pub limited: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
    /// Dropped events, CPU by CPU.
    pub dropped_per_cpu: Vec<u64>,
    /// Fields and contents that could not be read.
    pub read_faults: u64,
    /// Runs of first programs that the kernel skipped; `None` if it does not count them.
    pub recursion_misses: Option<u64>,
    /// Of these, recorded by a later program.
    pub rescued: u64,
    /// At most so many events were lost to skipped runs.
    pub lost_to_recursion: u64,
    /// At most so many events are there twice.
    pub duplicates: u64,
    /// Issues and completions of requests that must have been and are not there, whatever the reason.
    pub unpaired: u64,
    /// Requests that were issued and not completed when recording ended.
    pub open_requests: u64,
    /// Block devices at the end, if they differ from those at the start.
    pub devices: Option<Vec<BlockDevice>>,
    /// Every snapshot that was there during the recording.
    pub snapshots: Vec<Snapshot>,
}

impl Footer {
    /// Events that were neither received nor counted as dropped: always 0 unless a counter lies.
    #[must_use]
    pub fn unaccounted(&self) -> i128 {
        i128::from(self.produced)
            - i128::from(self.received)
            - i128::from(self.dropped)
            - i128::from(self.limited)
    }

    /// Missing issues and completions for which no counter has a reason.
    #[must_use]
    pub fn unseen(&self) -> u64 {
        let explained = self.dropped + self.limited + self.lost_to_recursion + self.duplicates;
        self.unpaired.saturating_sub(explained)
    }

    /// Every reason why the recorder cannot vouch for the trace; empty if it can.
    #[must_use]
    pub fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        let mut add = |count: u64, what: &str| {
            if count > 0 {
                losses.push(format!("{count} {what}"));
            }
        };
        add(self.dropped, "events dropped, the ring buffer was full");
        add(self.limited, "events left out by the rate limit");
        add(self.read_faults, "fields or contents could not be read");
        add(
            self.lost_to_recursion,
            "events at most lost to skipped programs",
        );
        add(self.duplicates, "events at most are there twice");
        add(
            self.unseen(),
            "issues or completions of requests are missing: this kernel did not show them to BPF",
        );
        if self.unaccounted() != 0 {
            losses.push(format!("{} events unaccounted for", self.unaccounted()));
        }
        losses
    }
}

#[cfg(test)]
mod tests;
