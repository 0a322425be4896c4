//! The list of all cases, by subject, in the order of the results.
//!
//! What a case is stands in the file that plays it, of `cowbird-cases` or `cowbird-adversity`; here is only its place.
//! Tiers share kernels out by that place, so that moving a case changes which kernels it meets.

pub mod self_test;

use std::sync::LazyLock;

use cowbird_adversity::*;
use cowbird_cases::info::CaseInfo;
use cowbird_cases::*;

/// A page that explains cases.
#[derive(Debug, Clone, Copy)]
pub struct See {
    /// What it says.
    pub what: &'static str,
    /// Its path from `docs/`.
    pub page: &'static str,
}

const fn see(what: &'static str, page: &'static str) -> See {
    See { what, page }
}

/// Cases of one subject.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they are about.
    pub subject: &'static str,
    /// What explains them.
    pub see: &'static [See],
    /// The cases, by the file that plays them.
    pub files: &'static [&'static [CaseInfo]],
}

const PLAIN: &[&[CaseInfo]] = &[
    regressions::CASES,
    fs_churn::CASES,
    raw_writers::CASES,
    hot_read::CASES,
    amplified::CASES,
    incremental::CASES,
    chain::CASES,
    kinds::CASES,
];

const OPERATION: &[&[CaseInfo]] = &[
    series::CASES,
    two_volumes::CASES,
    reconfigure::CASES,
    expand::CASES,
];

const SURROUNDINGS: &[&[CaseInfo]] = &[
    throttled::CASES,
    freezing::CASES,
    other_namespace::CASES,
    stale_cache::CASES,
    exerciser::CASES,
];

const LIMITS: &[&[CaseInfo]] = &[many_snapshots::CASES, refusals::CASES, mishaps::CASES];

const PERSISTENCE: &[&[CaseInfo]] = &[
    persistence::CASES,
    boot_loader::CASES,
    written_between::CASES,
    not_taken_up::CASES,
    faults::damaged::CASES,
    overwritten::CASES,
    persistence::OF_COW_FILES,
];

const FAULTS: &[&[CaseInfo]] = &[
    faults::io_errors::CASES,
    faults::losses::CASES,
    faults::io_errors::OF_IMAGES,
    faults::meddling::CASES,
    faults::changing::CASES,
];

const STUCK: &[&[CaseInfo]] = &[
    stuck::asleep::CASES,
    stuck::cow_stops::CASES,
    stuck::slow_cow::CASES,
    stuck::huge_write::CASES,
    stuck::neighbours::CASES,
    stuck::slow_group::CASES,
];

const BOOTS: &[&[CaseInfo]] = &[boots::CASES];

const LARGE: &[&[CaseInfo]] = &[large::CASES];

const ROOT: &[&[CaseInfo]] = &[root_volume::CASES];

const DISKS: &[&[CaseInfo]] = &[
    whole_disk::CASES,
    raw_writers::OTHER_DISKS,
    mixed_sectors::CASES,
];

const STACKED: &[&[CaseInfo]] = &[stacked::CASES];

const FILESYSTEMS: &[&[CaseInfo]] = &[fs_churn::OTHER_FILESYSTEMS, f2fs_home::CASES];

const APPLICATIONS: &[&[CaseInfo]] = &[
    fio_profiles::CASES,
    databases::sqlite::CASES,
    databases::postgresql::CASES,
];

const ENDURANCE: &[&[CaseInfo]] = &[power_cuts::CASES, soak::CASES];

const TRACING: &[&[CaseInfo]] = &[tracer::CASES, hot_read::TRACED];

const TOPOLOGIES: &[&[CaseInfo]] = &[
    above::CASES,
    sync_above::CASES,
    throttled_set::CASES,
    many_cuts::CASES,
];

