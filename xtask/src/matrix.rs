//! `test-matrix`: from the command line to a judged table of verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use cowbird_harness::accel::{Accel, AccelRequest, ProbeKernel, probe_accel};
use cowbird_harness::cases::{CaseInfo, cases};
use cowbird_harness::limits::Limits;
use cowbird_harness::plan::{CellOutcome, CellPlan, DEFAULT_CPUS, DEFAULT_MEMORY_MIB};
use cowbird_images::{Catalogue, KernelSpec};
use cowbird_model::{CellResult, Phase, RunResults};

use crate::cli::{AccelChoice, MatrixArgs};
use crate::guest::{self, GuestPrograms};
use crate::judge::{self, Judgement};
use crate::mutants::{self, Mutant};
use crate::output::{self, OutDir};
use crate::plan::{self, PlannedCell, Shard};
use crate::prepare::{self, Ready, Wanted};
use crate::runner;
use crate::select::select;
use crate::ui::{Ui, print};
use crate::{host, repo, table};

/// Characters of a reason in the log of a run; all of it is in the results.
const REASON_CHARS: usize = 160;

/// What a run is to do, with everything that can be wrong with the command line behind it.
#[derive(Clone, Debug)]
pub struct Run {
    /// All kernels that there are, for what the host needs.
    pub catalogue: Catalogue,
    /// The cells.
    pub cells: Vec<PlannedCell>,
    /// The mutants among them.
    pub mutants: Vec<Mutant>,
    /// The seed of the run.
    pub seed: u64,
    /// Which part of the matrix it is.
    pub shard: Option<Shard>,
    /// Cells at the same time.
    pub jobs: usize,
    /// Acceleration asked for.
    pub accel: AccelChoice,
    /// Fetch and install nothing.
    pub offline: bool,
    /// Where the results go.
    pub out: OutDir,
}

/// The ended run.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What `results.json` has.
    pub results: RunResults,
    /// How it counts.
    pub judgement: Judgement,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &MatrixArgs, ui: &Arc<Ui>) -> Result<u8> {
    let run = check(args)?;
    let ended = execute(&run, ui)?;
    show(&ended, args.json)?;
    Ok(ended.judgement.exit)
}

/// Reads the command line against the catalogue. Nothing is fetched, built or booted before this
/// has succeeded.
pub fn check(args: &MatrixArgs) -> Result<Run> {
    let root = repo::root();
    let catalogue = Catalogue::load(root.join(Catalogue::PATH_IN_REPO))?;
    let kernels = names(
        &select(&catalogue.kernels, &args.kernel, args.tier)?,
        |kernel| &kernel.name,
    );
    let chosen_cases = names(&select(cases(), &args.case, args.tier)?, |case| case.name);
    let known = mutants::load(&root)?;
    let mutants: Vec<Mutant> = mutants::select(&known, &args.mutant)?
        .into_iter()
        .cloned()
        .collect();
    let out = OutDir::open(&args.out)?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let mutant_names = names(&mutants, |mutant| &mutant.name);
    let cells = plan::plan(&kernels, &chosen_cases, &mutant_names, seed, args.shard);
    let jobs = args.jobs.map_or_else(default_jobs, usize::from);
    let (shard, accel, offline) = (args.shard, args.accel, args.offline);
    Ok(Run {
        catalogue,
        cells,
        mutants,
        seed,
        shard,
        jobs,
        accel,
        offline,
        out,
    })
}

fn names<T, N: AsRef<str> + ?Sized>(items: &[T], name: impl Fn(&T) -> &N) -> Vec<String> {
    items
        .iter()
        .map(|item| name(item).as_ref().to_owned())
        .collect()
}

/// A seed that nobody chose.
fn random_seed() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom for a seed; give one with --seed")?;
    Ok(plan::shorten_seed(u64::from_le_bytes(bytes)))
}

/// A guest has two CPUs, and a host that is busier than its CPUs makes its guests slow and its
/// limits tight.
fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).max(1))
}

/// Runs the cells of a checked run.
pub fn execute(run: &Run, ui: &Arc<Ui>) -> Result<Ended> {
    host::ensure(&run.catalogue, host::Needs::Matrix, run.offline, ui)?;
    ui.line(&format!("seed {}", run.seed));
    let guest = guest::build(run.offline, ui)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the harness")?;
    let results = runtime.block_on(run_all(run, &guest, ui))?;
    let judgement = judge::judge(results.cells_expected, &results.cells);
    Ok(Ended { results, judgement })
}

