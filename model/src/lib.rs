//! The oracle: what every block must contain, without any I/O.
//!
//! Byte slices go in and data comes out; files, QEMU and ioctls are the harness's business. The
//! ground truth of a snapshot is the witness, the log of writes that QEMU keeps below the guest:
//!
//! ```text
//! disk before boot + witness up to the epoch marker = the origin at T0 = the one legal image
//! ```
//!
//! 1. [`WitnessLog::parse`] reads the log, [`self_check()`] compares it with the disk it witnessed.
//! 2. [`find_marker`] finds the snapshot instant in it.
//! 3. [`verify()`] compares every block of an image and classifies what is wrong; an [`Oracle`] does
//!    the same and also judges single observations of hot readers.
//! 4. [`check_changes`] compares a change map with the truth at both of its ends.
//! 5. [`check_lockstep`] tells whether the images of two volumes show one instant.
//! 6. [`check_agreement`] compares the witness with the trace of the running kernel and with the journal.
//!
//! A [`Shrinker`] finds what of a failing cell is needed for its failure.

mod agreement;
mod bytes;
mod change_map;
mod changed;
mod class;
mod epoch;
mod history;
mod holes;
mod lockstep_writers;
mod power_cut;
mod report;
mod search;
mod self_check;
mod shrink;
mod truth;
mod units;
mod verdict;
pub mod verify;
pub mod witness;

pub use agreement::{
    Agreement, AgreementInput, BoundaryMarker, Change, Compared, Contradiction, JournalledWrite,
    MAX_CONTRADICTIONS, Place, Print, Rule, TracedBio, TracedDisk, TracedFlush, TracedHeader,
    TracedInstant, TracedRequest, check_agreement, check_instants, check_journal,
};
pub use change_map::{ChangeMapInput, ChangeReport, check_changes};
pub use changed::changed_blocks;
pub use class::Class;
pub use epoch::{
    EpochHeader, HEADER_BYTES, HEADER_MAGIC, HEADER_VERSION, HeaderError, Marker, MarkerError,
    MarkerKey, Markers, find_marker, find_marker_sparse, find_markers,
};
pub use holes::Holes;
pub use lockstep_writers::{LockstepFault, check_lockstep};
pub use power_cut::{Survival, stable_until};
pub use report::{
    BadBlock, Culprit, MAX_LISTED_BLOCKS, MAX_LISTED_RUNS, MAX_LISTED_SHIFTS, Report,
};
pub use self_check::{Disagreement, Disagreements, SelfCheckError, self_check, self_check_sparse};
pub use shrink::Shrinker;
pub use truth::{Content, DiscardModel, Segment, Segments, Truth, TruthError};
pub use units::PIECE_SECTORS;
pub use units::{
    BLOCK_BYTES, BlockIndex, BlockRun, BlockSet, EntryIndex, Epoch, Origin, SECTOR_BYTES,
    SECTORS_PER_BLOCK, Sector, SectorRange,
};
pub use verdict::{CellResult, Phase, RunResults, TraceConclusion, TraceResult, Verdict};
pub use verify::{Oracle, VerifyError, VerifyInput, verify};
pub use witness::{Entry, EntryKind, Tail, WitnessError, WitnessLog};
