//! The files that what is new is written to, and the names that it can have.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A name as cases and mutants have it: it becomes a name in code and a word of command lines.
pub(super) fn check_words(name: &str, of_what: &str, such_as: &str) -> Result<()> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !name.split('-').all(is_word) || !name.starts_with(|first: char| first.is_ascii_lowercase())
    {
        bail!(
            "`{name}` is no name of a {of_what}: use lower case letters, digits and hyphens, as in `{such_as}`"
        );
    }
    Ok(())
}

/// Words that Rust keeps for itself, and crates that code names without declaring them. A module is called like none of these.
const NO_MODULES: [&str; 56] = [
    "abstract", "alloc", "as", "async", "await", "become", "box", "break", "const", "continue",
    "core", "crate", "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen",
    "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv",
    "pub", "ref", "return", "self", "static", "std", "struct", "super", "test", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    "lib",
];

/// Refuses a name that no module can have.
pub(super) fn check_module(name: &str) -> Result<()> {
    if NO_MODULES.contains(&name) {
        bail!(
            "`{name}` means something else in Rust, and a module has this name; use two words, as in `hot-read`"
        );
    }
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the words that rustc refuses are known. Method: each that a parser of Rust refuses as a name; of those that are known,
    /// all but crates, `lib`, `test` and the newest keyword are such.
    #[test]
    fn keywords_are_no_modules() {
        let others = ["alloc", "core", "gen", "lib", "std", "test"];
        for word in NO_MODULES {
            let is_name = syn::parse_str::<syn::Ident>(word).is_ok();
            assert_eq!(is_name, others.contains(&word), "{word}");
            assert!(check_module(word).is_err(), "{word}");
        }
        assert!(check_module("hot-read").is_ok());
    }
}
