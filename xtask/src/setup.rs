//! `setup`: everything that a run needs and that can be had beforehand. Afterwards `--offline` works.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use cowbird_images::{Catalogue, Tier};
use cowbird_matrix::select::select;

use crate::cli::SetupArgs;
use crate::prepare::{self, Wanted};
use crate::rooms::Rooms;
use crate::ui::{Ui, print};
use crate::{guest, host, repo};

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
    guest::build(args.offline, ui)?;
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
