//! What others do with the origin and its filesystem meanwhile: limits, freezes, mounts, namespaces, exercisers.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "throttled",
        "writes that a cgroup's limit delays across the snapshot instant",
        CaseTier::Daily,
        &GUEST_MODULES,
        throttled::layout,
        |driver, setting| Box::pin(throttled::act(driver, setting)),
    ),
    case(
        "frozen",
        "a filesystem that others have frozen when its snapshot is asked for",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_frozen(driver, setting)),
    ),
    case(
        "mounted-twice",
        "a filesystem that is mounted at two places",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_twice(driver, setting)),
    ),
    case(
        "remount",
        "a read-only filesystem that is unmounted and mounted, old and new way, under its snapshot",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_remount(driver, setting)),
    ),
    case(
        "frozen-home",
        "a filesystem that others have frozen and that is to hold the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        other_namespace::layout,
        |driver, setting| Box::pin(other_namespace::act_frozen_home(driver, setting)),
    ),
    case(
        "frozen-home-destroyed",
        "a snapshot that is destroyed while the filesystem of its COW file is frozen",
        CaseTier::Daily,
        &GUEST_MODULES,
        freezing::layout,
        |driver, setting| Box::pin(freezing::act_destroyed(driver, setting)),
    ),
    CaseInfo {
        programs: stale_cache::PROGRAMS,
        ..case(
            "other-namespace",
            "a filesystem that is mounted in another mount namespace only",
            CaseTier::Daily,
            &GUEST_MODULES,
            other_namespace::layout,
            |driver, setting| Box::pin(other_namespace::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: stale_cache::PROGRAMS,
        ..case(
            "stale-cache",
            "a tracked disk and an untracked one, with which the same things are done",
            CaseTier::Daily,
            &modules(["dm_mod", "loop", "md_mod", "raid1"]),
            stale_cache::layout,
            |driver, setting| Box::pin(stale_cache::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: exerciser::PROGRAMS,
        ..case(
            "exerciser",
            "a filesystem exerciser on a tracked disk and on an untracked one, with blocks of each size, and shutdowns",
            CaseTier::Daily,
            &modules(["dm_mod", "dm_delay", "dm_flakey"]),
            exerciser::layout,
            |driver, setting| Box::pin(exerciser::act(driver, setting)),
        )
    },
];