async fn run_all(run: &Run, guest: &GuestPrograms, ui: &Arc<Ui>) -> Result<RunResults> {
    let mut results = RunResults {
        cells_expected: run.cells.len() as u64,
        seed: run.seed,
        shard: run.shard.map(|shard| shard.to_string()),
        cells: Vec::new(),
    };
    run.out.write_results(&results)?;
    let store = Arc::new(prepare::open_store(run.offline, false, ui)?);
    let ready = prepare::prepare(&store, wanted(run)).await;
    let scratch = run.out.scratch()?;
    let accel = choose_accel(run.accel, &ready, guest, &store.cache_dir(), ui).await?;
    let stage = Arc::new(Stage {
        ready,
        guest: guest.clone(),
        accel,
        scratch: scratch.path().to_owned(),
        out: run.out.clone(),
        mutants: run.mutants.clone(),
        ui: Arc::clone(ui),
    });
    let counter = ui.counter(results.cells_expected, "cells");
    let one = move |cell: PlannedCell| {
        let stage = Arc::clone(&stage);
        async move { stage.run(cell).await }
    };
    let mut so_far = BTreeMap::new();
    let mut write_error = None;
    let all = runner::run_cells(&run.cells, run.jobs, one, |at, result| {
        counter.inc(1);
        so_far.insert(at, result.clone());
        // Written after every cell: a run that is cut off leaves what it knew.
        let partial = RunResults {
            cells: so_far.values().cloned().collect(),
            ..results.clone()
        };
        write_error = run.out.write_results(&partial).err();
    })
    .await;
    counter.finish_and_clear();
    results.cells = all;
    match write_error {
        None => Ok(results),
        Some(error) => Err(error),
    }
}

/// What is needed of each kernel that has cells.
fn wanted(run: &Run) -> Vec<Wanted> {
    let specs = run.catalogue.kernels.iter();
    let with_cells = specs.filter_map(|spec| {
        let cells: Vec<&PlannedCell> = run
            .cells
            .iter()
            .filter(|cell| cell.id.kernel == spec.name)
            .collect();
        (!cells.is_empty()).then(|| wanted_of(spec, &cells))
    });
    with_cells.collect()
}

fn wanted_of(spec: &KernelSpec, cells: &[&PlannedCell]) -> Wanted {
    let mut mutants = Vec::new();
    let mut modules = BTreeSet::<&str>::new();
    for cell in cells {
        if !mutants.contains(&cell.id.mutant) {
            mutants.push(cell.id.mutant.clone());
        }
        let case = cases().iter().find(|case| case.name == cell.id.case);
        modules.extend(
            case.into_iter()
                .flat_map(|case: &CaseInfo| case.needs_modules.iter().copied()),
        );
    }
    let modules = modules.into_iter().map(ToString::to_string).collect();
    Wanted {
        spec: spec.clone(),
        modules,
        mutants,
    }
}

/// Decides what QEMU runs the guests with, by booting one of the kernels where that is needed.
async fn choose_accel(
    choice: AccelChoice,
    ready: &BTreeMap<String, Result<Arc<Ready>, String>>,
    guest: &GuestPrograms,
    cache: &Path,
    ui: &Arc<Ui>,
) -> Result<Accel> {
    let Some(kernel) = ready.values().find_map(|ready| ready.as_ref().ok()) else {
        // No cell will boot, and each says why.
        return Ok(Accel::Tcg);
    };
    let kernel = ProbeKernel {
        vmlinuz: kernel.image.clone(),
        boot_modules: kernel.boot_modules.clone(),
        guest_init: guest.init.clone(),
    };
    let request = match choice {
        AccelChoice::Auto => AccelRequest::Auto,
        AccelChoice::Kvm => AccelRequest::Kvm,
        AccelChoice::Tcg => AccelRequest::Tcg,
    };
    let chosen = probe_accel(request, &kernel, &cache.join("accel")).await?;
    ui.line(&format!(
        "acceleration: {:?} ({})",
        chosen.accel, chosen.reason
    ));
    Ok(chosen.accel)
}

