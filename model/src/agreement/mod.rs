//! Whether the trace of a running kernel, the witness below it and the journal above it agree.
//!
//! Three logs of one and the same writes, kept at three heights:
//!
//! ```text
//! journal    what a workload says that it issued and saw complete    times of the guest's clock
//! trace      bios and requests in the kernel, with fingerprints      places in the trace
//! witness    what QEMU's disk took, with its data                    entries of the log
//! ```
//!
//! Each was begun and ended at another moment, so each is cut by two *marks*: writes of known content to a
//! sector that nobody else writes. Between the marks everything must agree, in both directions; what was
//! under way when a mark was written may be on either side of it.
//!
//! | rule | what must be |
//! |---|---|
//! | contents | each block of each bio that changes the disk is once in the witness, with the content that its fingerprint names; each block of each entry is once in the bios |
//! | requests | each sector was completed by requests as often as entries wrote it |
//! | flushes | a flush, or a write with FUA, is between what was complete before it and what was queued after it; each flush of the witness is one of these |
//! | instants | each epoch that began has its header, queued after the drain and complete before the beginning; each new header has its epoch |
//! | journal | each direct write lies, sector by sector, in bios queued and requests completed while it ran; the epochs that began are those that the control tool reported |
//!
//! Not compared: reads, which the witness does not log; the order of writes, except around flushes; requests
//! of discards, which may have several ranges; discards and zeroing of the journal, which the module may absorb;
//! writes of the journal that go through a cache, a filesystem or another device.

mod blocks;
mod contents;
mod flushes;
mod instants;
mod journal;
mod parts;

use crate::units::EntryIndex;
use crate::witness::EntryKind;

pub use instants::check_instants;
pub use journal::check_journal;
pub use parts::{
    Agreement, AgreementInput, BoundaryMarker, Change, Compared, Contradiction, JournalledWrite,
    MAX_CONTRADICTIONS, Place, Print, Rule, TracedBio, TracedDisk, TracedFlush, TracedHeader,
    TracedInstant, TracedRequest,
};
pub(crate) use parts::{Matched, Window};

use blocks::Blocks;

/// Compares the trace of one disk with its witness.
///
/// # Errors
/// The agreement with the reason, when a mark is missing: nothing else can be compared then.
pub fn check_agreement(input: &AgreementInput<'_>) -> Result<(Agreement, Compared), Agreement> {
    let mut agreement = Agreement::default();
    let window = match find_window(input) {
        Ok(window) => window,
        Err(contradiction) => {
            agreement.add(contradiction);
            return Err(agreement);
        }
    };
    let blocks = Blocks::new(input, &window);
    let matched = contents::check(input, &window, &blocks, &mut agreement);
    blocks.check_requests(input, &window, &mut agreement);
    flushes::check(input, &window, &matched, &mut agreement);
    Ok((agreement, Compared { window, matched }))
}

fn find_window(input: &AgreementInput<'_>) -> Result<Window, Contradiction> {
    let (begin, end) = (input.begin, input.end);
    let (begin_bio, begin_entry) = find_boundary(input, begin, "beginning")?;
    let (end_bio, end_entry) = find_boundary(input, end, "end")?;
    let mut requests = input.traced.requests.iter();
    let request = requests.find(|request| {
        request.issued > Some(begin_bio.queued)
            && request.range.intersect(&begin.range).is_some()
            && request.completed.is_some()
    });
    let completed = request.and_then(|request| Some((request.completed?, request.completed_ns)));
    match completed {
        Some((begun, begun_ns)) if begun < end_bio.queued && begin_entry < end_entry => {
            Ok(Window {
                begun,
                ending: end_bio.queued,
                clock_ns: (begun_ns, end_bio.queued_ns),
                entries: (begin_entry, end_entry),
            })
        }
        _ => Err(Contradiction {
            rule: Rule::BoundaryMarker,
            range: Some(begin.range),
            trace: "no completion of the mark at the beginning before the mark at the end".into(),
            other: format!("the witness has them as entries {begin_entry} and {end_entry}"),
        }),
    }
}

/// The bio and the entry of a mark.
fn find_boundary<'a>(
    input: &AgreementInput<'a>,
    mark: &BoundaryMarker,
    name: &str,
) -> Result<(&'a TracedBio, EntryIndex), Contradiction> {
    let bio = input.traced.bio_of(mark);
    let entry = input.log.entries().iter().find(|entry| {
        entry.kind == EntryKind::Write
            && blocks::part_of(entry, &mark.range) == Some(mark.content.as_slice())
    });
    match (bio, entry) {
        (Some(bio), Some(entry)) => Ok((bio, entry.index)),
        (bio, entry) => Err(Contradiction {
            rule: Rule::BoundaryMarker,
            range: Some(mark.range),
            trace: match bio {
                Some(bio) => format!("the mark at the {name} at place {}", bio.queued.0),
                None => format!("no mark at the {name}"),
            },
            other: match entry {
                Some(entry) => format!("the witness has it as entry {}", entry.index),
                None => "the witness has none".into(),
            },
        }),
    }
}
