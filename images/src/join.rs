//! Files of packages that nobody here has signed, put together in one folder.
//!
//! A package may have links, also ones that lead out of the folder, as long as nothing is written, deleted or looked up
//! through them. So each package is unpacked into a folder of its own, and what they have is moved together by names, none
//! of which is followed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Moves all that is in `from` into `to`, which are on one filesystem. Of two files with one name the later one stays.
///
/// # Errors
/// When a name is a folder in one and something else in the other, or when it cannot be moved.
pub(crate) fn join(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let kind = entry.file_type().map_err(Error::io("look at", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match fs::symlink_metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", &target)(error)),
            Ok(meta) if kind.is_dir() && meta.is_dir() => {
                join(&source, &target)?;
                continue;
            }
            Ok(meta) if kind.is_dir() || meta.is_dir() => {
                return Err(Error::PackageClash { path: target });
            }
            Ok(_) => {}
        }
        fs::rename(&source, &target).map_err(Error::io("move", &source))?;
    }
    Ok(())
}

/// The folder at `inner` below `tree`, if every part of the way is a folder and none a link.
pub(crate) fn folder_in(tree: &Path, inner: &Path) -> Option<PathBuf> {
    let mut path = tree.to_owned();
    for part in inner.components() {
        path.push(part);
        if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            return None;
        }
    }
    Some(path)
}

/// Programs that make whoever starts them another user. What is unpacked is of an old release, which nobody updates, or nobody has signed it.
const SET_IDS: u32 = 0o6000;

/// Takes the set-user-id and set-group-id bits from all files below a folder.
///
/// # Errors
/// When a mode cannot be read or changed.
pub(crate) fn strip_set_ids(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        // Of the link itself, where it is one.
        let meta = entry.metadata().map_err(Error::io("look at", &path))?;
        if meta.is_symlink() {
            continue;
        }
        let mode = meta.permissions().mode();
        if mode & SET_IDS != 0 {
            let stripped = fs::Permissions::from_mode(mode & !SET_IDS & 0o7777);
            fs::set_permissions(&path, stripped).map_err(Error::io("change the mode of", &path))?;
        }
        if meta.is_dir() {
            strip_set_ids(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    /// Goal: a package cannot write where a link of another one leads. Method: the link of the first package leads to a folder
    /// outside, and the second one has a file below it.
    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second, tree, outside] =
            ["first", "second", "tree", "outside"].map(|name| dir.path().join(name));
        for folder in [&first, &second, &tree, &outside] {
            fs::create_dir(folder).unwrap();
        }
        put(&first, "usr/lib/modules/r/kernel/a.ko");
        symlink(&outside, first.join("usr/lib/modules/r/extra")).unwrap();
        put(&second, "usr/lib/modules/r/extra/job");
        put(&second, "usr/lib/modules/r/kernel/b.ko");
        join(&first, &tree).unwrap();
        let error = join(&second, &tree).unwrap_err();
        assert!(matches!(error, Error::PackageClash { .. }), "{error}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // The other way round the link would hide what is there.
        let third = dir.path().join("third");
        fs::create_dir_all(third.join("usr/lib/modules/r")).unwrap();
        symlink(&outside, third.join("usr/lib/modules/r/extra")).unwrap();
        let error = join(&third, &second).unwrap_err();
        assert!(matches!(error, Error::PackageClash { .. }), "{error}");
    }

    #[test]
    fn packages_share_folders() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second, tree] = ["first", "second", "tree"].map(|name| dir.path().join(name));
        fs::create_dir(&tree).unwrap();
        put(&first, "usr/src/a");
        put(&second, "usr/src/b");
        put(&second, "usr/src/a");
        join(&first, &tree).unwrap();
        join(&second, &tree).unwrap();
        assert!(tree.join("usr/src/a").is_file() && tree.join("usr/src/b").is_file());
        assert_eq!(
            folder_in(&tree, Path::new("usr/src")),
            Some(tree.join("usr/src"))
        );
        symlink("/", tree.join("usr/lib")).unwrap();
        assert_eq!(folder_in(&tree, Path::new("usr/lib")), None);
        assert_eq!(folder_in(&tree, Path::new("usr/lib/etc")), None);
        assert_eq!(folder_in(&tree, Path::new("usr/src/a")), None);
    }

    /// Goal: nobody becomes root by a program in the cache.
    #[test]
    fn set_user_id_bits_go() {
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (root.path().join("bin"), root.path().join("bin/su"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&file, 0o4755);
        set(&folder, 0o2775);
        symlink("/nonexistent", folder.join("link")).unwrap();
        strip_set_ids(root.path()).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&file), mode(&folder)), (0o755, 0o775));
    }
}
