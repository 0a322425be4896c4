//! What the disk may hold after the power was lost.
//!
//! A disk may keep in a volatile cache whatever was written since the last flush, and lose any of
//! it, sector by sector, in any order. A write that must be stable at once (FUA) needs no case of its
//! own: QEMU makes a write and a flush of it.
//!
//! Entries are logged when they complete, so that every entry before the cut was seen complete by the
//! guest, or could have been. Requests that were in flight at the cut are taken as lost.

use crate::truth::{DiscardModel, Truth, TruthError};
use crate::units::{EntryIndex, SectorRange};
use crate::witness::{Entry, EntryKind, WitnessLog};

/// How much of a write that no flush has covered is on the disk afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survival {
    /// All of it.
    Whole,
    /// Nothing of it.
    Lost,
    /// Only these runs of sectors of the disk; the parts outside of the entry do not count.
    Torn(Vec<SectorRange>),
}

impl<'a> Truth<'a> {
    /// The disk after the power was lost right after the entry before `cut`: `base` with everything
    /// that a flush had covered, and of the rest what `survives` says.
    ///
    /// `survives` is asked once for each entry in doubt, in log order.
    ///
    /// # Errors
    /// As [`Truth::at`].
    pub fn after_power_cut(
        base: &'a [u8],
        log: &WitnessLog<'a>,
        cut: EntryIndex,
        discard: DiscardModel,
        mut survives: impl FnMut(&Entry<'a>) -> Survival,
    ) -> Result<Self, TruthError> {
        let stable = stable_until(log, cut);
        let mut truth = Self::at(base, log, stable, discard)?;
        let in_doubt = log
            .entries()
            .iter()
            .filter(|entry| entry.index >= stable && entry.index < cut)
            .filter(|entry| discard.changes_content(entry));
        for entry in in_doubt {
            match survives(entry) {
                Survival::Whole => truth.put(entry)?,
                Survival::Lost => {}
                Survival::Torn(runs) => {
                    for run in runs {
                        if let Some(part) = part_of(entry, &run) {
                            truth.put(&part)?;
                        }
                    }
                }
            }
        }
        Ok(truth)
    }
}

/// The entry after the last flush before `cut`: what is before it is stable.
#[must_use]
pub fn stable_until(log: &WitnessLog<'_>, cut: EntryIndex) -> EntryIndex {
    log.entries()
        .iter()
        .rev()
        .skip_while(|entry| entry.index >= cut)
        .find(|entry| entry.kind == EntryKind::Flush)
        .map_or(EntryIndex(0), |flush| flush.index)
}

/// The part of an entry that lies in `run`.
fn part_of<'a>(entry: &Entry<'a>, run: &SectorRange) -> Option<Entry<'a>> {
    let range = entry.range().intersect(run)?;
    let skip = SectorRange::new(entry.sector, range.start.0 - entry.sector.0).bytes() as usize;
    let data = match entry.kind {
        EntryKind::Write => &entry.data[skip..skip + range.bytes() as usize],
        _ => entry.data,
    };
    Some(Entry {
        sector: range.start,
        sectors: range.sectors,
        data,
        ..*entry
    })
}
