//! Checks of the whole checkout: what documents point to exists, versions agree, dependencies are used and may be used, files are
//! short, parts are those of the map, none uses one that uses it, all crates of cases are listed, and cases make faults through the guest session.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cases;
mod dependencies;
mod documents;
mod faults;
mod floors;
mod generated;
mod included;
mod invariants;
mod licences;
mod mutants;
mod parts;
mod repo;
mod versions;
