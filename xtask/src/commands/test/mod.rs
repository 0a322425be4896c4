//! `test`: everything that must hold before a change lands, from the format to several matrices.
//!
//! Every step runs, whatever became of those before it: one run shows all that is wrong. The last
//! line counts tests and cells; a step that is not made of tests counts as one. What this machine cannot do is skipped, which is
//! counted as well, and named.

mod outcome;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_cases::CaseTier;
use cowbird_images::{Catalogue, InUse, Tier};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::select::select;
use cowbird_matrix::spec::{Cases, Recording, RunSpec, Selection};
use cowbird_matrix::{judge, mutants, table};
use cowbird_model::CellResult;
use cowbird_programs::{Ending, Tool};
use cowbird_workload::Timing;

use self::outcome::{Count, Outcome, Skip, count_tests, failed_tests, skipped_tests};
use crate::commands::gen_abi::{self, GenAbiArgs};
use crate::host::rooms::Rooms;
use crate::run::{emulator, prepare};
use crate::ui::{Ui, print};
use crate::{failure, host, repo, run};

/// A step that is one program may take so long: it compiles everything, on a machine that may have one CPU.
const STEP_MAX: Duration = Duration::from_secs(2 * 60 * 60);

/// Lines of a failed step's output that are shown; the rest is in its log.
const SHOWN_LINES: usize = 60;

/// A recording of fio on a loop device, with fingerprints: writes of 512 bytes to 64 KiB in two threads, blocks
/// that are alike, zeros, FUA, flushes and discards.
const RECORDING: &str = "workload/fixtures/fio.cbw";

/// The mutant that its replay must catch.
const RECORDING_MUTANT: &str = "no-revalidate";

/// The case of the traced cells: all kinds of direct writes and a snapshot.
const TRACED_CASE: &str = "raw-writers";

/// Arguments of `test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Leave out everything that boots a kernel
    #[arg(long)]
    pub no_matrix: bool,
    /// Where logs, results.json and bundles go
    #[arg(long, value_name = "DIR", default_value = "out/test")]
    pub out: PathBuf,
}

/// A step that was done.
struct Done {
    name: &'static str,
    outcome: Outcome,
    time: Duration,
}

/// The steps done so far.
struct Steps {
    ui: Arc<Ui>,
    logs: PathBuf,
    offline: bool,
    done: Vec<Done>,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &TestArgs, ui: &Arc<Ui>) -> Result<u8> {
    let out = OutDir::open(&args.out)?;
    Rooms::of_results(out.path()).check()?;
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    host::ensure(&catalogue, host::Needs::Everything, &[], args.offline, ui)?;
    let logs = out.path().join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut steps = Steps {
        ui: Arc::clone(ui),
        logs,
        offline: args.offline,
        done: Vec::new(),
    };
    steps.sources()?;
    if !args.no_matrix {
        let kernels: Vec<&str> = select(&catalogue.kernels, &[], Tier::Quick)?
            .into_iter()
            .map(|kernel| kernel.name.as_str())
            .collect();
        let quick_mutants: Vec<String> = mutants::load(&repo::root())?
            .into_iter()
            .filter(|mutant| mutant.cases.is_empty())
            .map(|mutant| mutant.name)
            .collect();
        steps.matrices(out.path(), &kernels, &quick_mutants);
    } else {
        steps.step("matrices", |_| {
            let reason = "--no-matrix leaves out all that boots a kernel";
            Ok(Outcome::skip(reason.to_owned()))
        })?;
    }
    print(&format!("\n{}", steps.summary()))?;
    Ok(steps.exit_code())
}

