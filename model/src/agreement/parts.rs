//! What the three logs are made of for a comparison, and what it comes to.

use std::fmt;

use xxhash_rust::xxh64::xxh64;

use crate::epoch::Marker;
use crate::units::{EntryIndex, Epoch, SectorRange};
use crate::witness::WitnessLog;

/// Seed of the fingerprints.
const SEED: u64 = 0;

/// Contradictions that are kept one by one; more are only counted.
pub const MAX_CONTRADICTIONS: usize = 1000;

/// A place in a trace: later events have higher ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(pub u64);

/// How an operation changes the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Data is written.
    Write,
    /// Zeros are written.
    Zeroes,
    /// What was there is given up.
    Discard,
}

/// A fingerprint of a block, or of the part of it that the bio covers: XXH64 with seed 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// Which sectors.
    pub range: SectorRange,
    /// Their hash.
    pub xxh64: u64,
}

/// A bio that changes the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedBio {
    /// When it was queued.
    pub queued: Place,
    /// The same by the guest's clock.
    pub queued_ns: u64,
    /// What it does.
    pub change: Change,
    /// Where.
    pub range: SectorRange,
    /// Fingerprints of its blocks; none of one that writes no data.
    pub prints: Vec<Print>,
}

/// A request that changes the disk, or a part of it that was completed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedRequest {
    /// When it was issued; none if that was before the recording.
    pub issued: Option<Place>,
    /// When it was complete; none if that was after the recording.
    pub completed: Option<Place>,
    /// The same by the guest's clock.
    pub completed_ns: u64,
    /// What it does.
    pub change: Change,
    /// Where.
    pub range: SectorRange,
    /// Whether the disk said that it failed.
    pub failed: bool,
    /// Whether the disk itself was asked to put it on stable media.
    pub fua: bool,
}

/// A flush of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedFlush {
    /// When it was issued; none if that was before the recording.
    pub issued: Option<Place>,
    /// When it was complete; none if that was after the recording.
    pub completed: Option<Place>,
}

/// What a trace says about one disk, each list in the order of the trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TracedDisk {
    /// Bios that change it.
    pub bios: Vec<TracedBio>,
    /// Requests that change it.
    pub requests: Vec<TracedRequest>,
    /// Flushes.
    pub flushes: Vec<TracedFlush>,
}

impl TracedDisk {
    /// The bio that wrote a mark.
    pub(super) fn bio_of(&self, mark: &BoundaryMarker) -> Option<&TracedBio> {
        let print = hash(&mark.content);
        self.bios
            .iter()
            .find(|bio| bio.range == mark.range && bio.prints.iter().any(|p| p.xxh64 == print))
    }

    /// Whether a mark was written to this disk.
    #[must_use]
    pub fn has_boundary_marker(&self, mark: &BoundaryMarker) -> bool {
        self.bio_of(mark).is_some()
    }
}

/// A write that says where the recording begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundaryMarker {
    /// Where it was written; nobody else writes there.
    pub range: SectorRange,
    /// What.
    pub content: Vec<u8>,
}

/// What the check is made of, for one disk.
pub struct AgreementInput<'a> {
    /// The trace.
    pub traced: &'a TracedDisk,
    /// The witness of the disk, since the boot in which the trace was recorded.
    pub log: &'a WitnessLog<'a>,
    /// Written before anything that is compared.
    pub begin: &'a BoundaryMarker,
    /// Written after it.
    pub end: &'a BoundaryMarker,
    /// Whether a page of a cached write may change between its submission and its way to the disk, so that the
    /// witness may have something newer than the fingerprint. Such writes are only counted, but not those that
    /// the journal has as direct.
    pub pages_may_change: bool,
    /// Direct writes to the disk, by the journal.
    pub direct: &'a [JournalledWrite],
    /// Whether the disk makes a flush of FUA; one that ignores it is not asked for flushes of these writes.
    pub fua_is_flush: bool,
}

/// Who is missing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A mark is not where it must be, so that nothing can be compared.
    BoundaryMarker,
    /// Bios against the witness.
    Contents,
    /// Requests against the witness.
    Requests,
    /// Flushes.
    Flushes,
    /// Snapshot instants.
    Instants,
    /// The journal.
    Journal,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BoundaryMarker => "marks",
            Self::Contents => "contents",
            Self::Requests => "requests",
            Self::Flushes => "flushes",
            Self::Instants => "instants",
            Self::Journal => "journal",
        })
    }
}

