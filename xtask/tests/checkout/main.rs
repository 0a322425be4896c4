//! Checks of the whole repository, beside `repository.rs`: what documents point to exists, versions agree, and dependencies are
//! used and may be used.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod dependencies;
mod documents;
mod licences;
mod repo;
mod versions;
