//! The way to a file: who else can make a name lead elsewhere.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As many links as the kernel follows on one way.
const LINKS_MAX: u32 = 40;

/// The first folder on the way to what is in `folder`, from the root on, in which somebody else than root and this user can rename
/// what is there.
pub fn movable(folder: &Path) -> Option<&Path> {
    let mut folders: Vec<&Path> = folder.ancestors().collect();
    folders.reverse();
    folders.into_iter().find(|folder| {
        fs::metadata(folder).is_ok_and(|meta| others_can_rename(meta.uid(), meta.mode()))
    })
}

/// What lets somebody else decide where a path leads, wherever its links lead: a folder that he can change, or a link of his.
///
/// # Errors
/// When the path cannot be made absolute, or has more links than a system follows.
pub fn foreign_part(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut to_go: Vec<OsString> = Vec::new();
    let push = |to_go: &mut Vec<OsString>, path: &Path| {
        let parts = path.components().rev();
        to_go.extend(parts.map(|part| part.as_os_str().to_owned()));
    };
    push(&mut to_go, &std::path::absolute(path)?);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = to_go.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        if part != "/" {
            let folder = fs::symlink_metadata(&at)?;
            if others_can_rename(folder.uid(), folder.mode()) {
                return Ok(Some(at));
            }
        }
        let next = at.join(&part);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if is_foreign(meta.uid()) {
                    return Ok(Some(next));
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                push(&mut to_go, &target);
            }
            _ => at = next,
        }
    }
    Ok(None)
}

/// In a sticky folder everybody renames only what is his.
fn others_can_rename(owner: u32, mode: u32) -> bool {
    let open = mode & 0o022 != 0;
    is_foreign(owner) || (open && mode & libc::S_ISVTX == 0)
}

/// Whether somebody else than root and this user owns it.
pub fn is_foreign(owner: u32) -> bool {
    // SAFETY: it only returns a number.
    owner != 0 && owner != unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    #[test]
    fn who_can_rename_what_is_in_a_folder() {
        for (owner, mode, can) in [
            (0, 0o755, false),
            (0, 0o1777, false),
            (0, 0o777, true),
            (0, 0o775, true),
            (65_534, 0o700, true),
            (65_534, 0o1777, true),
        ] {
            assert_eq!(others_can_rename(owner, mode), can, "{owner} {mode:o}");
        }
        assert_eq!(movable(Path::new("/")), None);
    }

    /// Goal: nobody else decides which device is overwritten. Method: a link of one's own, one in a folder that all can change,
    /// and, as root, one of somebody else in a folder of root's.
    #[test]
    fn a_link_of_somebody_else_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("image");
        symlink("/dev/null", &link).unwrap();
        assert_eq!(foreign_part(&link).unwrap(), None);
        assert_eq!(foreign_part(Path::new("/dev/null")).unwrap(), None);
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path(), open).unwrap();
        assert_eq!(foreign_part(&link).unwrap().as_deref(), Some(folder.path()));
        let closed = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), closed).unwrap();
        if lchown(&link, Some(65_534), None).is_ok() {
            assert_eq!(foreign_part(&link).unwrap().as_ref(), Some(&link));
            // Nor does a link of one's own that leads to his.
            let own = folder.path().join("own");
            symlink(&link, &own).unwrap();
            assert_eq!(foreign_part(&own).unwrap(), Some(link));
        }
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        symlink(&first, &second).unwrap();
        symlink(&second, &first).unwrap();
        assert!(foreign_part(&first).is_err(), "they lead nowhere");
    }
}
