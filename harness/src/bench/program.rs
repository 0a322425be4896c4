//! A program of the host that runs in the guest, with the libraries that it loads.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk;
use crate::error::{HarnessError, HarnessResult, PathContext};

/// The path of a dynamically linked program, and the files that it needs, as (path in the guest, path
/// on the host): the same paths, because the program has the path of its loader in it.
///
/// # Errors
/// When the program is not on the path, or `ldd` cannot say what it needs.
pub fn with_libraries(
    program: &'static str,
    package: &'static str,
) -> HarnessResult<(String, Vec<(String, PathBuf)>)> {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| HarnessError::Tool {
            tool: program,
            detail: "not found".into(),
            hint: package,
        })?;
    let said = disk::run("ldd", "package libc-bin", Command::new("ldd").arg(&path))?;
    let program = path.display().to_string();
    let mut files = vec![(program.clone(), path)];
    for library in said.lines().filter_map(library_of) {
        let host = Path::new(library)
            .canonicalize()
            .on("find", Path::new(library))?;
        files.push((library.to_owned(), host));
    }
    Ok((program, files))
}

/// The path in a line of `ldd`: `name => /path (address)` or `/path (address)`.
fn library_of(line: &str) -> Option<&str> {
    let place = line.split(" => ").last()?.trim();
    let path = place.split(" (").next()?;
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_each_kind_of_line() {
        assert_eq!(library_of("\tlinux-vdso.so.1 (0x00007ffd)"), None);
        assert_eq!(
            library_of("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(
            library_of("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library_of("\tlibgone.so => not found"), None);
    }
}
