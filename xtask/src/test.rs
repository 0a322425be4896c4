//! `test`: everything that must hold before a change lands, from the format to a smoke matrix.
//!
//! Every step runs, whatever became of those before it: one run shows all that is wrong. The last
//! line counts tests and cells; a step that is not made of tests counts as one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cowbird_cases::CaseTier;
use cowbird_images::{Catalogue, InUse};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::select::select;
use cowbird_matrix::{judge, mutants, table};

use crate::cli::{GenAbiArgs, MatrixArgs, TestArgs, Tier};
use crate::rooms::Rooms;
use crate::ui::{Ui, print};
use crate::{failure, gen_abi, host, matrix, prepare, repo, tape};

/// Lines of a failed step's output that are shown; the rest is in its log.
const SHOWN_LINES: usize = 60;

/// A recording of fio on a loop device, with fingerprints: writes of 512 bytes to 64 KiB in two threads, blocks
/// that are alike, zeros, FUA, flushes and discards.
const RECORDING: &str = "workload/fixtures/fio.cbw";

/// The mutant that its replay must catch.
const RECORDING_MUTANT: &str = "no-revalidate";

/// The case of the traced cells: all kinds of direct writes and a snapshot.
const TRACED_CASE: &str = "raw-writers";

/// What became of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// A step that is not made of tests.
    fn one(good: bool) -> Self {
        if good {
            Self {
                passed: 1,
                failed: 0,
            }
        } else {
            Self {
                passed: 0,
                failed: 1,
            }
        }
    }
}

/// What came of one step: its count, and what failed in it, some lines each.
#[derive(Debug, Default)]
struct Outcome {
    count: Count,
    failures: String,
}

