//! `cowbird-fuzz`: what `cargo xtask fuzz` builds and runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cowbird_fuzz::engine::{self, Budget, Report};
use cowbird_fuzz::target::Target;
use cowbird_fuzz::targets::{self, TARGETS};
use cowbird_fuzz::watch::{self, Notes};
use cowbird_fuzz::{coverage, saved};
use cowbird_outside::{command_line, out};

const PROGRAM: &str = "cowbird-fuzz";

/// Gives every parser of foreign data input that was damaged, forged or cut off.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Parsers; all of them where none is named
    targets: Vec<String>,
    /// Inputs for each of them
    #[arg(long, default_value_t = 10_000_000)]
    inputs: u64,
    /// Seed of the changes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Longest time for each of them
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// List the parsers, and do nothing else
    #[arg(long)]
    list: bool,
    /// Where failing inputs are kept, below a folder named after the parser
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Run in this process, and write each input to the file first
    #[arg(long, hide = true, value_name = "FILE")]
    alone: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options: Options = match command_line::parse(PROGRAM) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let code = match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            out::complain(PROGRAM, format_args!("{error:#}"));
            ExitCode::from(2)
        }
    };
    command_line::finish(PROGRAM, code)
}

fn run(options: &Options) -> Result<bool> {
    if options.list {
        for target in TARGETS {
            out::line(format_args!("{:<14}{}", target.name, target.reads));
        }
        return Ok(true);
    }
    let chosen = chosen(&options.targets)?;
    let budget = Budget {
        inputs: options.inputs,
        time: options.seconds.map(Duration::from_secs),
        seed: options.seed,
    };
    if let Some(path) = &options.alone {
        let [target] = chosen[..] else {
            bail!("--alone runs one parser");
        };
        let mut notes = Notes::create(path)?;
        let report = engine::run(target, budget, |done, input| notes.note(done, input));
        out::json(&serde_json::to_string(&report).context("cannot write the report")?);
        return Ok(true);
    }
    let folder = options.keep.clone().unwrap_or_else(saved::folder);
    out::note(format_args!(
        "seed {}; {}",
        budget.seed,
        if coverage::is_counted() {
            "inputs that reach new code are kept"
        } else {
            "this build does not count code that runs: inputs with a new kind of result are kept"
        }
    ));
    let mut rows = vec![heading()];
    let mut good = true;
    for target in chosen {
        out::note(format_args!("{}: {}", target.name, target.reads));
        let report = watch::run(target, budget)?;
        for failure in &report.failures {
            good = false;
            let path = saved::keep(&folder, target.name, &failure.input)
                .with_context(|| format!("cannot keep an input in {}", folder.display()))?;
            out::note(format_args!(
                "{}: {}; the input is {}",
                target.name,
                failure.reason,
                path.display()
            ));
        }
        rows.push(row(target, budget.seed, &report));
    }
    out::lines(&(rows.join("\n") + "\n"));
    Ok(good)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            targets::find(name)
                .with_context(|| format!("there is no target {name}; --list shows all"))
        })
        .collect()
}

fn heading() -> String {
    format!(
        "{:<14}{:>10}{:>6}{:>8}{:>8}{:>7}{:>7}{:>7}{:>9}{:>12}{:>10}{:>10}",
        "target",
        "inputs",
        "seed",
        "valid %",
        "edges",
        "new",
        "kinds",
        "kept",
        "seconds",
        "slowest ms",
        "most KiB",
        "failures"
    )
}

fn row(target: &Target, seed: u64, report: &Report) -> String {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let new = report
        .edges
        .zip(report.edges_at_first)
        .map(|(edges, first)| edges - first);
    format!(
        "{:<14}{:>10}{:>6}{:>8.1}{:>8}{:>7}{:>7}{:>7}{:>9.1}{:>12.2}{:>10}{:>10}",
        target.name,
        report.inputs,
        seed,
        report.taken as f64 * 100.0 / report.inputs.max(1) as f64,
        or_dash(report.edges),
        or_dash(new),
        report.kinds,
        report.kept,
        report.seconds,
        report.slowest_ms,
        report.largest_bytes >> 10,
        report.failures.len()
    )
}
