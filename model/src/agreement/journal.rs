//! The journal: what a workload says that it wrote to the device itself.

use std::collections::HashMap;

use super::{Agreement, Compared, Contradiction, JournalledWrite, Rule, TracedDisk};
use crate::units::{Sector, SectorRange};

/// When a sector was queued and completed, in order.
#[derive(Default)]
struct Times {
    queued: Vec<u64>,
    completed: Vec<u64>,
}

fn has_between(times: &[u64], from: u64, to: u64) -> bool {
    let at = times.partition_point(|time| *time < from);
    times.get(at).is_some_and(|time| *time <= to)
}

/// Each direct write between the marks must lie in bios that were queued, and in requests that were completed,
/// between its two entries in the journal.
#[must_use]
pub fn check_journal(
    traced: &TracedDisk,
    compared: &Compared,
    journal: &[JournalledWrite],
) -> Agreement {
    let mut agreement = Agreement::default();
    let (from, to) = compared.window.clock_ns;
    let mut sectors = HashMap::<u64, Times>::new();
    for bio in &traced.bios {
        for sector in bio.range.start.0..bio.range.end().0 {
            sectors
                .entry(sector)
                .or_default()
                .queued
                .push(bio.queued_ns);
        }
    }
    for request in traced
        .requests
        .iter()
        .filter(|r| r.completed.is_some() && !r.failed)
    {
        for sector in request.range.start.0..request.range.end().0 {
            let times = sectors.entry(sector).or_default();
            times.completed.push(request.completed_ns);
        }
    }
    for times in sectors.values_mut() {
        // Two CPUs may put their events into the trace in another order than that of their clocks.
        times.queued.sort_unstable();
        times.completed.sort_unstable();
    }
    for write in journal {
        if write.issued_ns < from || write.completed_ns > to {
            continue;
        }
        agreement.journalled += 1;
        let is_there = |sector: &u64| {
            sectors.get(sector).is_some_and(|times| {
                has_between(&times.queued, write.issued_ns, write.completed_ns)
                    && has_between(&times.completed, write.issued_ns, write.completed_ns)
            })
        };
        let missing = (write.range.start.0..write.range.end().0).find(|sector| !is_there(sector));
        if let Some(sector) = missing {
            agreement.add(Contradiction {
                rule: Rule::Journal,
                range: Some(SectorRange::new(Sector(sector), 1)),
                trace: "no bio and completion of it in that time".into(),
                other: format!(
                    "the journal has {} from {} to {} us",
                    write.name,
                    write.issued_ns / 1000,
                    write.completed_ns / 1000
                ),
            });
        }
    }
    agreement
}
