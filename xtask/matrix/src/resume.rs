//! `--resume`: a run that was cut off goes on, and what it knew stays.
//!
//! A result is kept when it is of the same cell, with the same seed, made of the same things: the harness, the
//! guest's programs, the kernel, the module, and every option that reaches the cell. Pass or fail does not matter: a race that
//! was seen once is not given a second chance to hide. A cell of which the earlier run learned nothing
//! is run again, and its result says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cowbird_model::{CellResult, RunResults};
use cowbird_outside::foreign::read_text;
use cowbird_session::input::CaseInput;
use cowbird_session::plan::CellPlan;
use sha2::{Digest, Sha256};

use crate::judge::{CellStatus, status_of};
use crate::output::{self, OutDir, RESULTS};
use crate::plan::{CellId, PlannedCell};
use crate::programs::GuestPrograms;

/// The programs that cells of a run are made of, beside what is in their plans.
#[derive(Clone, Debug)]
pub struct Programs {
    digest: Sha256,
}

impl Programs {
    /// Hashes the running program, which has the harness in it, and those of the guest.
    pub fn read(guest: &GuestPrograms) -> Result<Self> {
        // By this name it is the program that runs, even after a build has replaced the file.
        let harness = PathBuf::from("/proc/self/exe");
        let GuestPrograms {
            init,
            cowbirdctl,
            tracer,
            tracer_trial,
        } = guest;
        let mut digest = Sha256::new();
        for program in [&harness, init, cowbirdctl, tracer, tracer_trial] {
            add_file(&mut digest, program)?;
        }
        Ok(Self { digest })
    }

    /// A digest of all that the cell is made of, 64 hexadecimal digits. Kernels and modules are in it by their paths: the
    /// cache names them by content.
    pub fn made_of(&self, plan: &CellPlan) -> Result<String> {
        let mut digest = self.digest.clone();
        let mut plan = plan.clone();
        if let CaseInput::Workload(workload) = &mut plan.input {
            add_file(&mut digest, &workload.file)?;
            workload.file = PathBuf::new();
        }
        // Folders of this run, and copies in them of the programs that are hashed already.
        for path in [
            &mut plan.guest_init,
            &mut plan.cowbirdctl,
            &mut plan.tracer,
            &mut plan.tracer_trial,
            &mut plan.work_dir,
            &mut plan.bundle_dir,
        ] {
            *path = PathBuf::new();
        }
        digest.update(serde_json::to_vec(&plan).context("a plan does not fit JSON")?);
        let bytes = digest.finalize();
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn add_file(digest: &mut Sha256, path: &Path) -> Result<()> {
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The length keeps two files apart from one that is both.
    digest.update((content.len() as u64).to_le_bytes());
    digest.update(content);
    Ok(())
}

/// What an earlier run knew.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    cells: BTreeMap<CellId, CellResult>,
}

/// What the earlier run says of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// Nothing, or of something else that had its name.
    Nothing,
    /// How it ended.
    Ended(Box<CellResult>),
    /// That it was broken, and why.
    Broken(String),
}

impl Earlier {
    /// The run that used the folder last.
    pub fn read(out: &OutDir) -> Result<RunResults> {
        let path = out.path().join(RESULTS);
        let text = read_text(&path).with_context(|| {
            format!(
                "there is no run to go on with: cannot read {}; leave --resume out",
                path.display()
            )
        })?;
        output::results_of(&text)
            .with_context(|| format!("{} is not the results of a run", path.display()))
    }

    /// Makes sure that nothing of the earlier run would be lost in a run of `cells`.
    pub fn of(results: RunResults, cells: &[PlannedCell], out: &OutDir) -> Result<Self> {
        let id = |result: &CellResult| CellId {
            kernel: result.kernel.clone(),
            case: result.case.clone(),
            mutant: result.mutant.clone(),
        };
        let known = results
            .cells
            .into_iter()
            .map(|result| (id(&result), result));
        let known = Self {
            cells: known.collect(),
        };
        let stray = known
            .cells
            .keys()
            .find(|id| !cells.iter().any(|cell| cell.id == **id));
        match stray {
            None => Ok(known),
            Some(id) => bail!(
                "the run in {} had the cell `{id}`, which this one has not: give it the same kernels, cases \
                 and mutants, or a folder of its own with --out",
                out.path().display()
            ),
        }
    }

