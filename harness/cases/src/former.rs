//! Names that cases had before. They stay good on command lines, in plans and in results.
//!
//! A case that is renamed keeps its seeds: these are derived from the first name that it had, so that a run with an
//! old `--seed` does the same.

/// What a case was called first, and what it is called now.
const NAMES: &[(&str, &str)] = &[];

/// The name that a case has now, by any that it has had.
#[must_use]
pub fn current(name: &str) -> &str {
    let renamed = NAMES.iter().find(|(first, _)| *first == name);
    renamed.map_or(name, |(_, now)| now)
}

/// The name that a case had first, by the one that it has now.
#[must_use]
pub fn first(name: &str) -> &str {
    let renamed = NAMES.iter().find(|(_, now)| *now == name);
    renamed.map_or(name, |(first, _)| first)
}

/// What cases are called now that had another name first.
pub fn renamed() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().copied()
}
