//! What an origin holds after raw writers wrote to it, faults or not.
//!
//! The oracle compares the image with what reached the disk. That all of what was written did reach it, only the
//! journal can say: writers hold the sectors that they write, so that for each sector the operation which
//! was begun last decides.
//!
//! Not checked: what a discard leaves behind, which may be anything, and operations that failed or did not end.

use std::collections::BTreeMap;

use cowbird_host::error::HarnessResult;
use cowbird_proto::message::{Event, JournalEntry, Operation};
use cowbird_proto::sector::{SECTOR_BYTES, SectorIdentity};

use crate::exhibits::Exhibits;
use crate::judgement::Judgement;

/// What decided a sector last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nobody.
    Nothing,
    /// A write.
    Write { writer: u32, generation: u64 },
    /// It was zeroed.
    Zeroes,
    /// Something after which anything may be there.
    Anything,
}

/// An operation, and whether it ended well.
struct Done {
    at_ns: u64,
    writer: u32,
    what: Operation,
    well: bool,
}

/// The first partition must end with what the raw writers' journal says.
pub(crate) fn check(exhibits: &Exhibits<'_>, judgement: &mut Judgement) -> HarnessResult<()> {
    let events = exhibits.said.journal()?;
    let fault = match exhibits.first_partition() {
        Some((before, after)) => fault(events, before, after),
        None => Some("the origin lies behind the end of its disk".to_owned()),
    };
    if let Some(fault) = fault {
        judgement.fault(fault);
    }
    Ok(())
}

/// What is wrong with a volume that held `before`, in one sentence.
fn fault(events: &[Event], before: &[u8], after: &[u8]) -> Option<String> {
    let mut last = vec![Last::Nothing; after.len() / SECTOR_BYTES];
    for done in in_order(events) {
        let Some((range, decides)) = decision(&done) else {
            continue;
        };
        if let Some(sectors) = last.get_mut(range) {
            sectors.fill(decides);
        }
    }
    let is_wrong = |sector: usize| {
        let at = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let found = &after[at.clone()];
        match last[sector] {
            Last::Nothing => before.get(at) != Some(found),
            Last::Write { writer, generation } => !SectorIdentity::parse(found).is_some_and(|it| {
                (it.sector, it.writer, it.generation) == (sector as u64, writer, generation)
            }),
            Last::Zeroes => found.iter().any(|byte| *byte != 0),
            Last::Anything => false,
        }
    };
    let wrong: Vec<usize> = (0..last.len()).filter(|sector| is_wrong(*sector)).collect();
    let first = *wrong.first()?;
    Some(format!(
        "the origin does not end with what was written to it: {} sectors differ, the first is {first}: {:?}",
        wrong.len(),
        last[first]
    ))
}

/// What an operation decides, and where.
fn decision(done: &Done) -> Option<(std::ops::Range<usize>, Last)> {
    let (offset, length, decides) = match done.what {
        Operation::Write {
            offset,
            length,
            generation,
            ..
        } => {
            let writer = done.writer;
            (offset, length, Last::Write { writer, generation })
        }
        Operation::ZeroOut { offset, length } => (offset, length, Last::Zeroes),
        Operation::Discard { offset, length } => (offset, length, Last::Anything),
        _ => return None,
    };
    let sector = |bytes: u64| (bytes / SECTOR_BYTES as u64) as usize;
    let decides = if done.well { decides } else { Last::Anything };
    Some((sector(offset)..sector(offset + length), decides))
}

/// All operations in the order in which they were begun.
fn in_order(events: &[Event]) -> Vec<Done> {
    let mut open = BTreeMap::new();
    let mut all: Vec<Done> = Vec::new();
    for event in events {
        let Event::Journal {
            workload,
            thread,
            entries,
        } = event
        else {
            continue;
        };
        for entry in entries {
            match entry {
                JournalEntry::Issued { op, at_ns, what } => {
                    open.insert((*workload, *thread, *op), all.len());
                    all.push(Done {
                        at_ns: *at_ns,
                        writer: *thread,
                        what: what.clone(),
                        well: false,
                    });
                }
                JournalEntry::Completed { op, errno, .. } => {
                    if let Some(at) = open.remove(&(*workload, *thread, *op)) {
                        all[at].well = *errno == 0;
                    }
                }
            }
        }
    }
    all.sort_by_key(|done| done.at_ns);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_proto::message::{WorkloadId, WriteMode};

    const SECTORS: usize = 16;

    fn write(sector: u64, sectors: u64, generation: u64) -> Operation {
        Operation::Write {
            identity: 1,
            offset: sector * SECTOR_BYTES as u64,
            length: sectors * SECTOR_BYTES as u64,
            generation,
            mode: WriteMode::Direct,
        }
    }

    fn identity(sector: u64, generation: u64, writer: u32) -> SectorIdentity {
        SectorIdentity {
            identity: 1,
            sector,
            generation,
            seed: 5,
            writer,
        }
    }

    /// One thread's journal; each operation ends as it is told.
    fn journal(thread: u32, operations: &[(u64, Operation, Option<i32>)]) -> Event {
        let mut entries = Vec::new();
        for (op, (at_ns, what, errno)) in (0..).zip(operations) {
            let (at_ns, what) = (*at_ns, what.clone());
            entries.push(JournalEntry::Issued { op, at_ns, what });
            if let Some(errno) = *errno {
                entries.push(JournalEntry::Completed { op, at_ns, errno });
            }
        }
        Event::Journal {
            workload: WorkloadId(1),
            thread,
            entries,
        }
    }

    /// Goal: a write that never arrived, one that arrived where nobody wrote and one that an older one
    /// has overtaken are each found. Method: a volume that is right, then each of them.
    #[test]
    fn what_did_not_arrive_is_found() {
        let events = [
            journal(
                0,
                &[(1, write(2, 4, 1), Some(0)), (9, write(8, 1, 2), Some(0))],
            ),
            journal(1, &[(5, write(4, 1, 1), Some(0))]),
        ];
        let before = vec![7; SECTORS * SECTOR_BYTES];
        let mut right = before.clone();
        let mut put = |sector: u64, generation, writer| {
            let at = sector as usize * SECTOR_BYTES;
            identity(sector, generation, writer).write_to(&mut right[at..at + SECTOR_BYTES]);
        };
        for sector in [2, 3, 5] {
            put(sector, 1, 0);
        }
        put(4, 1, 1);
        put(8, 2, 0);
        assert_eq!(fault(&events, &before, &right), None);

        let broken = |sector: usize, content: Option<SectorIdentity>| {
            let mut after = right.clone();
            let found = &mut after[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES];
            match content {
                Some(identity) => identity.write_to(found),
                None => found.copy_from_slice(&before[..SECTOR_BYTES]),
            }
            fault(&events, &before, &after).expect("it is wrong")
        };
        assert!(broken(8, None).contains("1 sectors differ, the first is 8"));
        assert!(broken(4, Some(identity(4, 1, 0))).contains("the first is 4"));
        assert!(broken(12, Some(identity(12, 1, 0))).contains("Nothing"));
    }

    /// Goal: nothing is claimed of sectors that a failed or unended operation may have written.
    #[test]
    fn what_failed_may_have_left_anything() {
        let events = [journal(
            0,
            &[(1, write(2, 1, 1), Some(5)), (2, write(3, 1, 2), None)],
        )];
        let before = vec![7; SECTORS * SECTOR_BYTES];
        let mut after = before.clone();
        after[2 * SECTOR_BYTES..4 * SECTOR_BYTES].fill(9);
        assert_eq!(fault(&events, &before, &after), None);
    }
}
