//! The list of all cases, by subject, in the order of the results.
//!
//! What a case does is in the file of `cowbird-cases` or `cowbird-adversity` that its entry names. Every list sees all
//! of both, so that an entry can be moved from one to another as it is.

mod applications;
mod boots;
mod disks;
mod endurance;
mod faults;
mod filesystems;
mod large;
mod limits;
mod operation;
mod persistence;
mod plain;
mod scope;
pub mod self_test;
mod stacked;
mod stuck;
mod surroundings;
mod topologies;
mod tracing;

use std::sync::LazyLock;

use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::recorded;
use cowbird_vm::layout::Layout;

/// The cases that tiers have. The order is that of the results.
static ALL: LazyLock<Vec<CaseInfo>> = LazyLock::new(|| {
    [
        plain::CASES,
        operation::CASES,
        surroundings::CASES,
        limits::CASES,
        persistence::CASES,
        faults::CASES,
        stuck::CASES,
        boots::CASES,
        large::CASES,
        boots::OF_ROOT,
        disks::CASES,
        stacked::CASES,
        filesystems::CASES,
        applications::CASES,
        endurance::CASES,
        tracing::CASES,
        topologies::CASES,
    ]
    .concat()
});

/// The case of a recorded workload. Without one there is nothing to do, so it belongs to no tier.
static RECORDED: CaseInfo = case(
    "recorded",
    "a recorded workload, replayed across the snapshot instant and while the snapshot is copied",
    CaseTier::Full,
    &GUEST_MODULES,
    || Layout::bare(0),
    |driver, setting| Box::pin(recorded::act(driver, setting)),
);

/// All cases.
#[must_use]
pub fn cases() -> &'static [CaseInfo] {
    &ALL
}

/// The case of that name, self-tests included.
#[must_use]
pub fn find(name: &str) -> Option<&'static CaseInfo> {
    cases()
        .iter()
        .chain(&self_test::CASES)
        .chain([&RECORDED])
        .find(|case| case.name == name)
}

/// The case that replays a recorded workload. It belongs to no matrix without one.
#[must_use]
pub fn recorded_case() -> &'static CaseInfo {
    &RECORDED
}

/// Cases that put the harness itself on trial. They need no module, and belong to no matrix.
#[must_use]
pub fn self_test_cases() -> &'static [CaseInfo] {
    &self_test::CASES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    use cowbird_cases::info::REGRESSIONS;

    /// Goal: a name means one case, and what failed once is tried before anything else.
    #[test]
    fn names_are_unique_and_regressions_first() {
        let all = ALL.iter().chain([&RECORDED]).chain(&self_test::CASES);
        let mut names = BTreeSet::new();
        for case in all {
            assert!(names.insert(case.name), "{} is there twice", case.name);
        }
        assert_eq!(ALL[0].name, REGRESSIONS);
    }
}
