//! `setup`: everything that a run needs and that can be had beforehand. Afterwards `--offline` works.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use cowbird_images::{Catalogue, Tier};
use cowbird_matrix::select::select;

use crate::host::rooms::Rooms;
use crate::run::guest_programs;
use crate::run::prepare::{self, Wanted};
use crate::ui::{Ui, print};
use crate::{host, repo};

/// Arguments of `setup`.
#[derive(Clone, Debug, Args)]
pub struct SetupArgs {
    /// Only kernels that match; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub kernel: Vec<String>,
    /// Look for newer kernel packages even where the cache has one
    #[arg(long)]
    pub refresh: bool,
    /// Fetch and install nothing: only say what is missing
    #[arg(long, conflicts_with = "refresh")]
    pub offline: bool,
    /// Only install packages of the host, and prepare no kernel
    #[arg(long, conflicts_with_all = ["kernel", "refresh"])]
    pub only_host: bool,
    /// Replace packages of the host that are in the way by older versions of the archive's
    #[arg(long, conflicts_with = "offline")]
    pub allow_downgrades: bool,
}

/// Runs the command; the value is the exit code.
pub fn command(args: &SetupArgs, ui: &Arc<Ui>) -> Result<u8> {
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    let kernels = select(&catalogue.kernels, &args.kernel, Tier::Full)?;
    host::ensure_with(
        &catalogue,
        host::Needs::Everything,
        &[],
        args.offline,
        args.allow_downgrades,
        ui,
    )?;
    if args.only_host {
        return Ok(0);
    }
    let store = Arc::new(prepare::open_store(args.offline, args.refresh, ui)?);
    let (unsupported, kernels): (Vec<_>, Vec<_>) = kernels
        .into_iter()
        .map(|spec| (prepare::unsupported(&store, spec), spec))
        .partition(|(reason, _)| reason.is_some());
    for (reason, spec) in unsupported {
        let reason = reason.unwrap_or_default();
        ui.line(&format!("{}: unsupported: {reason}", spec.name));
    }
    let to_make = prepare::kernels_to_make(&store, kernels.iter().map(|(_, spec)| *spec));
    Rooms {
        cache: Some((&store.cache_dir(), to_make)),
        ..Rooms::default()
    }
    .check()?;
    guest_programs::build(args.offline, ui)?;
    let wanted = kernels
        .into_iter()
        .map(|(_, spec)| spec)
        .map(|spec| Wanted {
            spec: spec.clone(),
            modules: BTreeMap::new(),
            mutants: Vec::new(),
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ready = runtime.block_on(prepare::prepare(&store, wanted));
    let mut failed = 0;
    for (name, ready) in &ready {
        match ready {
            Ok(ready) => print(&format!("{name}: {} is ready\n", ready.kernel.release))?,
            Err(error) => {
                ui.line(&format!("{name}: {error}"));
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} kernels are not ready", ready.len());
    }
    Ok(0)
}
