//! The change map of one epoch against the truth at its two ends.
//!
//! A map must hold every block that differs between the two snapshot instants; one that it lacks is
//! a *missed change*: whoever updates an image by the map keeps stale data there. It may hold more
//! blocks, which cost a copy each and are counted. The COW file's own blocks must not be in it: they
//! are nobody's data.
//!
//! # What this does not check
//! - A block that was changed and changed back: it does not differ, so no map has to hold it.
//! - That the two markers are the right instants: see [`crate::verify`](mod@crate::verify).

use crate::changed::changed_blocks;
use crate::class::Class;
use crate::epoch::Marker;
use crate::report::{BadBlock, Culprit};
use crate::truth::{DiscardModel, Truth};
use crate::units::{BlockIndex, BlockSet, EntryIndex, Origin, SectorRange};
use crate::verify::VerifyError;
use crate::witness::WitnessLog;

/// A change map and what it is about.
#[derive(Clone, Copy, Debug)]
pub struct ChangeMapInput<'a> {
    /// The whole disk before the log began.
    pub base: &'a [u8],
    /// The witness.
    pub log: &'a WitnessLog<'a>,
    /// The instant that the map leads from.
    pub from: Marker,
    /// The instant that it leads to.
    pub to: Marker,
    /// Where the origin lies on the disk.
    pub origin: SectorRange,
    /// The map.
    pub map: &'a BlockSet,
    /// The COW file's own blocks.
    pub own: &'a BlockSet,
    /// What discards did to the disk.
    pub discard: DiscardModel,
}

/// How a change map compares with the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeReport {
    /// Blocks that differ between the two instants, the COW file's own left out.
    pub changed: u64,
    /// Blocks in the map.
    pub listed: u64,
    /// Blocks in the map that do not differ.
    pub surplus: u64,
    /// Blocks in the map that belong to the COW file.
    pub own_listed: u64,
    /// Blocks that differ and are not in the map, in order.
    pub missed: Vec<BadBlock>,
}

/// Compares a change map with the truth at its two ends.
///
/// # Errors
/// An input that does not fit together; a wrong map is never an error.
pub fn check_changes(input: &ChangeMapInput<'_>) -> Result<ChangeReport, VerifyError> {
    let truth_at = |entry: EntryIndex| Truth::at(input.base, input.log, entry, input.discard);
    let (before, after) = (truth_at(input.from.entry)?, truth_at(input.to.entry)?);
    if input.origin.end().0 > before.disk_sectors() {
        return Err(VerifyError::OriginOutOfDisk {
            origin: input.origin,
            disk_sectors: before.disk_sectors(),
        });
    }
    let origin = Origin::new(input.origin);
    let mut report = ChangeReport {
        listed: input.map.len(),
        ..ChangeReport::default()
    };
    let changed = changed_blocks(&before, &after, &origin);
    for block in (0..origin.blocks()).map(BlockIndex) {
        let listed = input.map.contains(block);
        if input.own.contains(block) {
            report.own_listed += u64::from(listed);
            continue;
        }
        let differs = changed.contains(block);
        report.changed += u64::from(differs);
        report.surplus += u64::from(listed && !differs);
        if differs && !listed {
            report.missed.push(missed(input, &origin, block));
        }
    }
    Ok(report)
}

/// Names the last write of the epoch that changed the block.
fn missed(input: &ChangeMapInput<'_>, origin: &Origin, block: BlockIndex) -> BadBlock {
    let range = origin.block_range(block);
    let of_epoch = input.from.entry..input.to.entry;
    let culprit = input
        .log
        .entries()
        .iter()
        .rfind(|entry| {
            of_epoch.contains(&entry.index)
                && input.discard.changes_content(entry)
                && entry.range().intersect(&range).is_some()
        })
        .map(Culprit::from);
    BadBlock {
        block,
        class: Class::MissedChange,
        culprit,
        distance_sectors: None,
        detail: format!(
            "changed between epoch {} and epoch {} and is not in the change map",
            input.from.header.epoch, input.to.header.epoch
        ),
    }
}
