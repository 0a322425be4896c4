//! The list of all cases, by subject, in the order of the results.
//!
//! What a case is stands in the file that plays it, of `cowbird-cases` or `cowbird-adversity`, and so does its subject. The
//! build script of this crate finds the statics of type [`CasesOf`] in these files. Within a subject the files come in the
//! order of their names, and the cases of a file in its own.

pub mod self_test;

use std::sync::LazyLock;

use cowbird_cases::info::CaseInfo;
use cowbird_cases::recorded;
use cowbird_cases::subject::{CasesOf, Subject};

/// What the files register, in the order of their names.
static REGISTERED: &[&CasesOf] = include!(concat!(env!("OUT_DIR"), "/registered.rs"));

/// Cases of one subject.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they are about.
    pub subject: Subject,
    /// The cases.
    pub cases: Vec<CaseInfo>,
}

/// All subjects that have cases, in the order of the results.
static GROUPS: LazyLock<Vec<Group>> = LazyLock::new(|| grouped(REGISTERED));

/// What is registered, by subject.
fn grouped(registered: &[&CasesOf]) -> Vec<Group> {
    let mut sorted = registered.to_vec();
    // Stable: those of one subject stay in their order.
    sorted.sort_by_key(|of| of.subject);
    let of_one = sorted.chunk_by(|a, b| a.subject == b.subject);
    of_one
        .map(|files| Group {
            subject: files[0].subject,
            cases: files.iter().flat_map(|of| of.cases).copied().collect(),
        })
        .collect()
}

/// The cases that tiers have. The order is that of the results.
static ALL: LazyLock<Vec<CaseInfo>> = LazyLock::new(|| {
    let cases = GROUPS.iter().flat_map(|group| &group.cases);
    cases.copied().collect()
});

/// All subjects that have cases, in the order of the results.
#[must_use]
pub fn groups() -> &'static [Group] {
    &GROUPS
}

/// All cases.
#[must_use]
pub fn cases() -> &'static [CaseInfo] {
    &ALL
}

/// The case of that name, which may be one that it had before; self-tests included.
#[must_use]
pub fn find(name: &str) -> Option<&'static CaseInfo> {
    cases()
        .iter()
        .chain(&self_test::CASES)
        .chain([&recorded::CASE])
        .find(|case| case.name == cowbird_cases::former::current(name))
}

/// The case that replays a recorded workload. It belongs to no matrix without one.
#[must_use]
pub fn recorded_case() -> &'static CaseInfo {
    &recorded::CASE
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

    use cowbird_cases::begin;
    use cowbird_cases::info::REGRESSIONS;
    use cowbird_session::input::CaseInput;

    /// Goal: a name means one case, and what failed once is tried before anything else.
    #[test]
    fn names_are_unique_and_regressions_first() {
        let all = ALL.iter().chain([&recorded::CASE]).chain(&self_test::CASES);
        let mut names = BTreeSet::new();
        for case in all {
            assert!(names.insert(case.name), "{} is there twice", case.name);
        }
        for (first, now) in cowbird_cases::former::renamed() {
            assert!(names.insert(first), "{first} is there twice");
            assert_eq!(find(first).expect(first).name, now);
        }
        assert_eq!(ALL[0].name, REGRESSIONS);
    }

    /// Goal: no case has disks that contradict themselves.
    #[test]
    fn disks_do_not_contradict_themselves() {
        for case in ALL.iter().chain([&recorded::CASE]).chain(&self_test::CASES) {
            let context = begin::context(case, 1, &CaseInput::USUAL, None);
            assert_eq!(context.layout().contradiction(), None, "{}", case.name);
        }
    }

    /// Goal: every case that is registered is in the list, once, under its subject.
    #[test]
    fn what_is_registered_is_listed() {
        let registered: usize = REGISTERED.iter().map(|of| of.cases.len()).sum();
        assert!(REGISTERED.len() > 40, "{} registrations", REGISTERED.len());
        assert_eq!(ALL.len(), registered);
        for of in REGISTERED {
            let mut groups = GROUPS.iter().filter(|group| group.subject == of.subject);
            let group = groups.next().expect("its subject is there");
            assert!(groups.next().is_none(), "{:?} is there twice", of.subject);
            for case in of.cases {
                assert!(group.cases.iter().any(|known| known.name == case.name));
            }
        }
        assert!(GROUPS.is_sorted_by_key(|group| group.subject));
    }
}
