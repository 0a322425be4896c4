//! Flushes are walls: what was complete before is before them, what was queued after is behind them.
//!
//! QEMU passes over a flush when nothing was written since the one before, so a flush of the trace need not
//! have an entry of its own; one that lies between the same writes does. A write with FUA becomes a write and a
//! flush.

use std::collections::HashMap;

use super::{Agreement, AgreementInput, Contradiction, Matched, Place, Rule, Window};
use crate::units::EntryIndex;
use crate::witness::EntryKind;

/// Something with a flush, and the entries that it must lie between.
struct Wall {
    after: EntryIndex,
    before: EntryIndex,
    /// Place in the trace, for the report.
    at: Place,
    /// The witness must have it; otherwise it may.
    must: bool,
}

pub(super) fn check(
    input: &AgreementInput<'_>,
    window: &Window,
    matched: &[Matched],
    agreement: &mut Agreement,
) {
    let order = Order::of(window, matched);
    let walls = walls(input, window, matched, &order);
    let flushes: Vec<EntryIndex> = input
        .log
        .entries()
        .iter()
        .filter(|entry| entry.kind == EntryKind::Flush)
        .map(|entry| entry.index)
        .collect();
    for wall in walls.iter().filter(|wall| wall.must) {
        agreement.flushes += 1;
        let next = flushes.partition_point(|flush| *flush <= wall.after);
        if flushes.get(next).is_none_or(|flush| *flush >= wall.before) {
            agreement.add(Contradiction {
                rule: Rule::Flushes,
                range: None,
                trace: format!("a flush or a write with FUA at place {}", wall.at.0),
                other: format!(
                    "the witness has no flush between entries {} and {}",
                    wall.after, wall.before
                ),
            });
        }
    }
    report_unseen(window, &walls, &flushes, agreement);
}

/// Flushes of the witness that are none of the trace.
fn report_unseen(
    window: &Window,
    walls: &[Wall],
    flushes: &[EntryIndex],
    agreement: &mut Agreement,
) {
    let mut reach: Vec<(EntryIndex, EntryIndex)> =
        walls.iter().map(|wall| (wall.after, wall.before)).collect();
    reach.sort();
    for at in 1..reach.len() {
        reach[at].1 = reach[at].1.max(reach[at - 1].1);
    }
    for flush in flushes.iter().filter(|flush| window.has_entry(**flush)) {
        let known = reach.partition_point(|(after, _)| after < flush);
        if known == 0 || reach[known - 1].1 <= *flush {
            agreement.add(Contradiction {
                rule: Rule::Flushes,
                range: None,
                trace: "no flush there".into(),
                other: format!("the witness has one as entry {flush}"),
            });
        }
    }
}

/// Where the witness has the writes whose entry is certain, by the places of the trace.
struct Order {
    /// Place of completion, and the last entry of all that were complete until then.
    completed: Vec<(Place, EntryIndex)>,
    /// Place of queueing, and the first entry of all that were queued from then on.
    queued: Vec<(Place, EntryIndex)>,
    window: Window,
}

impl Order {
    fn of(window: &Window, matched: &[Matched]) -> Self {
        let certain = matched.iter().filter(|write| write.certain);
        let mut completed: Vec<_> = certain
            .clone()
            .filter_map(|write| Some((write.completed?, write.entry)))
            .collect();
        completed.sort();
        for at in 1..completed.len() {
            completed[at].1 = completed[at].1.max(completed[at - 1].1);
        }
        let mut queued: Vec<_> = certain.map(|write| (write.queued, write.entry)).collect();
        queued.sort();
        for at in (1..queued.len()).rev() {
            queued[at - 1].1 = queued[at - 1].1.min(queued[at].1);
        }
        Self {
            completed,
            queued,
            window: *window,
        }
    }

    /// The last entry that is before everything that begins at `place`.
    fn after(&self, place: Place) -> EntryIndex {
        let known = self.completed.partition_point(|(end, _)| *end < place);
        match known {
            0 => EntryIndex(0),
            known => self.completed[known - 1].1,
        }
    }

    /// The first entry that is behind everything that ended at `place`.
    fn before(&self, place: Place) -> EntryIndex {
        let known = self.queued.partition_point(|(queued, _)| *queued <= place);
        let first = self.queued.get(known).map(|(_, entry)| *entry);
        first.unwrap_or(EntryIndex(u64::MAX))
    }

    fn is_within(&self, began: Option<Place>, ended: Option<Place>) -> bool {
        super::blocks::is_within(&self.window, began, ended)
    }
}

fn walls(
    input: &AgreementInput<'_>,
    window: &Window,
    matched: &[Matched],
    order: &Order,
) -> Vec<Wall> {
    let traced = input.traced;
    let mut walls: Vec<Wall> = traced
        .flushes
        .iter()
        .map(|flush| Wall {
            after: flush.issued.map_or(EntryIndex(0), |at| order.after(at)),
            before: flush
                .completed
                .map_or(EntryIndex(u64::MAX), |at| order.before(at)),
            at: flush.issued.or(flush.completed).unwrap_or_default(),
            must: order.is_within(flush.issued, flush.completed),
        })
        .collect();
    // By completion and block: the bios of one request are complete at one place.
    let mut entries = HashMap::<Place, (EntryIndex, bool)>::new();
    for write in matched {
        if let Some(completed) = write.completed {
            let (entry, certain) = entries.entry(completed).or_insert((write.entry, true));
            *entry = (*entry).max(write.entry);
            *certain &= write.certain;
        }
    }
    let with_fua = |request: &&super::TracedRequest| input.fua_is_flush && request.fua;
    for request in traced.requests.iter().filter(with_fua) {
        let Some(completed) = request.completed else {
            continue;
        };
        let (entry, certain) = entries
            .get(&completed)
            .copied()
            .unwrap_or((window.entries.0, false));
        walls.push(Wall {
            after: if certain { entry } else { EntryIndex(0) },
            before: order.before(completed),
            at: completed,
            must: certain && !request.failed && order.is_within(request.issued, Some(completed)),
        });
    }
    walls
}
