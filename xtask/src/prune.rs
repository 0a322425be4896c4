//! `kernels --prune`: frees what superseded kernels take up in the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use cowbird_host::kernel_image;
use cowbird_images::{Catalogue, InUse, Store};

use crate::lists::KernelsArgs;
use crate::ui::{Ui, print};
use crate::{prepare, repo};

/// One MiB, for sizes that people read.
const MIB: u64 = 1 << 20;

/// Runs the command; the value is the exit code.
pub fn command(args: KernelsArgs, ui: &Arc<Ui>) -> Result<u8> {
    let catalogue = Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO))?;
    let store = prepare::open_store(true, false, ui)?;
    let mut freed = 0;
    let mut text = String::new();
    for found in store.prune(&catalogue, args.dry_run)? {
        freed += found.bytes;
        text += &format!("{:6} MiB  {}\n", found.bytes / MIB, found.path.display());
    }
    for (path, bytes) in unused_images(&catalogue, &store)? {
        if !args.dry_run {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        freed += bytes;
        text += &format!("{:6} MiB  {}\n", bytes / MIB, path.display());
    }
    let done = if args.dry_run {
        "would be freed"
    } else {
        "freed"
    };
    print(&format!("{text}{} MiB {done}\n", freed / MIB))?;
    Ok(0)
}

/// Kernels that were unpacked to boot faster, of none that is ready.
fn unused_images(catalogue: &Catalogue, store: &Store) -> Result<Vec<(PathBuf, u64)>> {
    let mut in_use = BTreeSet::new();
    for spec in &catalogue.kernels {
        if store.status(spec)?.ready {
            in_use.insert(kernel_image::unpacked_name(&store.prepare(spec)?.vmlinuz)?);
        }
    }
    let folder = kernel_image::folder(&store.cache_dir().join(prepare::IMAGES_FOLDER));
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut unused = Vec::new();
    let entries = fs::read_dir(&folder);
    for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        // The digest of an image has its name, but for the ending.
        let image = entry.path().with_extension("elf");
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        if !in_use.contains(&*name) && !InUse::by_anybody(&image) {
            unused.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(unused)
}
