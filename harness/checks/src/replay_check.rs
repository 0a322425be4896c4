//! What an origin holds after a workload was replayed on it to its end.
//!
//! The oracle compares the image with what reached the disk. That all of what was written did reach it, and in
//! the right order, only somebody can say who knows what was written: overlapping operations are never in
//! flight together, so that the last one decides each sector.
//!
//! Not checked: what a discard leaves behind. It may leave anything, and one that a snapshot needs does not
//! reach the disk.

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_proto::recorded::fill;
use cowbird_workload::{Action, Extent, SECTOR_BYTES, Workload};

use crate::exhibits::Exhibits;
use crate::judgement::Judgement;

/// What decided a sector last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nobody.
    Nothing,
    /// The operation with this number.
    Operation(usize),
    /// A discard: anything may be there.
    Discard,
}

/// The first partition must end with what the recorded workload wrote to it.
pub(crate) fn check(exhibits: &Exhibits<'_>, judgement: &mut Judgement) -> HarnessResult<()> {
    let recorded = exhibits.said.recorded.ok_or_else(|| HarnessError::Plan {
        detail: "the case claims that a workload was replayed, and there is none".to_owned(),
    })?;
    let (before, after) = exhibits
        .first_partition()
        .ok_or_else(|| HarnessError::Plan {
            detail: "the volume of the workload lies behind the end of its disk".to_owned(),
        })?;
    let (workload, seed) = recorded.replayed();
    if let Some(fault) = fault(workload, seed, before.to_vec(), after) {
        judgement.fault(fault);
    }
    Ok(())
}

/// What is wrong with a volume that held `before` and was then written by the workload, in one sentence.
fn fault(workload: &Workload, seed: u64, before: Vec<u8>, after: &[u8]) -> Option<String> {
    let mut expected = before;
    let mut last = vec![Last::Nothing; expected.len() / SECTOR_BYTES as usize];
    for (at, operation) in workload.operations().iter().enumerate() {
        let extent = operation.extent;
        let bytes = &mut expected[range(extent, SECTOR_BYTES as usize)];
        let decides = match operation.action {
            Action::Read | Action::Flush => continue,
            Action::Write => {
                fill(operation, at, seed, extent, bytes);
                Last::Operation(at)
            }
            Action::WriteZeroes => {
                bytes.fill(0);
                Last::Operation(at)
            }
            Action::Discard => Last::Discard,
        };
        last[range(extent, 1)].fill(decides);
    }
    let sectors = expected.chunks(SECTOR_BYTES as usize);
    let pairs = sectors.zip(after.chunks(SECTOR_BYTES as usize));
    let wrong: Vec<usize> = pairs
        .zip(&last)
        .enumerate()
        .filter(|(_, ((expected, found), last))| **last != Last::Discard && expected != found)
        .map(|(sector, _)| sector)
        .collect();
    let first = *wrong.first()?;
    let whose = match last[first] {
        Last::Operation(at) => format!("which operation {at} wrote last"),
        Last::Nothing | Last::Discard => "which no operation wrote".to_owned(),
    };
    Some(format!(
        "the origin does not end with what was written to it: {} sectors differ, the first is {first}, {whose}",
        wrong.len()
    ))
}

/// The sectors of an extent, each so many units long.
fn range(extent: Extent, unit: usize) -> std::ops::Range<usize> {
    extent.start.0 as usize * unit..extent.end().0 as usize * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_workload::{Builder, Flags};

    const SEED: u64 = 3;
    const SECTORS: usize = 64;

    fn workload() -> Workload {
        let mut builder = Builder::default();
        for (action, offset, length) in [
            (Action::Write, 0, 8192),
            (Action::Write, 512, 1024),
            (Action::Discard, 8192, 4096),
            (Action::WriteZeroes, 4096, 512),
            (Action::Read, 0, 8192),
        ] {
            builder.push(
                0,
                action,
                Flags::default(),
                Extent::of_bytes(offset, length),
            );
        }
        builder.finish("x", Vec::new())
    }

    /// A volume on which these operations were done, in this order.
    fn done(order: &[usize]) -> Vec<u8> {
        let workload = workload();
        let mut volume = vec![0xB5; SECTORS * 512];
        for &at in order {
            let operation = &workload.operations()[at];
            let bytes = &mut volume[range(operation.extent, 512)];
            match operation.action {
                Action::Write => fill(operation, at, SEED, operation.extent, bytes),
                Action::WriteZeroes | Action::Discard => bytes.fill(0),
                Action::Read | Action::Flush => {}
            }
        }
        volume
    }

    fn judged(after: &[u8]) -> Option<String> {
        fault(&workload(), SEED, done(&[]), after)
    }

    #[test]
    fn what_was_written_in_order_is_right() {
        assert_eq!(judged(&done(&[0, 1, 2, 3])), None);
        assert_eq!(judged(&done(&[3, 0, 1, 2, 3])), None);
        // A discard that did not reach the disk.
        assert_eq!(judged(&done(&[0, 1, 3])), None);
    }

    /// Goal: what was lost, overtook another, or was written by nobody is named by its place.
    #[test]
    fn what_is_wrong_is_named() {
        let mut foreign = done(&[0, 1, 2, 3]);
        foreign[40 * 512] ^= 1;
        for (after, said) in [
            (
                done(&[1, 0, 2, 3]),
                "2 sectors differ, the first is 1, which operation 1 wrote",
            ),
            (
                done(&[0, 1, 2]),
                "1 sectors differ, the first is 8, which operation 3 wrote",
            ),
            (
                done(&[1, 2, 3]),
                "13 sectors differ, the first is 0, which operation 0 wrote",
            ),
            (
                foreign,
                "1 sectors differ, the first is 40, which no operation wrote",
            ),
        ] {
            let fault = judged(&after).expect(said);
            assert!(fault.contains(said), "{fault}");
        }
    }
}
