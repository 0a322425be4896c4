//! Checks of the whole repository, which run as tests of this crate: what documents point to exists, versions agree, and dependencies are
//! used and may be used.

mod dependencies;
mod documents;
mod licences;
mod versions;
