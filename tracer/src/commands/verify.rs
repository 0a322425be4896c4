//! `verify`: whether the module kept its invariants, by the trace alone.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_events::event::BlockIndex;
use cowbird_outside::{out, say};
use cowbird_trace::verify::{Verdict, Verifier, blocks_by_fault};

use crate::complain::complain;

use super::{Outcome, Overview};

/// Findings that are printed one by one.
const LISTED: usize = 40;

#[derive(Args)]
pub struct Options {
    /// Trace file, recorded with --fingerprints and the module's events
    file: PathBuf,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// Says why nothing can be concluded, if so: silence about a trace with gaps would be a lie.
fn check(overview: &Overview) -> Result<()> {
    if !overview.losses.is_empty() {
        bail!(
            "the trace is not complete, so nothing can be concluded from it: {}",
            overview.losses.join("; ")
        );
    }
    let meta = overview.meta.as_ref().context("the trace has no start")?;
    if meta.fingerprint_grid.is_none() {
        bail!("the trace has no fingerprints; record with --fingerprints");
    }
    if !meta.module_events {
        bail!("the trace has no events of the module; load it before recording");
    }
    if let Some(filter) = &meta.filter {
        bail!(
            "the trace is limited to {filter}, and reads of snapshot devices are not in it; record \
             without --device"
        );
    }
    if overview.snapshots().next().is_none() {
        bail!("there was no snapshot while the trace was recorded");
    }
    Ok(())
}

fn print(verdict: &Verdict, overview: &Overview) {
    for finding in verdict.findings.iter().take(LISTED) {
        let seconds = finding.time_ns.saturating_sub(overview.start_ns()) as f64 / 1e9;
        let mut line = format!(
            "{seconds:.6} snapshot {}: block {} {}; event {}",
            finding.minor, finding.block.0, finding.fault, finding.sequence
        );
        if let Some(found) = finding.found {
            line += &format!(", fingerprint {found:016x}");
        }
        if let Some(expected) = finding.expected {
            line += &format!(", at the instant {expected:016x}");
        }
        say!("{line}");
    }
    let rest = verdict.findings.len().saturating_sub(LISTED) as u64 + verdict.more;
    if rest > 0 {
        say!("and {rest} more");
    }
    for (fault, blocks) in blocks_by_fault(verdict) {
        let list: Vec<String> = blocks
            .iter()
            .map(|BlockIndex(block)| block.to_string())
            .collect();
        say!(
            "{} blocks, each of which {fault}: {}",
            list.len(),
            list.join(" ")
        );
    }
    say!(
        "{} instants, {} writes to origins, {} blocks of snapshot reads compared ({} more whose \
         content at the instant nobody saw): {} findings",
        verdict.instants,
        verdict.writes,
        verdict.blocks_compared,
        verdict.blocks_unknown,
        verdict.findings.len() as u64 + verdict.more
    );
}

pub fn run(options: &Options) -> Result<Outcome> {
    let input = super::open(&options.file)?;
    let overview = super::read(&input, |_| Ok(()))?;
    if let Err(error) = check(&overview) {
        complain!("{error}");
        return Ok(Outcome::Incomplete);
    }
    let mut snapshots: Vec<_> = overview.snapshots().collect();
    // Those of the end know more than those of the start.
    snapshots.reverse();
    snapshots.sort_by_key(|snapshot| snapshot.minor);
    snapshots.dedup_by_key(|snapshot| snapshot.minor);
    let mut verifier = Verifier::new(snapshots);
    super::read(&input, |record| {
        verifier.take(record);
        Ok(())
    })?;
    let verdict = verifier.finish();
    match options.json {
        true => out::json(&serde_json::to_string(&verdict)?),
        false => print(&verdict, &overview),
    }
    for unchecked in &verdict.unchecked {
        complain!("not checked: {unchecked}");
    }
    Ok(
        match (verdict.findings.is_empty(), verdict.unchecked.is_empty()) {
            (false, _) => Outcome::Broken,
            (true, false) => Outcome::Incomplete,
            (true, true) => Outcome::Done,
        },
    )
}
