//! Names that cases had before. They stay good on command lines, in plans and in results.
//!
//! A case that is renamed keeps its seeds: these are derived from the first name that it had, so that a run with an
//! old `--seed` does the same.

/// What a case was called first, and what it is called now.
const NAMES: &[(&str, &str)] = &[
    ("meddling", "admin-interference"),
    ("raw-kinds", "write-kinds"),
    ("nvme-kinds", "write-kinds-nvme"),
    ("ext4-kinds", "write-kinds-ext4"),
    ("ext4-mix", "fs-ops"),
    ("xfs-mix", "fs-ops-xfs"),
    ("hot-read-amplified", "race-amplified"),
    ("raw-writers-amplified", "race-amplified-writers"),
    ("module-away", "module-reload"),
    ("written-meanwhile", "offline-write"),
    ("no-answer", "open-hangs"),
    ("tools-killed", "tool-killed"),
    ("little-memory", "low-memory"),
    ("large-little-memory", "large-low-memory"),
];

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