impl Steps {
    /// The steps that boot nothing.
    fn sources(&mut self) -> Result<()> {
        let mut fmt = repo::cargo();
        fmt.args(["fmt", "--all", "--check"]);
        self.tool("format", fmt)?;
        let mut clippy = self.cargo("clippy");
        clippy.args([
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        self.tool("lints", clippy)?;
        let mut tests = self.cargo("test");
        tests.args(["--workspace", "--no-fail-fast"]);
        self.step("tests", |steps| {
            let (good, output) = steps.run("tests", tests)?;
            Ok(steps.judge_tests(&output, good))
        })?;
        self.tool("bindings", gen_abi::generator(GenAbiArgs { check: true }))?;
        self.dependencies()
    }

    /// What is known of the crates that our programs are made of. `cargo test -p xtask` looks at their licences; advisories, and what was
    /// withdrawn, come from a network.
    fn dependencies(&mut self) -> Result<()> {
        const NAME: &str = "dependencies";
        let mut asking = repo::cargo();
        asking.args(["deny", "--version"]);
        let has_it = asking.output().is_ok_and(|output| output.status.success());
        match deny_arguments(has_it, self.offline) {
            Ok(arguments) => {
                let mut deny = repo::cargo();
                deny.args(arguments);
                self.tool(NAME, deny)
            }
            Err(reason) => self.step(NAME, |_| Ok(Outcome::skip(reason.to_owned()))),
        }
    }

    /// The harness on trial: guests that end in every way, on the oldest kernel. Its tests need the
    /// plan of a cell, so plain `cargo test` leaves them out.
    fn verdicts(&mut self, out: &Path, kernels: &[&str]) {
        self.stepped("verdicts", |steps| {
            let run = run::check(&run_of(out.to_owned(), kernels, steps.offline))?;
            let plan = run::plan_first(&run, &out.join("running"), &steps.ui)?;
            let path = out.join("plan.json");
            let text = serde_json::to_string_pretty(&plan).context("a plan does not fit JSON")?;
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let mut tests = steps.cargo("test");
            tests.args(["-p", "cowbird-harness", "--test", "verdicts"]);
            // Without a network there may be no QEMU that records; with one, that is a failure.
            let mut skipped = Vec::new();
            let found = steps.emulator(&run.catalogue);
            match &found {
                Ok((emulator, _)) => {
                    tests.args(["--test", "tapes"]);
                    tests.env("COWBIRD_SELF_TEST_EMULATOR", emulator);
                }
                Err(error) if steps.offline => {
                    skipped.push(Skip::one(format!("tapes: {}", failure::describe(error))));
                }
                Err(error) => bail!("{}", failure::describe(error)),
            }
            tests.args(["--", "--include-ignored", "--test-threads", "1"]);
            tests.env("COWBIRD_SELF_TEST", &path);
            let (good, output) = steps.run("verdicts", tests)?;
            Ok(Outcome {
                skipped,
                ..steps.judge_tests(&output, good)
            })
        });
    }

    /// The QEMU that records cells, as a plan names it; it stays as long as it is held.
    fn emulator(&self, catalogue: &Catalogue) -> Result<(String, InUse)> {
        let store = prepare::open_store(self.offline, false, &self.ui)?;
        let (emulator, in_use) = emulator::recording(&store, catalogue, &self.ui)?;
        let name = serde_json::to_string(&emulator).context("an emulator does not fit JSON")?;
        Ok((name, in_use))
    }

    /// The matrices: all quick kernels with the module as it is, the daily cases on the oldest of
    /// them, and on the oldest and the newest a traced cell, a recorded workload and the mutants that the quick cases catch. All mutants, each
    /// with the cases that it has of its own, and the daily cases on all kernels are for a daily run.
    fn matrices(&mut self, out: &Path, kernels: &[&str], quick_mutants: &[String]) {
        self.verdicts(&out.join("verdicts"), &kernels[..kernels.len().min(1)]);
        self.matrix("matrix", &run_of(out.join("matrix"), &[], self.offline));
        let oldest = &kernels[..kernels.len().min(1)];
        let ends: Vec<&str> = match kernels {
            [first, .., last] => vec![first, last],
            all => all.to_vec(),
        };
        let mut run = run_of(out.join("traced"), &ends, self.offline);
        run.traced = true;
        run.cases = Cases::Of(Selection::named(TRACED_CASE));
        self.matrix("traced cells", &run);
        let mut run = run_of(out.join("daily"), oldest, self.offline);
        let cases = cowbird_harness::catalogue::cases().iter();
        let daily = cases.filter(|case| case.tier == CaseTier::Daily);
        run.cases = Cases::Of(Selection::Names(
            daily.map(|case| case.name.to_owned()).collect(),
        ));
        self.matrix("daily cases", &run);
        let recording = |snapshot_at_percent| {
            Cases::Recorded(Recording {
                file: repo::root().join(RECORDING),
                timing: Timing::Fast,
                snapshot_at_percent,
            })
        };
        let mut run = run_of(out.join("recorded"), &ends, self.offline);
        run.cases = recording(None);
        self.matrix("recorded workload", &run);
        // Early, so that many blocks are overwritten for the first time behind it: that is when it is seen.
        run.cases = recording(Some(20));
        run.mutants = vec![RECORDING_MUTANT.to_owned()];
        run.out = out.join("recorded-mutant");
        self.matrix("its mutant", &run);
        let mut run = run_of(out.join("mutants"), &ends, self.offline);
        run.mutants = quick_mutants.to_vec();
        self.matrix("mutants", &run);
    }

    fn matrix(&mut self, name: &'static str, run: &RunSpec) {
        self.stepped(name, |steps| {
            let ended = run::execute(&run::check(run)?, &steps.ui)?;
            run::show(&ended, false)?;
            let (passed, failed) = ended.judgement.passed_and_failed();
            // An exit code that says "failed" is never outvoted by counts.
            let failed = failed.max(u64::from(ended.judgement.exit != 0));
            let is_skipped =
                |cell: &CellResult| judge::status_of(cell) == judge::CellStatus::Skipped;
            let (skipped, attention): (Vec<_>, Vec<_>) =
                ended.results.cells.into_iter().partition(is_skipped);
            let skipped = skipped
                .iter()
                .map(|cell| Skip::one(format!("{} {}: {}", cell.kernel, cell.case, cell.reason)));
            Ok(Outcome {
                count: Count { passed, failed },
                failures: table::failures(&attention, &ended.judgement)
                    + &table::complaints(&ended.judgement),
                skipped: skipped.collect(),
            })
        });
    }

    /// A step that may be unable to run, which then is its failure.
    fn stepped(&mut self, name: &'static str, work: impl FnOnce(&Self) -> Result<Outcome>) {
        if let Err(error) = self.step(name, work) {
            let failures = failure::describe(&error);
            self.ui.line(&format!("error: {failures}"));
            self.done.push(Done {
                name,
                outcome: Outcome {
                    failures,
                    ..Count::one(false).into()
                },
                time: Duration::ZERO,
            });
        }
    }

    /// What became of a run of `cargo test`; its output is shown when something failed.
    fn judge_tests(&self, output: &str, good: bool) -> Outcome {
        let count = count_tests(output, good);
        self.show_if(count.failed > 0, output);
        Outcome {
            failures: failed_tests(output),
            skipped: skipped_tests(output),
            ..count.into()
        }
    }

    fn cargo(&self, verb: &str) -> Command {
        let mut cargo = repo::cargo();
        cargo.arg(verb);
        if self.offline {
            cargo.arg("--offline");
        }
        cargo
    }

    /// A step that is one program.
    fn tool(&mut self, name: &'static str, command: Command) -> Result<()> {
        self.step(name, |steps| {
            let (good, output) = steps.run(name, command)?;
            steps.show_if(!good, &output);
            Ok(Count::one(good).into())
        })
    }

    fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Self) -> Result<Outcome>,
    ) -> Result<()> {
        let started = Instant::now();
        let outcome = work(self)?;
        let time = started.elapsed();
        let verdict = match outcome.count {
            Count { failed: 1.., .. } => "FAILED",
            Count { passed: 0, .. } if !outcome.skipped.is_empty() => "SKIPPED",
            _ => "ok",
        };
        self.ui
            .line(&format!("{name}: {verdict} ({:.1}s)", time.as_secs_f64()));
        self.done.push(Done {
            name,
            outcome,
            time,
        });
        Ok(())
    }

