//! From what is wanted of a run to the run, with everything that can be wrong with the command line behind it.

use anyhow::{Context, Result, bail};
use cowbird_cases::REGRESSIONS;
use cowbird_harness::catalogue::{cases, recorded_case};
use cowbird_images::Catalogue;
use cowbird_matrix::durations::Durations;
use cowbird_matrix::mutants::{self, Mutant};
use cowbird_matrix::output::OutDir;
use cowbird_matrix::plan;
use cowbird_matrix::regression;
use cowbird_matrix::resume::Earlier;
use cowbird_matrix::select::Sharing;
use cowbird_matrix::spec::{Cases, RunSpec, Selection};
use cowbird_vm::command::DEFAULT_MEMORY_MIB;

use crate::repo;
use crate::run::checked::Run;
use crate::run::workload::Wanted;

/// Compares what is wanted with the catalogue. Nothing is fetched, built or booted before this
/// has succeeded.
pub fn check(spec: &RunSpec) -> Result<Run> {
    let root = repo::root();
    let catalogue = Catalogue::load(root.join(Catalogue::PATH_IN_REPO))?;
    let kernels = spec.kernels.among(&catalogue.kernels)?;
    let kernels = names(&kernels, |kernel| &kernel.name);
    let (mut chosen_cases, workload) = match &spec.cases {
        Cases::Of(selection) => {
            let recorded = recorded_case().name;
            if let Selection::Globs(names) | Selection::Names(names) = selection
                && names.iter().any(|name| name == recorded)
            {
                bail!(
                    "the case `{recorded}` replays a workload: name its file with --workload, and leave --case out"
                );
            }
            let chosen = selection.among(cases())?;
            (names(&chosen, |case| case.name), None)
        }
        Cases::Recorded(recording) => {
            let case = recorded_case().name.to_owned();
            (vec![case], Some(Wanted::check(recording)?))
        }
    };
    let named = !matches!(spec.cases, Cases::Of(Selection::Tier(_)));
    let known = mutants::load(&root)?;
    let mutants: Vec<Mutant> = mutants::select(&known, &spec.mutants)?
        .into_iter()
        .cloned()
        .collect();
    let out = OutDir::open(&spec.out)?;
    let earlier = spec.resume.then(|| Earlier::read(&out)).transpose()?;
    let seed = match (spec.seed, &earlier) {
        (Some(seed), Some(earlier)) if seed != earlier.seed => bail!(
            "the run in {} has the seed {}; leave --seed out, or --resume",
            out.path().display(),
            earlier.seed
        ),
        (Some(seed), _) => seed,
        (None, Some(earlier)) => earlier.seed,
        (None, None) => random_seed()?,
    };
    let mutant_names = names(&mutants, |mutant| &mutant.name);
    let tier_cases = chosen_cases.clone();
    if !named {
        let wanted = |case: &&str| {
            let in_tier = tier_cases.iter().any(|name| name == case);
            let tried = mutants.iter().any(|mutant| mutant.is_for(case, in_tier));
            if mutants.is_empty() { in_tier } else { tried }
        };
        let all = cases().iter().map(|case| case.name);
        chosen_cases = all.filter(wanted).map(str::to_owned).collect();
    }
    let mut cells = plan::plan(&kernels, &chosen_cases, &mutant_names, seed);
    cells.retain(|cell| {
        let mutant = mutants
            .iter()
            .find(|mutant| cell.id.mutant.as_ref() == Some(&mutant.name));
        let in_tier = tier_cases.contains(&cell.id.case);
        mutant.is_none_or(|mutant| {
            mutant.concerns(&cell.id.kernel) && (named || mutant.is_for(&cell.id.case, in_tier))
        })
    });
    let kernels_of_tier = matches!(spec.kernels, Selection::Tier(_));
    if kernels_of_tier && !named && mutants.is_empty() {
        let sharing = Sharing::new(&catalogue.kernels, cases());
        cells.retain(|cell| sharing.has(&cell.id.kernel, &cell.id.case));
    }
    let durations = Durations::load(&root)?;
    let warning = spec
        .shard
        .and_then(|_| durations.warning(cells.iter().map(|cell| &cell.id)));
    // The machines that share a run may have the recording in different places.
    let recording = match &spec.cases {
        Cases::Of(_) => None,
        Cases::Recorded(recording) => Some((
            recording.file.file_name(),
            recording.timing,
            recording.snapshot_at_percent,
        )),
    };
    let options = (
        recording,
        spec.traced,
        spec.record,
        spec.cpus,
        spec.soak_minutes,
        spec.cuts,
    );
    let whole = plan::digest(
        &cells,
        |cell| durations.of_cell(cell),
        &format!("{options:?}"),
    );
    let cells = match spec.shard {
        Some(shard) => plan::cells_of_shard(cells, shard, |cell| durations.of_cell(cell)),
        None => cells,
    };
    if cells.is_empty() && spec.shard.is_none() {
        bail!("no kernel and case are in this tier; name them with --kernel and --case");
    }
    let earlier = earlier
        .map(|results| Earlier::of(results, &cells, &out))
        .transpose()?;
    let script_runs = if cells.iter().any(|cell| cell.id.case == REGRESSIONS) {
        regression::plans(&root)?
    } else {
        Vec::new()
    };
    Ok(Run {
        catalogue,
        cells,
        workload,
        plan: whole,
        soak_minutes: spec.soak_minutes,
        cuts: spec.cuts,
        script_runs,
        mutants,
        traced: spec.traced,
        record: spec.record,
        cpus: spec.cpus,
        seed,
        shard: spec.shard,
        warning,
        jobs: spec.jobs.unwrap_or_else(|| default_jobs(spec.cpus)),
        accel: spec.accel,
        offline: spec.offline,
        out,
        earlier,
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

/// So many guests that they have as many CPUs as the host, and fit in its memory: a host that is busier than its CPUs makes its guests
/// slow and their limits tight, and one without memory kills them.
fn default_jobs(cpus_of_each: u32) -> usize {
    let of_host = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let by_cpus = of_host / cpus_of_each as usize;
    let by_memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_mib(&text))
        .map_or(by_cpus, |mib| mib / MIB_OF_EACH);
    by_cpus.min(by_memory).max(1)
}

/// Memory of the host that a guest takes: its own, that of QEMU, and what of its disks is in use.
const MIB_OF_EACH: usize = DEFAULT_MEMORY_MIB as usize + 512;

/// What `/proc/meminfo` says is available.
fn available_mib(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24679528 kB\nMemFree:        17000000 kB\nMemAvailable:   23381234 kB\n";
        assert_eq!(available_mib(text), Some(22833));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
        assert_eq!(available_mib("MemAvailable: much\n"), None);
    }
}
