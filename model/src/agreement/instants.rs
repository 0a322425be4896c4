//! Snapshot instants: what the module says of its epochs, what lies on the disk, and what the control
//! tool was told.

use std::collections::BTreeSet;

use super::{Agreement, Compared, Contradiction, Rule, TracedHeader, TracedInstant};
use crate::epoch::{EpochHeader, Marker, find_markers};
use crate::units::{Epoch, SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::witness::WitnessLog;

impl Compared {
    /// The headers that appear on this disk for the first time between the marks. `base` is the disk before its
    /// log began: what it has already is no new one.
    #[must_use]
    pub fn new_headers(&self, base: &[u8], log: &WitnessLog<'_>) -> Vec<TracedHeader> {
        let mut known = BTreeSet::new();
        let mut new = Vec::new();
        for marker in find_markers(log).found {
            let key = (marker.header.uuid, marker.header.epoch.0);
            let before = EpochHeader::decode(
                base.get(marker.sector.0 as usize * SECTOR_BYTES..)
                    .unwrap_or_default(),
            );
            let was_there = before.is_ok_and(|old| (old.uuid, old.epoch.0) == key);
            if known.insert(key) && !was_there && self.window.has_entry(marker.entry) {
                new.push(TracedHeader {
                    bio: self.bio_of(&marker),
                    marker,
                });
            }
        }
        new
    }

    fn bio_of(&self, marker: &Marker) -> Option<(super::Place, Option<super::Place>)> {
        let block = marker.sector.0 / SECTORS_PER_BLOCK;
        let is_it = |write: &&super::Matched| write.entry == marker.entry && write.block == block;
        let write = self.matched.iter().find(is_it)?;
        Some((write.queued, write.completed))
    }

    /// Whether a place of the trace is between the marks.
    #[must_use]
    pub fn has(&self, place: super::Place) -> bool {
        self.window.begun < place && place < self.window.ending
    }
}

/// Compares the epochs that began between the marks with the new headers of all witnessed disks, and with the
/// epochs that the control tool reported, by minor.
#[must_use]
pub fn check_instants(
    traced: &[TracedInstant],
    headers: &[TracedHeader],
    reported: &BTreeSet<(u32, Epoch)>,
) -> Agreement {
    let mut agreement = Agreement {
        instants: traced.len() as u64,
        ..Agreement::default()
    };
    let mut contradict = |trace: String, other: String| {
        agreement.add(Contradiction {
            rule: Rule::Instants,
            range: None,
            trace,
            other,
        });
    };
    let mut free: Vec<&TracedHeader> = headers.iter().collect();
    for instant in traced {
        let fits = |header: &&TracedHeader| {
            header.marker.header.epoch == instant.epoch
                && header.bio.is_some_and(|(queued, completed)| {
                    queued > instant.drained && completed.is_some_and(|end| end < instant.begun)
                })
        };
        let name = format!("epoch {} of snapshot {}", instant.epoch, instant.minor);
        match free.iter().position(fits) {
            Some(at) => drop(free.remove(at)),
            None => contradict(
                format!(
                    "{name} drained at place {} and begun at {}",
                    instant.drained.0, instant.begun.0
                ),
                "the witness has no header of it that was queued after the one and complete before the \
                 other"
                    .into(),
            ),
        }
        if !reported.contains(&(instant.minor, instant.epoch)) {
            contradict(
                name,
                "the control tool was not told of such an instant".into(),
            );
        }
    }
    for header in free {
        contradict(
            "no beginning of an epoch around it".into(),
            format!(
                "the witness has the header of epoch {} as entry {}",
                header.marker.header.epoch, header.marker.entry
            ),
        );
    }
    let seen: BTreeSet<(u32, Epoch)> = traced.iter().map(|i| (i.minor, i.epoch)).collect();
    for (minor, epoch) in reported.difference(&seen) {
        contradict(
            format!("no beginning of epoch {epoch} of snapshot {minor}"),
            "the control tool was told that it began".into(),
        );
    }
    agreement
}