/// All subjects, in the order of the results.
pub const GROUPS: &[Group] = &[
    Group {
        subject: "One volume under writers: its snapshots, and the images made of them",
        see: &[
            see("what failed once", "../harness/regressions/README.md"),
            see(
                "how much it helps to amplify a race",
                "decisions/0021-races-are-amplified.md",
            ),
        ],
        files: PLAIN,
    },
    Group {
        subject: "What an operator does with snapshots while they are written to: series, sets, bounds, room for the COW file",
        see: &[
            see(
                "several volumes at one instant",
                "decisions/0016-several-volumes-at-one-instant.md",
            ),
            see(
                "how a COW file gets more room",
                "decisions/0018-a-snapshot-grows-by-annexes.md",
            ),
        ],
        files: OPERATION,
    },
    Group {
        subject: "What others do with the origin and its filesystem meanwhile: limits, freezes, mounts, namespaces, exercisers",
        see: &[see(
            "what a tracked origin must have in common with an untracked one",
            "decisions/0034-a-tracked-origin-is-as-an-untracked-one.md",
        )],
        files: SURROUNDINGS,
    },
    Group {
        subject: "Where Cowbird ends: as many snapshots as there can be, what is refused, and mistakes at the command line",
        see: &[],
        files: LIMITS,
    },
    Group {
        subject: "Snapshots and change maps that must outlive unmounts and the absence of the module, or end where they cannot",
        see: &[
            see(
                "what is kept and what is not",
                "decisions/0011-tracking-outlives-the-session.md",
            ),
            see(
                "what could fool change tracking, and why it cannot",
                "tracking-trust.md",
            ),
        ],
        files: PERSISTENCE,
    },
    Group {
        subject: "Errors of disks, killed tools, little memory, and devices that change under their snapshots",
        see: &[
            see(
                "what was seen, and what an operator does then",
                "reliability.md",
            ),
            see(
                "how faults are made",
                "decisions/0020-faults-are-made-in-the-guest.md",
            ),
        ],
        files: FAULTS,
    },
    Group {
        subject: "Tasks that sleep and disks that are slow or stop: what must go on beside them, and what must end",
        see: &[see(
            "how long everything may take",
            "decisions/0043-what-waits-and-for-how-long.md",
        )],
        files: STUCK,
    },
    Group {
        subject: "Machines that are powered off or lose their power",
        see: &[see(
            "what is kept and what is not",
            "decisions/0011-tracking-outlives-the-session.md",
        )],
        files: BOOTS,
    },
    Group {
        subject: "Origins that are larger than the memory for their maps, or mostly empty",
        see: &[see(
            "how maps are counted before they are asked for",
            "decisions/0037-maps-are-counted-before-they-are-asked-for.md",
        )],
        files: LARGE,
    },
    Group {
        subject: "The root volume, which is in use before the tools are",
        see: &[
            see("the boot hooks", "../dist/README.md"),
            see(
                "a root volume in the guest",
                "decisions/0027-a-root-volume-in-the-guest.md",
            ),
        ],
        files: ROOT,
    },
    Group {
        subject: "Kinds of disks: whole ones, their buses, and the sizes of their logical blocks",
        see: &[],
        files: DISKS,
    },
    Group {
        subject: "Origins that are stacked on other devices",
        see: &[see(
            "how the truth of a stacked origin is found",
            "decisions/0013-the-truth-of-stacked-origins.md",
        )],
        files: STACKED,
    },
    Group {
        subject: "Filesystems other than an ext4 with its own COW file, and everything that changes their files",
        see: &[],
        files: FILESYSTEMS,
    },
    Group {
        subject: "Programs that keep their own data, and judge what is restored",
        see: &[see(
            "how restored databases are judged",
            "decisions/0025-databases-are-asked-themselves.md",
        )],
        files: APPLICATIONS,
    },
    Group {
        subject: "Long loads: power cuts by the hundred, and snapshots that come and go at random",
        see: &[see(
            "how power cuts are tried on a witness",
            "decisions/0012-power-cuts-on-the-witness.md",
        )],
        files: ENDURANCE,
    },
    Group {
        subject: "What the tracer records even when nobody asks for it",
        see: &[see(
            "how trace, witness and journal are compared",
            "decisions/0019-trace-witness-and-journal.md",
        )],
        files: TRACING,
    },
    Group {
        subject: "What is written to an origin from above, through other devices",
        see: &[
            see(
                "what a topology is",
                "decisions/0040-topologies-are-data.md",
            ),
            see(
                "how many cuts are judged",
                "decisions/0041-many-cuts-by-their-maps.md",
            ),
        ],
        files: TOPOLOGIES,
    },
];

/// The cases that tiers have. The order is that of the results.
static ALL: LazyLock<Vec<CaseInfo>> = LazyLock::new(|| {
    let files = GROUPS.iter().flat_map(|group| group.files);
    files.copied().flatten().copied().collect()
});

/// The case of a recorded workload, which tiers do not have.
static RECORDED: CaseInfo = recorded::CASE;

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
        .chain([&RECORDED])
        .find(|case| case.name == cowbird_cases::former::current(name))
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
        for (first, now) in cowbird_cases::former::renamed() {
            assert!(names.insert(first), "{first} is there twice");
            assert_eq!(find(first).expect(first).name, now);
        }
        assert_eq!(ALL[0].name, REGRESSIONS);
    }
}