    /// Runs a program, for a bounded time, with its whole output in a log; the value is whether it succeeded, and that output.
    fn run(&self, name: &str, command: Command) -> Result<(bool, String)> {
        let _task = self.ui.task(name);
        let path = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let what = format!("run the step `{name}`");
        let ending = Tool::of_command("cargo", command, what, path.clone()).try_run(STEP_MAX)?;
        let output =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut output = String::from_utf8_lossy(&output).into_owned();
        match ending {
            Some(ending @ (Ending::Signal(_) | Ending::TimedOut(_))) => {
                output += &format!("\nthe step `{name}` {ending}\n");
            }
            Some(Ending::Code(_)) | None => {}
        }
        Ok((ending.is_none(), output))
    }

    fn show_if(&self, wanted: bool, output: &str) {
        if wanted {
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            self.ui.line(&lines[from..].join("\n"));
            self.ui
                .line(&format!("the whole output is in {}", self.logs.display()));
        }
    }

    /// 0 where nothing failed.
    fn exit_code(&self) -> u8 {
        u8::from(self.done.iter().any(|done| done.outcome.count.failed > 0))
    }

    /// The table of steps, what failed in them, and the closing line.
    fn summary(&self) -> String {
        let mut rows = vec![
            ["step", "passed", "failed", "skipped", "time"]
                .map(String::from)
                .to_vec(),
        ];
        let mut all = Count::default();
        let (mut failures, mut skips, mut skipped) = (String::new(), String::new(), 0_u64);
        for Done {
            name,
            outcome,
            time,
        } in &self.done
        {
            let count = outcome.count;
            if !outcome.failures.is_empty() {
                let lines = outcome.failures.trim_end().replace('\n', "\n  ");
                failures += &format!("{name}:\n  {lines}\n");
            }
            for skip in &outcome.skipped {
                skips += &format!("skipped: {name}: {}\n", skip.reason);
            }
            let skipped_here: u64 = outcome.skipped.iter().map(|skip| skip.count).sum();
            skipped += skipped_here;
            all.passed += count.passed;
            all.failed += count.failed;
            rows.push(vec![
                (*name).to_owned(),
                count.passed.to_string(),
                count.failed.to_string(),
                skipped_here.to_string(),
                format!("{:.1}s", time.as_secs_f64()),
            ]);
        }
        format!(
            "{}\n{skips}{failures}{} passed, {skipped} skipped, {} failed\n",
            table::columns(&rows),
            all.passed,
            all.failed
        )
    }
}

