//! `bench`: what a snapshot costs its origin, and what the tracer costs, as ratios measured inside one boot.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cowbird_harness::bench::{BenchOptions, BenchResult, Compared, Mode, Part, run_bench};
use cowbird_matrix::spec::{Cases, RunSpec, Selection};
use cowbird_matrix::{output, table};
use cowbird_outside::out;
use serde::Serialize;

use crate::host::runtime;
use crate::options::AccelChoice;
use crate::run::context::RunContext;
use crate::run::{Run, guest_programs};
use crate::ui::{Ui, print, print_json};
use crate::{host, run};

/// The case that says which modules of the kernel are needed: an ext4.
const CASE: &str = "ext4-churn";

/// Functions of a profile that are printed; all are in the JSON.
const PROFILED: usize = 25;

/// One MiB, for sizes that people read.
const MIB: f64 = (1u64 << 20) as f64;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BenchPart {
    /// What a snapshot costs its origin
    Snapshot,
    /// Of that, only reads of a snapshot with single preserved blocks all over it
    ScatteredRead,
    /// What the tracer costs
    Tracer,
}

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Kernels to measure on; may be given several times
    #[arg(long, value_name = "GLOB", default_values = ["bullseye-5.10-cloud", "bookworm-6.1-cloud", "trixie-backports-7.3-cloud"])]
    pub kernel: Vec<String>,
    /// Also say where the CPUs were, from outside of the guest; what is measured then is slower
    #[arg(long)]
    pub profile: bool,
    /// How often everything is measured; each ratio is the median of so many
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Measure only this; by default all
    #[arg(long, value_enum, value_name = "PART")]
    pub part: Option<BenchPart>,
    /// How QEMU runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: AccelChoice,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Where bench.json goes
    #[arg(long, value_name = "DIR", default_value = "out/bench")]
    pub out: PathBuf,
    /// Print the results as JSON on standard output, everything else on standard error
    #[arg(long)]
    pub json: bool,
}

/// A median and what it is the median of.
#[derive(Debug, Clone, Copy, Serialize)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

/// One kernel's results, summed up.
#[derive(Serialize)]
struct Kernel {
    iops: BTreeMap<Mode, Summary>,
    p99: BTreeMap<Mode, Summary>,
    measured: BenchResult,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &BenchArgs, ui: &Arc<Ui>) -> Result<u8> {
    let run = run::check(&RunSpec {
        kernels: Selection::Globs(args.kernel.clone()),
        cases: Cases::Of(Selection::named(CASE)),
        seed: Some(0),
        // One at a time: a guest that shares the host with another one measures that one.
        jobs: Some(1),
        accel: args.accel.into(),
        offline: args.offline,
        ..RunSpec::new(args.out.clone())
    })?;
    run::ensure_rooms(&run, ui)?;
    host::ensure(&run.catalogue, host::Needs::Bench, &[], run.offline, ui)?;
    let kernels = runtime::start()?.block_on(measure(&run, args, ui))?;
    let json = output::to_json(&kernels)?;
    let path = args.out.join("bench.json");
    output::replace(&path, json.as_bytes())?;
    if args.json {
        out::note_lines(&text(&kernels));
        print_json(&kernels)?;
    } else {
        print(&text(&kernels))?;
    }
    Ok(0)
}

async fn measure(run: &Run, args: &BenchArgs, ui: &Arc<Ui>) -> Result<BTreeMap<String, Kernel>> {
    let guest = guest_programs::build(run.offline, ui)?;
    let scratch = run.out.scratch()?;
    let context = RunContext::prepare(run, &guest, scratch.path(), ui).await?;
    let options = BenchOptions {
        repetitions: args.repetitions,
        profile: args.profile,
        part: args.part.map(|part| match part {
            BenchPart::Snapshot => Part::Snapshot,
            BenchPart::ScatteredRead => Part::ScatteredRead,
            BenchPart::Tracer => Part::Tracer,
        }),
    };
    let mut kernels = BTreeMap::new();
    for cell in &run.cells {
        let name = &cell.id.kernel;
        let (_, plan) = context.cell_plan(cell).map_err(anyhow::Error::msg)?;
        let task = ui.task(&format!("bench {name}"));
        let measured = run_bench(&plan, options, &|phase: &str| {
            task.step(phase);
        })
        .await
        .with_context(|| format!("cannot measure on {name}"))?;
        task.end("measured");
        let kernel = Kernel {
            iops: summaries(&measured, Compared::iops),
            p99: summaries(&measured, Compared::p99),
            measured,
        };
        kernels.insert(name.clone(), kernel);
    }
    Ok(kernels)
}