/// One place at which two logs contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// Which rule is broken.
    pub rule: Rule,
    /// Where on the disk, within one block; none if it is not about a place.
    pub range: Option<SectorRange>,
    /// What the trace says.
    pub trace: String,
    /// What the other log says.
    pub other: String,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule)?;
        if let Some(range) = &self.range {
            write!(f, "{range} of the disk: ")?;
        }
        write!(f, "the trace has {}, {}", self.trace, self.other)
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Blocks, or parts of them, of bios whose content was compared.
    pub contents: u64,
    /// Of bios whose content is not known, which were only counted.
    pub counted: u64,
    /// Of bios whose content changed after its submission, which it may.
    pub changed: u64,
    /// Requests.
    pub requests: u64,
    /// Flushes and writes with FUA.
    pub flushes: u64,
    /// Snapshot instants.
    pub instants: u64,
    /// Writes of the journal.
    pub journalled: u64,
    /// Contradictions, the first [`MAX_CONTRADICTIONS`].
    pub contradictions: Vec<Contradiction>,
    /// Contradictions beyond these.
    pub more: u64,
}

impl Agreement {
    pub(crate) fn add(&mut self, contradiction: Contradiction) {
        if self.contradictions.len() < MAX_CONTRADICTIONS {
            self.contradictions.push(contradiction);
        } else {
            self.more += 1;
        }
    }

    /// Adds what another comparison came to.
    pub fn append(&mut self, other: Self) {
        self.contents += other.contents;
        self.counted += other.counted;
        self.changed += other.changed;
        self.requests += other.requests;
        self.flushes += other.flushes;
        self.instants += other.instants;
        self.journalled += other.journalled;
        self.more += other.more;
        for contradiction in other.contradictions {
            self.add(contradiction);
        }
    }

    /// How many contradictions there are.
    #[must_use]
    pub fn contradicted(&self) -> u64 {
        self.contradictions.len() as u64 + self.more
    }
}

/// The stretch of both logs in which they must agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The mark at the beginning was complete here.
    pub(crate) begun: Place,
    /// The mark at the end was queued here.
    pub(crate) ending: Place,
    /// The same two by the guest's clock.
    pub(crate) clock_ns: (u64, u64),
    /// Their entries in the witness.
    pub(crate) entries: (EntryIndex, EntryIndex),
}

impl Window {
    pub(crate) fn has_entry(&self, entry: EntryIndex) -> bool {
        self.entries.0 < entry && entry < self.entries.1
    }
}

/// Epochs that began, by the trace; see [`super::check_instants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedInstant {
    /// Number of the snapshot.
    pub minor: u32,
    /// Epoch.
    pub epoch: Epoch,
    /// When nothing was in flight any more.
    pub drained: Place,
    /// When it began.
    pub begun: Place,
}

/// An epoch header in the witness, and the bio that brought it; see [`super::check_instants`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedHeader {
    /// The header.
    pub marker: Marker,
    /// When its bio was queued and complete, as far as the trace knows.
    pub bio: Option<(Place, Option<Place>)>,
}

/// One disk whose logs are cut to size and matched.
pub struct Compared {
    pub(super) window: Window,
    /// Where the witness has each matched piece of a bio: queued, complete, entry.
    pub(super) matched: Vec<Matched>,
}

/// A piece of a bio, and the entry that it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matched {
    pub(crate) queued: Place,
    pub(crate) completed: Option<Place>,
    pub(crate) entry: EntryIndex,
    pub(crate) block: u64,
    /// Nobody else was at the block meanwhile, and no other entry of it has the same content: there is no
    /// doubt about the entry and the completion.
    pub(crate) certain: bool,
}

/// A direct write of the journal that came to a good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalledWrite {
    /// Where on the disk.
    pub range: SectorRange,
    /// When it was about to be submitted, by the guest's clock.
    pub issued_ns: u64,
    /// When its end was seen.
    pub completed_ns: u64,
    /// Who and what, for the report.
    pub name: String,
}

/// The fingerprint of a content.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, SEED)
}
