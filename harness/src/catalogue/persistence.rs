//! Snapshots and change maps that must outlive unmounts and the absence of the module, or end where they cannot.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "lazy-unmount",
        "unmounted lazily and in another mount namespace, and mounted again, while changes are tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::lazy_unmount(driver, setting)),
    ),
    case(
        "module-away",
        "a snapshot, then a change map, that go on after the module was unloaded and loaded",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::away(driver, setting)),
    ),
    case(
        "written-meanwhile",
        "a volume that somebody writes to while the module is away",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::written_meanwhile(driver, setting)),
    ),
    case(
        "boot-loader-writes",
        "a boot in which GRUB writes to its environment block",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(boot_loader::act(driver, setting)),
    ),
    case(
        "refused-for-good",
        "a reload that came too late, and another one in the next boot",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(not_taken_up::refused_for_good(driver, setting)),
    ),
    case(
        "recorded-otherwise",
        "records of another series, and of another partition",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(not_taken_up::recorded_otherwise(driver, setting)),
    ),
    case(
        "deleted-while-away",
        "a suspended snapshot whose COW file is deleted",
        CaseTier::Daily,
        &GUEST_MODULES,
        not_taken_up::layout_beside,
        |driver, setting| Box::pin(not_taken_up::deleted_while_away(driver, setting)),
    ),
    CaseInfo {
        programs: faults::damaged::PROGRAMS,
        ..case(
            "preserved-damaged",
            "suspended snapshots whose preserved blocks the COW file's disk has not kept",
            CaseTier::Daily,
            &GUEST_MODULES,
            faults::layout,
            |driver, setting| Box::pin(faults::damaged::preserved_blocks(driver, setting)),
        )
    },
    case(
        "cow-replaced",
        "a COW file that is replaced by a copy of it while it is not held",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::cow_replaced(driver, setting)),
    ),
    case(
        "cow-full",
        "a COW file that becomes full while changes go on to be tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |driver, setting| Box::pin(persistence::cow_full(driver, setting)),
    ),
];