fn summaries(measured: &BenchResult, of: impl Fn(&Compared) -> f64) -> BTreeMap<Mode, Summary> {
    let jobs = measured.jobs.iter();
    jobs.filter_map(|(mode, jobs)| Some((*mode, summary(jobs.iter().map(&of).collect())?)))
        .collect()
}

/// The median is the lower one of an even number.
fn summary(mut values: Vec<f64>) -> Option<Summary> {
    values.sort_by(f64::total_cmp);
    Some(Summary {
        median: *values.get(values.len().saturating_sub(1) / 2)?,
        min: *values.first()?,
        max: *values.last()?,
    })
}

fn text(kernels: &BTreeMap<String, Kernel>) -> String {
    let mut text = String::new();
    for (name, kernel) in kernels {
        let head = ["", "I/Os per second", "lowest..highest", "99th percentile"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (mode, iops) in &kernel.iops {
            let p99 = kernel.p99.get(mode);
            rows.push(vec![
                label(*mode).to_owned(),
                format!("{:.2}", iops.median),
                format!("{:.2}..{:.2}", iops.min, iops.max),
                p99.map_or_else(String::new, |p99| format!("{:.2}", p99.median)),
            ]);
        }
        text += &format!(
            "\n{name}: ratios to the same job without\n{}",
            table::columns(&rows)
        );
        if kernel.measured.held_limit_bytes > 0 {
            text += &format!(
                "held in memory at most {:.1} of {:.0} MiB\n",
                kernel.measured.held_bytes as f64 / MIB,
                kernel.measured.held_limit_bytes as f64 / MIB,
            );
        }
        for loss in &kernel.measured.losses {
            text += &format!("not all was recorded: {loss}\n");
        }
        for (mode, profile) in &kernel.measured.profiles {
            text += &format!("\n{}, {} samples:\n", label(*mode), profile.samples);
            for (function, count) in profile.functions.iter().take(PROFILED) {
                let percent = 100.0 * *count as f64 / profile.samples as f64;
                text += &format!("{percent:5.1} %  {function}\n");
            }
        }
    }
    text
}

fn label(mode: Mode) -> &'static str {
    match mode {
        Mode::RandomFirstTouch => "4 KiB random writes, first touch",
        Mode::RandomSecondTouch => "4 KiB random writes, second touch",
        Mode::RandomIncremental => "4 KiB random writes, incremental",
        Mode::SequentialFirstTouch => "1 MiB sequential writes, first touch",
        Mode::SequentialSecondTouch => "1 MiB sequential writes, second touch",
        Mode::SequentialIncremental => "1 MiB sequential writes, incremental",
        Mode::SnapshotRead => "snapshot read, blocks on the origin",
        Mode::SnapshotReadPreserved => "snapshot read, blocks preserved",
        Mode::SnapshotReadScattered => "snapshot read, single blocks preserved",
        Mode::RandomTraced => "4 KiB random writes, traced",
        Mode::RandomFingerprinted => "4 KiB random writes, traced with fingerprints",
        Mode::RandomBaseline => "4 KiB random writes, none again (noise)",
        Mode::SequentialBaseline => "1 MiB sequential writes, none again (noise)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_values() {
        let odd = summary(vec![3.0, 1.0, 2.0]).expect("values");
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(summary(vec![4.0, 1.0]).expect("values").median, 1.0);
        assert!(summary(Vec::new()).is_none());
    }
}