/// What all cells share while they run.
struct Stage {
    ready: BTreeMap<String, Result<Arc<Ready>, String>>,
    guest: GuestPrograms,
    accel: Accel,
    scratch: PathBuf,
    out: OutDir,
    mutants: Vec<Mutant>,
    ui: Arc<Ui>,
}

impl Stage {
    async fn run(&self, cell: PlannedCell) -> CellResult {
        let task = self.ui.task(&cell.id.to_string());
        let result = match self.cell_plan(&cell) {
            Err(reason) => runner::broken(&cell, reason),
            Ok((ready, plan)) => {
                let outcome =
                    cowbird_harness::run_cell(&plan, &|phase: &str| task.step(phase)).await;
                self.result(&cell, &ready, outcome)
            }
        };
        task.end(&one_line(&result));
        result
    }

    fn cell_plan(&self, cell: &PlannedCell) -> Result<(Arc<Ready>, CellPlan), String> {
        let ready = self
            .ready
            .get(&cell.id.kernel)
            .ok_or("the kernel was not prepared")?
            .clone()?;
        let built = ready
            .built
            .get(&cell.id.mutant)
            .ok_or("the module was not built")?
            .clone()?;
        let plan = CellPlan {
            kernel_name: cell.id.kernel.clone(),
            kernel_release: ready.kernel.release.clone(),
            vmlinuz: ready.image.clone(),
            boot_modules: ready.boot_modules.clone(),
            cowbird_ko: built,
            guest_init: self.guest.init.clone(),
            cowbirdctl: self.guest.cowbirdctl.clone(),
            case: cell.id.case.clone(),
            mutant: cell.id.mutant.clone(),
            seed: cell.seed,
            accel: self.accel,
            cpus: DEFAULT_CPUS,
            memory_mib: DEFAULT_MEMORY_MIB,
            work_dir: self.scratch.join(cell.id.slug()),
            bundle_dir: self
                .out
                .bundle(&format!("{}+{}", cell.id.slug(), cell.seed)),
            limits: Limits::default(),
        };
        Ok((ready, plan))
    }

    fn result(&self, cell: &PlannedCell, ready: &Ready, outcome: CellOutcome) -> CellResult {
        let bundle = outcome.bundle;
        let mut result = CellResult {
            kernel_version: format!("{} {}", ready.kernel.release, ready.kernel.package_version),
            verdict: outcome.verdict,
            blocks_checked: outcome.blocks_checked,
            blocks_bad: outcome.blocks_bad,
            classes: outcome.classes,
            phases: outcome
                .phases
                .into_iter()
                .map(|(name, time)| Phase {
                    name,
                    seconds: time.as_secs_f64(),
                })
                .collect(),
            seconds: outcome.seconds,
            bundle: bundle.as_ref().map(|path| path.display().to_string()),
            ..runner::broken(cell, outcome.reason)
        };
        if let Some(name) = &cell.id.mutant {
            let mutant = self.mutants.iter().find(|mutant| mutant.name == *name);
            let caught = mutant.is_some_and(|mutant| judge::is_caught(mutant, &result));
            result.caught = Some(caught);
            if caught && let Some(bundle) = &bundle {
                output::prune_bundle(bundle);
            }
        }
        result
    }
}

/// How a cell ended, for the log of the run.
fn one_line(result: &CellResult) -> String {
    let caught = match result.caught {
        Some(true) => ", caught",
        Some(false) => ", not caught",
        None => "",
    };
    let line = result.reason.lines().next().unwrap_or_default();
    let mut reason: String = line.chars().take(REASON_CHARS).collect();
    if reason.len() < line.len() {
        reason.push_str(" ..");
    }
    if !reason.is_empty() {
        reason.insert_str(0, ": ");
    }
    format!(
        "{}{caught}, {} of {} blocks bad, {:.1}s{reason}",
        result.verdict, result.blocks_bad, result.blocks_checked, result.seconds
    )
}

/// Prints the table, or the results as JSON with the table beside.
pub fn show(ended: &Ended, json: bool) -> Result<()> {
    let results = &ended.results;
    let text = [
        table::verdicts(&results.cells),
        table::failures(&results.cells, &ended.judgement),
        table::time(&results.cells),
        table::summary(results.cells_expected, &ended.judgement),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join("\n");
    if json {
        eprint!("\n{text}");
        print(&output::to_json(results)?)
    } else {
        print(&format!("\n{text}"))
    }
}
