//! What a case is made of, and the cases in which the kernel, its disks and its operator do nothing unusual.
//!
//! A case is what is done in the guest, told as a story, and what must then be true.

pub mod above;
pub mod begin;
pub mod chain;
pub mod context;
pub mod databases;
pub mod expand;
pub mod fio_profiles;
pub mod former;
pub mod fs_churn;
pub mod hot_read;
pub mod incremental;
pub mod info;
pub mod many_cuts;
pub mod mixed_sectors;
pub mod modules;
pub mod names;
pub mod race_amplified;
pub mod raw_writers;
pub mod reconfigure;
pub mod recorded;
pub mod regressions;
pub mod restored;
pub mod series;
pub mod soak;
pub mod stacked;
pub mod subject;
pub mod sync_above;
pub mod throttled_set;
pub mod topology;
pub mod tracer;
pub mod two_volumes;
pub mod whole_disk;
pub mod write_kinds;

pub use info::{Act, CaseInfo, CaseTier, REGRESSIONS, case, traced};
pub use modules::{GUEST_MODULES, modules};

/// What `cargo xtask new case` writes, compiled as it is among the cases, so that it fits what it uses.
#[cfg(test)]
#[path = "../../../xtask/src/commands/new/case.rs.txt"]
mod skeleton;

#[cfg(test)]
mod tests {
    /// Goal: the skeleton of a case compiles as it is written. Method: it is a module of these tests. What it does not check: that a
    /// guest plays it.
    #[test]
    fn the_skeleton_compiles() {
        let _cases = super::skeleton::CASES;
    }
}