/// The quick cases on these kernels; on those of the quick tier where none is named.
fn run_of(out: PathBuf, kernels: &[&str], offline: bool) -> RunSpec {
    let mut run = RunSpec {
        offline,
        ..RunSpec::new(out)
    };
    if !kernels.is_empty() {
        let names = kernels.iter().map(ToString::to_string);
        run.kernels = Selection::Names(names.collect());
    }
    run
}

/// What cargo is told to have `cargo deny` look at, or why it does not look.
fn deny_arguments(has_it: bool, offline: bool) -> Result<&'static [&'static str], &'static str> {
    match (has_it, offline) {
        (false, _) => {
            Err("cargo-deny is not installed; `cargo install --locked cargo-deny` installs it")
        }
        (true, false) => Ok(&["deny", "check"]),
        // The list of advisories is fetched; the rest is in the checkout and the registry's copy.
        (true, true) => Ok(&["deny", "--offline", "check", "bans", "licenses", "sources"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line() {
        let done = |name, passed, failed, failures: &str| Done {
            name,
            outcome: Outcome {
                failures: failures.to_owned(),
                ..Count { passed, failed }.into()
            },
            time: Duration::from_millis(1500),
        };
        let steps = Steps {
            ui: Ui::new(),
            logs: PathBuf::new(),
            offline: true,
            done: vec![
                done("format", 1, 0, ""),
                done("tests", 120, 2, "b::c\nb::d\n"),
                done(
                    "daily cases",
                    58,
                    1,
                    "a-kernel a-case: lost guest\n  the reason\n",
                ),
                Done {
                    name: "dependencies",
                    outcome: Outcome::skip("cargo-deny is not installed".into()),
                    time: Duration::ZERO,
                },
            ],
        };
        insta::assert_snapshot!(steps.summary());
        assert_eq!(steps.exit_code(), 1);
        let mut steps = steps;
        steps.done.retain(|done| done.outcome.count.failed == 0);
        assert_eq!((steps.done.len(), steps.exit_code()), (2, 0));
    }

    /// Goal: a tool that is absent is a skip with a reason that says how to have it, never a pass; one that is there is asked for all that
    /// can be had without a network, and with one for all.
    #[test]
    fn cargo_deny_looks_or_says_why_not() {
        for offline in [false, true] {
            let reason = deny_arguments(false, offline).expect_err("it is absent");
            assert!(reason.contains("cargo install --locked cargo-deny"));
        }
        assert_eq!(deny_arguments(true, false), Ok(&["deny", "check"][..]));
        let offline = deny_arguments(true, true).expect("it is there");
        assert!(offline.contains(&"--offline") && !offline.contains(&"advisories"));
    }
}