    /// What is known of a cell that is made of `made_of`.
    pub fn of_cell(&self, cell: &PlannedCell, made_of: &str) -> Known {
        let same = |result: &&CellResult| {
            result.seed == cell.seed && result.made_of.as_deref() == Some(made_of)
        };
        match self.cells.get(&cell.id).filter(same) {
            None => Known::Nothing,
            Some(result) if status_of(result) == CellStatus::Broken => {
                Known::Broken(result.reason.clone())
            }
            Some(result) => Known::Ended(Box::new(result.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use crate::plan;
    use cowbird_host::limits::Limits;
    use cowbird_model::Verdict;
    use cowbird_vm::accel::Accel;

    const MADE_OF: &str = "these things";

    fn run(cells: &[(&str, Verdict)]) -> RunResults {
        let one = |(case, verdict): &(&str, Verdict)| CellResult {
            seed: 3,
            made_of: Some(MADE_OF.into()),
            ..result("k", case, None, *verdict)
        };
        RunResults {
            cells_expected: 9,
            seed: 7,
            shard: None,
            plan: None,
            cells: cells.iter().map(one).collect(),
        }
    }

    fn planned(cases: &[&str]) -> Vec<PlannedCell> {
        let cases: Vec<String> = cases.iter().map(ToString::to_string).collect();
        let mut cells = plan::plan(&["k".into()], &cases, &[], 7);
        cells.iter_mut().for_each(|cell| cell.seed = 3);
        cells
    }

    /// Goal: a verdict about the module stays, whichever it is; what said nothing is tried again; and what is of
    /// other things, or of another seed, counts for nothing.
    #[test]
    fn what_ended_stays() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let out = OutDir::open(dir.path()).expect("it can be made");
        let results = run(&[
            ("a", Verdict::Pass),
            ("b", Verdict::Mismatch),
            ("c", Verdict::LostGuest),
            ("d", Verdict::Unsupported),
        ]);
        out.write_results(&results).expect("it can be written");
        let cells = planned(&["a", "b", "c", "d", "e"]);
        let read = Earlier::read(&out).expect("it was just written");
        let earlier = Earlier::of(read, &cells, &out).expect("all are planned");
        let known: Vec<Known> = cells
            .iter()
            .map(|cell| earlier.of_cell(cell, MADE_OF))
            .collect();
        let ended = |at: usize| Known::Ended(Box::new(results.cells[at].clone()));
        let broken = Known::Broken("a reason".into());
        assert_eq!(
            known,
            [ended(0), ended(1), broken, ended(3), Known::Nothing]
        );
        assert_eq!(earlier.of_cell(&cells[0], "other things"), Known::Nothing);
        let other_seed = PlannedCell {
            seed: 4,
            ..cells[0].clone()
        };
        assert_eq!(earlier.of_cell(&other_seed, MADE_OF), Known::Nothing);
    }

    #[test]
    fn nothing_of_the_earlier_run_is_lost() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let out = OutDir::open(dir.path()).expect("it can be made");
        let error = Earlier::read(&out).expect_err("nobody has run here");
        assert!(
            error.to_string().contains("no run to go on with"),
            "{error}"
        );
        let results = run(&[("a", Verdict::Pass), ("b", Verdict::Pass)]);
        let error = Earlier::of(results, &planned(&["a"]), &out).expect_err("b would be lost");
        assert!(error.to_string().contains("had the cell `k b`"), "{error}");
    }

    /// Goal: whatever may change how a cell ends changes what it is made of; where it runs does not.
    #[test]
    fn what_a_cell_is_made_of() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let program = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).expect("it can be written");
            path
        };
        let guest = GuestPrograms {
            init: program("init"),
            cowbirdctl: program("cowbirdctl"),
            tracer: program("tracer"),
            tracer_trial: program("trial"),
        };
        let plan = CellPlan {
            kernel_name: "k".into(),
            kernel_release: "6.1".into(),
            vmlinuz: "vmlinuz".into(),
            boot_modules: Vec::new(),
            cowbird_ko: "modules/1/cowbird.ko".into(),
            guest_init: guest.init.clone(),
            cowbirdctl: guest.cowbirdctl.clone(),
            tracer: guest.tracer.clone(),
            tracer_trial: guest.tracer_trial.clone(),
            case: "a".into(),
            input: CaseInput::USUAL,
            traced: false,
            mutant: None,
            seed: 3,
            accel: Accel::Tcg,
            cpus: 2,
            memory_mib: 512,
            work_dir: "here".into(),
            bundle_dir: "there".into(),
            limits: Limits::for_slowdown(1),
            tape: None,
        };
        let made_of = |plan: &CellPlan| {
            let programs = Programs::read(&guest).expect("they can be read");
            programs.made_of(plan).expect("it fits JSON")
        };
        let first = made_of(&plan);
        let moved = CellPlan {
            work_dir: "elsewhere".into(),
            guest_init: "elsewhere/init".into(),
            ..plan.clone()
        };
        assert_eq!(made_of(&moved), first);
        let module = CellPlan {
            cowbird_ko: "modules/2/cowbird.ko".into(),
            ..plan.clone()
        };
        assert_ne!(made_of(&module), first);
        let cpus = CellPlan {
            cpus: 4,
            ..plan.clone()
        };
        assert_ne!(made_of(&cpus), first);
        std::fs::write(&guest.cowbirdctl, "newer").expect("it can be written");
        assert_ne!(made_of(&plan), first);
    }
}