impl From<Count> for Outcome {
    fn from(count: Count) -> Self {
        let failures = String::new();
        Self { count, failures }
    }
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
        let kernels: Vec<&str> = select(&catalogue.kernels, &[], Tier::Quick.into())?
            .into_iter()
            .map(|kernel| kernel.name.as_str())
            .collect();
        let quick_mutants: Vec<String> = mutants::load(&repo::root())?
            .into_iter()
            .filter(|mutant| mutant.cases.is_empty())
            .map(|mutant| mutant.name)
            .collect();
        steps.matrices(out.path(), &kernels, &quick_mutants);
    }
    print(&format!("\n{}", steps.summary()))?;
    let failed: u64 = steps
        .done
        .iter()
        .map(|done| done.outcome.count.failed)
        .sum();
    Ok(if failed == 0 { 0 } else { 1 })
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
        if has_make_target("kmod/core", "check") {
            let mut make = Command::new("make");
            make.current_dir(repo::root())
                .args(["--silent", "-C", "kmod/core", "check"]);
            self.tool("C checks", make)?;
        }
        self.tool("bindings", gen_abi::generator(GenAbiArgs { check: true }))
    }

    /// The harness on trial: guests that end in every way, on the oldest kernel. Its tests need the
    /// plan of a cell, so plain `cargo test` leaves them out.
    fn verdicts(&mut self, out: &Path, kernels: &[&str]) {
        self.stepped("verdicts", |steps| {
            let run = matrix::check(&matrix_args(out.to_owned(), kernels, steps.offline))?;
            let plan = matrix::plan_first(&run, &out.join("running"), &steps.ui)?;
            let path = out.join("plan.json");
            let text = serde_json::to_string_pretty(&plan).context("a plan does not fit JSON")?;
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let mut tests = steps.cargo("test");
            tests.args(["-p", "cowbird-harness", "--test", "verdicts"]);
            // A skip that is said aloud: only where no QEMU that records can be had.
            let found = steps.emulator(&run.catalogue);
            match &found {
                Ok((emulator, _)) => {
                    tests.args(["--test", "tapes"]);
                    tests.env("COWBIRD_SELF_TEST_EMULATOR", emulator);
                }
                Err(error) => steps
                    .ui
                    .line(&format!("tapes: SKIPPED, {}", failure::describe(error))),
            }
            tests.args(["--", "--include-ignored", "--test-threads", "1"]);
            tests.env("COWBIRD_SELF_TEST", &path);
            let (good, output) = steps.run("verdicts", tests)?;
            Ok(steps.judge_tests(&output, good))
        });
    }

    /// The QEMU that records cells, as a plan names it; it stays as long as it is held.
    fn emulator(&self, catalogue: &Catalogue) -> Result<(String, InUse)> {
        let store = prepare::open_store(self.offline, false, &self.ui)?;
        let (emulator, in_use) = tape::emulator(&store, catalogue, &self.ui)?;
        let name = serde_json::to_string(&emulator).context("an emulator does not fit JSON")?;
        Ok((name, in_use))
    }

    /// The smoke matrices: all quick kernels with the module as it is, the daily cases on the oldest of
    /// them, and on the oldest and the newest a traced cell, a recorded workload and the mutants that the quick cases catch. All mutants, each
    /// with the cases that it has of its own, and the daily cases on all kernels are for a daily run.
    fn matrices(&mut self, out: &Path, kernels: &[&str], quick_mutants: &[String]) {
        self.verdicts(&out.join("verdicts"), &kernels[..kernels.len().min(1)]);
        self.matrix(
            "matrix",
            &matrix_args(out.join("matrix"), &[], self.offline),
        );
        let oldest = &kernels[..kernels.len().min(1)];
        let ends: Vec<&str> = match kernels {
            [first, .., last] => vec![first, last],
            all => all.to_vec(),
        };
        let mut args = matrix_args(out.join("traced"), &ends, self.offline);
        args.traced = true;
        args.case = vec![TRACED_CASE.to_owned()];
        self.matrix("traced cells", &args);
        let mut args = matrix_args(out.join("daily"), oldest, self.offline);
        args.tier = Tier::Daily;
        args.case = cowbird_harness::catalogue::cases()
            .iter()
            .filter(|case| case.tier == CaseTier::Daily)
            .map(|case| glob::Pattern::escape(case.name))
            .collect();
        self.matrix("daily cases", &args);
        let mut args = matrix_args(out.join("recorded"), &ends, self.offline);
        args.workload.workload = Some(repo::root().join(RECORDING));
        self.matrix("recorded workload", &args);
        // Early, so that many blocks are overwritten for the first time behind it: that is when it is seen.
        args.workload.snapshot_at = Some(20);
        args.mutant = vec![RECORDING_MUTANT.to_owned()];
        args.out = out.join("recorded-mutant");
        self.matrix("its mutant", &args);
        let mut args = matrix_args(out.join("mutants"), &ends, self.offline);
        args.mutant = quick_mutants.to_vec();
        self.matrix("mutants", &args);
    }

    fn matrix(&mut self, name: &'static str, args: &MatrixArgs) {
        self.stepped(name, |steps| {
            let ended = matrix::execute(&matrix::check(args)?, &steps.ui)?;
            matrix::show(&ended, false)?;
            let (passed, failed) = ended.judgement.passed_and_failed();
            // An exit code that says "failed" is never outvoted by counts.
            let failed = failed.max(u64::from(ended.judgement.exit != 0));
            let mut attention = ended.results.cells;
            attention.retain(|cell| judge::standing(cell) != judge::Standing::Skipped);
            Ok(Outcome {
                count: Count { passed, failed },
                failures: table::failures(&attention, &ended.judgement)
                    + &table::complaints(&ended.judgement),
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
                    count: Count::one(false),
                    failures,
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
            count,
            failures: failed_tests(output),
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
        let verdict = if outcome.count.failed == 0 {
            "ok"
        } else {
            "FAILED"
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

    /// Runs a program with its whole output in a log; the value is whether it succeeded, and that
    /// output.
    fn run(&self, name: &str, mut command: Command) -> Result<(bool, String)> {
        let _task = self.ui.task(name);
        let path = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let log = || format!("cannot write {}", path.display());
        let file = std::fs::File::create(&path).with_context(log)?;
        command.stdin(Stdio::null());
        command
            .stderr(file.try_clone().with_context(log)?)
            .stdout(file);
        let status = command.status().with_context(|| {
            format!(
                "cannot run {} for the step `{name}`",
                command.get_program().display()
            )
        })?;
        let output = std::fs::read(&path).with_context(log)?;
        Ok((
            status.success(),
            String::from_utf8_lossy(&output).into_owned(),
        ))
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

    /// The table of steps, what failed in them, and the closing line.
    fn summary(&self) -> String {
        let mut rows = vec![
            ["step", "passed", "failed", "time"]
                .map(String::from)
                .to_vec(),
        ];
        let mut all = Count::default();
        let mut failures = String::new();
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
            all.passed += count.passed;
            all.failed += count.failed;
            rows.push(vec![
                (*name).to_owned(),
                count.passed.to_string(),
                count.failed.to_string(),
                format!("{:.1}s", time.as_secs_f64()),
            ]);
        }
        format!(
            "{}\n{failures}{} passed, {} failed\n",
            table::columns(&rows),
            all.passed,
            all.failed
        )
    }
}

fn matrix_args(out: PathBuf, kernels: &[&str], offline: bool) -> MatrixArgs {
    MatrixArgs {
        kernel: kernels
            .iter()
            .map(|name| glob::Pattern::escape(name))
            .collect(),
        offline,
        ..MatrixArgs::plain(out)
    }
}

/// Whether a folder has a makefile with a target: asked of make, which knows best.
fn has_make_target(folder: &str, target: &str) -> bool {
    let folder = repo::root().join(folder);
    let has_makefile = ["GNUmakefile", "makefile", "Makefile"]
        .iter()
        .any(|name| folder.join(name).is_file());
    has_makefile
        && Command::new("make")
            .arg("-C")
            .arg(folder)
            .args(["--dry-run", "--silent", target])
            .output()
            .is_ok_and(|output| output.status.success())
}

/// Counts the tests in the output of `cargo test`. A run that failed without a failing test did not
/// compile or crashed, and counts as one failure.
fn count_tests(output: &str, good: bool) -> Count {
    let mut count = Count::default();
    for line in output.lines() {
        let Some(rest) = line.strip_prefix("test result: ") else {
            continue;
        };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok());
            match (number, words.next()) {
                (Some(number), Some("passed")) => count.passed += number,
                (Some(number), Some("failed")) => count.failed += number,
                _ => {}
            }
        }
    }
    if !good && count.failed == 0 {
        count.failed = 1;
    }
    count
}

/// The names of the tests that failed in the output of `cargo test`, a line each.
fn failed_tests(output: &str) -> String {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .fold(String::new(), |text, name| text + name + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests
test a ... ok
test b::c ... FAILED
test b::d ... FAILED
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s
test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s
";

    #[test]
    fn tests_are_counted() {
        assert_eq!(
            count_tests(OUTPUT, false),
            Count {
                passed: 15,
                failed: 2
            }
        );
        assert_eq!(
            count_tests("error: could not compile", false),
            Count {
                passed: 0,
                failed: 1
            }
        );
        assert_eq!(count_tests("", true), Count::default());
        // A binary that crashed left no result of its own.
        let first = OUTPUT.lines().take(5).collect::<Vec<_>>().join("\n");
        assert_eq!(
            count_tests(&first, false),
            Count {
                passed: 12,
                failed: 1
            }
        );
    }

    #[test]
    fn the_closing_line() {
        let done = |name, passed, failed, failures: &str| Done {
            name,
            outcome: Outcome {
                count: Count { passed, failed },
                failures: failures.to_owned(),
            },
            time: Duration::from_millis(1500),
        };
        let steps = Steps {
            ui: Ui::new(),
            logs: PathBuf::new(),
            offline: true,
            done: vec![
                done("format", 1, 0, ""),
                done("tests", 120, 2, &failed_tests(OUTPUT)),
                done(
                    "daily cases",
                    58,
                    1,
                    "a-kernel a-case: lost guest\n  the reason\n",
                ),
            ],
        };
        insta::assert_snapshot!(steps.summary());
    }

    #[test]
    fn make_targets_are_asked_of_make() {
        assert!(!has_make_target("model", "check"));
    }
}
