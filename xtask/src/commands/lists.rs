//! `kernels`, `cases` and `mutants`: what there is.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use cowbird_cases::{CaseInfo, CaseTier};
use cowbird_harness::catalogue::recorded_case;
use cowbird_images::{Arch, Catalogue, KernelSpec, KernelStatus, Tier};
use cowbird_matrix::{mutants, table};
use serde::Serialize;

use crate::repo;
use crate::run::prepare;
use crate::ui::{Ui, print, print_json};

/// One MiB, for sizes that people read.
const MIB: u64 = 1 << 20;

/// Arguments of the listing commands.
#[derive(Clone, Copy, Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `kernels`.
#[derive(Clone, Copy, Debug, Args)]
pub struct KernelsArgs {
    /// Print JSON
    #[arg(long, conflicts_with = "prune")]
    pub json: bool,
    /// Delete from the cache what no kernel of the catalogue is made of any more, as after `setup --refresh`
    #[arg(long)]
    pub prune: bool,
    /// Only say what would be deleted
    #[arg(long, requires = "prune")]
    pub dry_run: bool,
}

#[derive(Serialize)]
struct Kernel<'a> {
    name: &'a str,
    distro: &'a str,
    suite: &'a str,
    series: &'a str,
    flavour: &'a str,
    arch: Arch,
    tiers: Vec<Tier>,
    build_root: &'a str,
    compiler: &'a str,
    unsupported: Option<String>,
    cached: KernelStatus,
}

/// Lists the kernels and what is cached of each. Fetches nothing.
pub fn kernels(as_json: bool, ui: &Arc<Ui>) -> Result<u8> {
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    let store = prepare::open_store(true, false, ui)?;
    let describe = |spec: &'_ KernelSpec| {
        // One whose state cannot be told does not hide the others.
        store.status(spec).unwrap_or_else(|error| KernelStatus {
            name: spec.name.clone(),
            problem: Some(error.to_string()),
            ..KernelStatus::default()
        })
    };
    let status: Vec<KernelStatus> = catalogue.kernels.iter().map(describe).collect();
    let list: Vec<Kernel<'_>> = catalogue
        .kernels
        .iter()
        .zip(status)
        .map(|(spec, cached)| Kernel {
            name: &spec.name,
            distro: &spec.distro,
            suite: &spec.suite,
            series: &spec.series,
            flavour: &spec.flavour,
            arch: spec.arch,
            tiers: spec.tiers.iter().copied().collect(),
            build_root: &spec.build_root.name,
            compiler: &spec.build_root.compiler,
            unsupported: prepare::unsupported(&store, spec),
            cached,
        })
        .collect();
    if as_json {
        return json(&list);
    }
    let cache = store.cache_dir();
    print(&format!(
        "{}cache: {}\n",
        kernel_table(&list)?,
        cache.display()
    ))?;
    Ok(0)
}

fn kernel_table(kernels: &[Kernel<'_>]) -> Result<String> {
    let mut rows = vec![
        [
            "kernel",
            "tiers",
            "release",
            "package",
            "build root",
            "cached",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for kernel in kernels {
        let tiers: Vec<String> = kernel.tiers.iter().map(word).collect::<Result<_>>()?;
        let cached = &kernel.cached;
        let bytes = cached.package_bytes + cached.kernel_bytes.unwrap_or(0) + cached.built_bytes;
        rows.push(vec![
            kernel.name.to_owned(),
            tiers.join(","),
            cached.release.clone().unwrap_or_else(|| "-".into()),
            cached.package_version.clone().unwrap_or_else(|| "-".into()),
            kernel.build_root.to_owned(),
            match (&kernel.unsupported, cached.ready, bytes) {
                (Some(reason), ..) => format!("unsupported: {reason}"),
                _ if cached.problem.is_some() => {
                    format!("unknown: {}", cached.problem.as_deref().unwrap_or_default())
                }
                (None, true, bytes) => format!("ready, {} MiB", bytes / MIB),
                (None, false, 0) => "no".into(),
                (None, false, bytes) => format!("in part, {} MiB", bytes / MIB),
            },
        ]);
    }
    Ok(table::columns(&rows))
}

/// The name that serde gives a unit variant: one source of names for tables and JSON.
pub fn word<T: Serialize>(value: &T) -> Result<String> {
    let json = serde_json::to_value(value).context("a name does not fit JSON")?;
    Ok(json.as_str().unwrap_or_default().to_owned())
}

#[derive(Serialize)]
struct Case {
    name: &'static str,
    summary: &'static str,
    /// None of the one that runs only when it is given something to replay.
    tier: Option<CaseTier>,
    needs_modules: &'static [&'static str],
}

/// Lists the cases.
pub fn cases(args: ListArgs) -> Result<u8> {
    let describe = |case: &CaseInfo, tier| Case {
        name: case.name,
        summary: case.summary,
        tier,
        needs_modules: case.needs_modules,
    };
    let of_tiers = cowbird_harness::catalogue::cases().iter();
    let mut list: Vec<Case> = of_tiers
        .map(|case| describe(case, Some(case.tier)))
        .collect();
    list.push(describe(recorded_case(), None));
    if args.json {
        return json(&list);
    }
    let mut rows = vec![
        ["case", "tier", "what it is for"]
            .map(String::from)
            .to_vec(),
    ];
    for case in &list {
        let tier = case.tier.as_ref().map(word).transpose()?;
        rows.push(vec![
            case.name.into(),
            tier.unwrap_or_else(|| "--workload".into()),
            case.summary.into(),
        ]);
    }
    print(&table::columns(&rows))?;
    Ok(0)
}

/// Lists the mutants.
pub fn mutants(as_json: bool) -> Result<u8> {
    let list = mutants::load(&repo::root())?;
    if as_json {
        return json(&list);
    }
    let mut rows = vec![
        ["mutant", "seen as", "what it breaks"]
            .map(String::from)
            .to_vec(),
    ];
    for mutant in &list {
        rows.push(vec![
            mutant.name.clone(),
            mutant.seen_as(),
            mutant.breaks.clone(),
        ]);
    }
    print(&table::columns(&rows))?;
    Ok(0)
}

fn json<T: Serialize>(list: &T) -> Result<u8> {
    print_json(list)?;
    Ok(0)
}
