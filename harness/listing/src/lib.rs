//! The list of all cases, from the files that register them. The build script of `cowbird-harness` writes it, and the
//! catalogue includes it.
//!
//! A registration is a static at the top of a file, `pub static NAME: CasesOf = ...`, in a module that others see. Nothing of its
//! value is read here: the compiler does that, with the list. It is no constant, since the code that a constant names is compiled
//! where the constant is used: all cases would be compiled again with the list whenever one changes. What holds cases in any other way, or in a file that no module
//! declares, is an error, since its cases would be in no list.
//!
//! Not seen: cases in statics of a type whose name says nothing of them, such as a structure that has some.

mod error;
mod scan;

use std::fmt::Write;
use std::path::Path;

pub use error::ListError;
pub use scan::Source;

/// The registrations of the crates, as an expression: a reference to an array of references to the statics. They are in the order
/// of their files' names, those of one file in its order. `except` has the paths of statics with a case that is in no list.
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
    // Stable: the statics of one file stay in their order.
    found.sort_by(|a, b| a.module.cmp(&b.module));
    let mut text = String::from("&[\n");
    for registered in &found {
        let _ = writeln!(text, "    &{},", registered.path);
    }
    text += "]\n";
    Ok(text)
}
