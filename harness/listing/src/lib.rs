//! The list of all cases, from the files that register them. The build script of `cowbird-harness` writes it, and the
//! catalogue includes it.
//!
//! A registration is a constant at the top of a file, `pub const NAME: CasesOf = ...`, in a module that others see. Nothing of its
//! value is read here: the compiler does that, with the list. What holds cases in any other way, or in a file that no module
//! declares, is an error, since its cases would be in no list.
//!
//! Not seen: cases in constants of a type that has another name, such as a tuple or an alias of an alias from another crate.

mod scan;

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The type of a registration.
const REGISTRATION: &str = "CasesOf";

/// Types that hold cases.
const HOLDERS: [&str; 2] = [REGISTRATION, "CaseInfo"];

/// A crate whose files register cases.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What Rust calls it.
    pub name: &'a str,
    /// Its folder of sources, from the root of the checkout.
    pub folder: &'a str,
}

/// Why there is no list.
#[derive(Debug, Error)]
pub enum ListError {
    /// Something cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is not Rust.
    #[error("{file} cannot be understood: {error}")]
    Syntax {
        /// The file, from the root of the checkout.
        file: String,
        /// Why.
        error: syn::Error,
    },
    /// Cases that would be in no list.
    #[error("{file}: {what}")]
    Unlisted {
        /// The file, from the root of the checkout.
        file: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A constant that is excepted and is not there.
    #[error("there is no `{0}`, which the build script excepts from the list of cases")]
    NoException(String),
}

/// The registrations of the crates, as an expression: a reference to an array of the constants' paths. They are in the order
/// of their files' names, those of one file in its order. `except` has the paths of constants with a case that is in no list.
pub fn list(root: &Path, sources: &[Source<'_>], except: &[&str]) -> Result<String, ListError> {
    let mut found = Vec::new();
    let mut excepted: Vec<&str> = Vec::new();
    for source in sources {
        let scanned = scan::scan(root, source, except)?;
        found.extend(scanned.registered);
        let is_there = |path: &&&str| scanned.excepted.iter().any(|known| known == *path);
        excepted.extend(except.iter().filter(is_there));
    }
    if let Some(missing) = except.iter().find(|path| !excepted.contains(path)) {
        return Err(ListError::NoException((*missing).to_owned()));
    }
    // Stable: the constants of one file stay in their order.
    found.sort_by(|a, b| a.module.cmp(&b.module));
    let mut text = String::from("&[\n");
    for registered in &found {
        let _ = writeln!(text, "    {},", registered.path);
    }
    text += "]\n";
    Ok(text)
}
