//! Where Cowbird ends: as many snapshots as there can be, what is refused, and mistakes at the command line.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    CaseInfo {
        programs: many_snapshots::PROGRAMS,
        ..case(
            "many-snapshots",
            "as many snapshots at once as there are numbers, and their filesystem unmounted under them",
            CaseTier::Full,
            &modules(["dm_mod"]),
            many_snapshots::layout,
            |driver, setting| Box::pin(many_snapshots::act(driver, setting)),
        )
    },
    case(
        "refusals",
        "btrfs, ZFS, a zoned device and one with DAX are refused",
        CaseTier::Daily,
        &modules(["btrfs", "null_blk", "nd_e820", "nd_pmem"]),
        refusals::layout,
        |driver, setting| Box::pin(refusals::act(driver, setting)),
    ),
    case(
        "no-answer",
        "a device that blocks whoever opens it, and snapshots of the one below it",
        CaseTier::Daily,
        &modules(["loop", "dm_mod", "dm_delay"]),
        raw_writers::layout,
        |driver, setting| Box::pin(refusals::act_no_answer(driver, setting)),
    ),
    CaseInfo {
        programs: mishaps::PROGRAMS,
        ..case(
            "mishaps",
            "mistakes at the command line: odd names, images onto what is in use, records that are none, no fallocate",
            CaseTier::Daily,
            &modules(["loop", "md_mod", "raid456"]),
            mishaps::layout,
            |driver, setting| Box::pin(mishaps::act(driver, setting)),
        )
    },
    CaseInfo {
        programs: mishaps::XFS_PROGRAMS,
        ..case(
            "cow-elsewhere",
            "a COW file on the realtime device of an xfs is refused, and nothing is damaged",
            CaseTier::Daily,
            &modules(["xfs"]),
            mishaps::layout_elsewhere,
            |driver, setting| Box::pin(mishaps::act_elsewhere(driver, setting)),
        )
    },
];
