//! Blocks against the oracle: those of the image, those that readers saw, those that the tracer names, and those of
//! change maps.

use std::collections::BTreeSet;

use cowbird_host::error::HarnessResult;
use cowbird_model::{
    BlockIndex, BlockSet, ChangeMapInput, Class, Oracle, Report, SectorRange, WitnessLog,
    check_changes,
};
use cowbird_proto::message::Observation;

use crate::change_map::ChangeMap;
use crate::exhibits::Disk;
use crate::judgement::Judgement;
use crate::mapped::{DISCARD_MODEL, untrusted};

/// Bad blocks that the text of a report lists.
const LISTED_BLOCKS: usize = 50;

/// Missed changes that the text of a report lists.
const LISTED_CHANGES: usize = 20;

/// An image whose blocks were compared with the truth.
pub(crate) struct Compared<'a> {
    /// Where origin and image are.
    pub disk: &'a Disk<'a>,
    /// The origin on its disk.
    pub origin: SectorRange,
    /// Blocks of the COW file on it.
    pub own: &'a BlockSet,
    /// The truth at the instant of the image.
    pub oracle: &'a Oracle<'a>,
    /// How the image compares with it.
    pub report: &'a Report,
    /// Blocks that readers saw wrong.
    pub wrong_reads: &'a BlockSet,
    /// Differing reads of which the guest has sent no content.
    pub untold: u64,
}

impl Judgement {
    pub(crate) fn take_report(&mut self, report: &Report) {
        self.blocks_checked += report.blocks_checked;
        self.blocks_bad += report.blocks_bad;
        for (class, count) in &report.classes {
            *self.classes.entry(*class).or_default() += count;
        }
        self.name_bad(&report.bad);
        self.text += &report.render(LISTED_BLOCKS);
        if report.blocks_bad > 0 {
            let classes: Vec<String> = report
                .classes
                .iter()
                .map(|(class, count)| format!("{count} {class}"))
                .collect();
            self.faults.push(format!(
                "{} of {} blocks of the image are wrong: {}",
                report.blocks_bad,
                report.blocks_checked,
                classes.join(", ")
            ));
        }
    }

    /// A block that was read wrong once is a bad block, whatever the image says; each counts once.
    pub(crate) fn take_observations(
        &mut self,
        oracle: &Oracle<'_>,
        report: &Report,
        observations: &[Observation],
        differing_reads: u64,
    ) -> HarnessResult<BlockSet> {
        let seen: Vec<(BlockIndex, &[u8])> = observations
            .iter()
            .map(|observation| {
                (
                    BlockIndex(observation.block),
                    observation.content.as_slice(),
                )
            })
            .collect();
        let judged = oracle
            .classify_observations(&seen)
            .map_err(|error| untrusted(&error))?;
        // The image's bad blocks are counted already.
        let mut counted = BlockSet::from(report.runs.clone());
        let mut wrong = BlockSet::new();
        for (observation, bad) in observations.iter().zip(judged) {
            // None: this read was right, so the first one was wrong.
            let Some(bad) = bad else { continue };
            if wrong.contains(bad.block) {
                continue;
            }
            wrong.insert(bad.block, 1);
            self.text += &format!(
                "reader {} at {} us read block {} wrong: {} {}\n",
                observation.reader,
                observation.at_ns / 1000,
                bad.block,
                bad.class,
                bad.detail
            );
            if !counted.contains(bad.block) {
                self.name_bad(std::slice::from_ref(&bad));
                counted.insert(bad.block, 1);
                self.blocks_bad += 1;
                *self.classes.entry(bad.class).or_default() += 1;
            }
        }
        if differing_reads > 0 || !wrong.is_empty() {
            self.fault(format!(
                "{differing_reads} reads differ from the first read of the same block, and {} blocks \
                 were read wrong",
                wrong.len()
            ));
        }
        Ok(wrong)
    }

    /// The tracer must name the blocks that the oracle names, and no others but those that the
    /// oracle cannot know: among the `untold` reads of which the guest has sent no content.
    pub(crate) fn take_trace(&mut self, traced: &BTreeSet<u64>, image: &Compared<'_>) {
        let untold = image.untold;
        let runs = image.report.runs.iter().chain(image.wrong_reads.runs());
        let named: BTreeSet<u64> = runs
            .flat_map(|run| run.first.0..run.first.0 + run.blocks)
            .collect();
        let missed: Vec<u64> = named.difference(traced).copied().collect();
        let alone: Vec<u64> = traced.difference(&named).copied().collect();
        let figures = format!(
            "the tracer names {} blocks, {} of the {} that the oracle names; the oracle was not told of \
             {untold} reads",
            traced.len(),
            named.len() - missed.len(),
            named.len()
        );
        self.text += &format!("{figures}\n");
        self.notes.push(figures);
        let list = |blocks: &[u64]| {
            let shown = blocks.iter().take(LISTED_BLOCKS).map(ToString::to_string);
            shown.collect::<Vec<_>>().join(" ")
        };
        if !missed.is_empty() {
            self.fault(format!("the tracer does not name blocks {}", list(&missed)));
        }
        if alone.len() as u64 > untold {
            self.fault(format!(
                "of {} blocks only the tracer says that they were read wrong: {}",
                alone.len(),
                list(&alone)
            ));
        }
    }

    /// Every block that differs between the two ends of a map must be in it.
    pub(crate) fn check_map(
        &mut self,
        base: &[u8],
        log: &WitnessLog<'_>,
        origin: SectorRange,
        own: &BlockSet,
        map: &ChangeMap,
    ) -> HarnessResult<()> {
        let (Some(from), Some(to)) = (self.find(log, &map.from), self.find(log, &map.to)) else {
            return Ok(());
        };
        let report = check_changes(&ChangeMapInput {
            base,
            log,
            from,
            to,
            origin,
            map: &map.blocks,
            own,
            discard: DISCARD_MODEL,
        })
        .map_err(|error| untrusted(&error))?;
        let epochs = format!("epoch {} to {}", map.from.epoch, map.to.epoch);
        self.notes.push(format!(
            "{epochs}: {} blocks changed, {} in the map, {} of them unchanged",
            report.changed, report.listed, report.surplus
        ));
        if report.own_listed > 0 {
            let count = report.own_listed;
            self.fault(format!(
                "the change map of {epochs} has {count} blocks of the COW file"
            ));
        }
        if report.missed.is_empty() {
            return Ok(());
        }
        let missed = report.missed.len() as u64;
        self.blocks_bad += missed;
        *self.classes.entry(Class::MissedChange).or_default() += missed;
        self.name_bad(&report.missed);
        for bad in report.missed.iter().take(LISTED_CHANGES) {
            self.text += &format!("block {} {}", bad.block, bad.detail);
            if let Some(culprit) = &bad.culprit {
                self.text += &format!(", by {culprit}");
            }
            self.text.push('\n');
        }
        self.fault(format!(
            "{missed} of {} blocks that changed are missing in the change map of {epochs}",
            report.changed
        ));
        Ok(())
    }
}
