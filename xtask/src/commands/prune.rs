//! `kernels --prune`: frees what superseded kernels take up in the cache.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use cowbird_host::kernel_image;
use cowbird_images::{Catalogue, InUse, Store};

use crate::commands::lists::KernelsArgs;
use crate::repo;
use crate::run::prepare;
use crate::ui::{Ui, print};

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
    for (path, bytes) in prune_images(&catalogue, &store, args.dry_run)? {
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

/// Kernels that were unpacked to boot faster, of none that is ready. None while somebody is about to take one.
fn prune_images(
    catalogue: &Catalogue,
    store: &Store,
    only_look: bool,
) -> Result<Vec<(PathBuf, u64)>> {
    let mut in_use = BTreeSet::new();
    for spec in &catalogue.kernels {
        // Of one whose files are damaged the image is of no use either; others are not its affair.
        let is_ready = store.status(spec).is_ok_and(|status| status.ready);
        if let Some(kernel) = is_ready.then(|| store.prepare(spec).ok()).flatten() {
            in_use.insert(kernel_image::unpacked_name(&kernel.vmlinuz)?);
        }
    }
    let folder = kernel_image::folder(&store.cache_dir().join(prepare::IMAGES_FOLDER));
    let Some(_alone) = InUse::alone(&folder) else {
        return Ok(Vec::new());
    };
    let unused = unused_images(&folder, &in_use)?;
    for (path, _) in unused.iter().filter(|_| !only_look) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(unused)
}

/// The files of the folder that belong to none of these images, and to none that somebody boots.
fn unused_images(folder: &Path, in_use: &BTreeSet<String>) -> Result<Vec<(PathBuf, u64)>> {
    let mut unused = Vec::new();
    let entries = fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let image = kernel_image::image_of(&path);
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        if !kernel_image::is_kept(&path) || in_use.contains(&*name) || InUse::by_anybody(&image) {
            continue;
        }
        // It may have gone since it was listed.
        if let Ok(meta) = path.metadata() {
            unused.push((path, meta.len()));
        }
    }
    Ok(unused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only what is whole and of no kernel is deleted. Method: an image and its digest of each kind, one that is booted, and a file that
    /// another process is writing.
    #[test]
    fn only_whole_images_of_no_kernel_go() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        for name in [
            "old.elf",
            "old.sha256",
            "new.elf",
            "new.sha256",
            "run.elf",
            "run.sha256",
            ".tmpAb3dE6",
        ] {
            fs::write(folder.path().join(name), "x").expect("it can be written");
        }
        let _booted = InUse::of(&folder.path().join("run.elf"));
        let in_use = BTreeSet::from(["new.elf".to_owned()]);
        let unused = unused_images(folder.path(), &in_use).expect("it can be listed");
        let mut names: Vec<_> = unused
            .iter()
            .filter_map(|(path, _)| path.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["old.elf", "old.sha256"]);
    }

    /// Goal: an image that a run is about to boot is not deleted. Method: the folder is held as `prepare` holds it.
    #[test]
    fn images_stay_while_a_run_looks_at_them() {
        let cache = tempfile::tempdir().expect("a folder for the test");
        let options = cowbird_images::StoreOptions {
            cache_dir: Some(cache.path().to_owned()),
            offline: true,
            ..cowbird_images::StoreOptions::new(repo::root())
        };
        let store = Store::open(options).expect("it can be made");
        let mut catalogue =
            Catalogue::load(repo::root().join(Catalogue::PATH_IN_REPO)).expect("ours");
        catalogue.kernels.clear();
        let folder = kernel_image::folder(&cache.path().join(prepare::IMAGES_FOLDER));
        let image = folder.join("a.elf");
        fs::create_dir_all(&folder).expect("it can be made");
        fs::write(&image, "x").expect("it can be written");
        let looks = InUse::of(&folder);
        assert_eq!(
            prune_images(&catalogue, &store, false).expect("it works"),
            []
        );
        drop(looks);
        let gone = prune_images(&catalogue, &store, false).expect("it works");
        assert_eq!(gone, [(image.clone(), 1)]);
        assert!(!image.exists());
    }
}
