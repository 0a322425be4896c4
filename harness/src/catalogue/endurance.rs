//! Long loads: power cuts by the hundred, and snapshots that come and go at random.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "ext4-power-cuts",
        "a series on a busy ext4, and a hundred power cuts that are tried on its witness",
        CaseTier::Daily,
        &GUEST_MODULES,
        power_cuts::layout_ext4,
        |driver, setting| Box::pin(power_cuts::act(driver, setting)),
    ),
    case(
        "xfs-power-cuts",
        "a series on a busy xfs, and a hundred power cuts that are tried on its witness",
        CaseTier::Daily,
        &modules(["xfs"]),
        power_cuts::layout_xfs,
        |driver, setting| Box::pin(power_cuts::act(driver, setting)),
    ),
    case(
        "soak",
        "a long mixed load with snapshots taken, copied, transitioned and destroyed at random",
        CaseTier::Full,
        &GUEST_MODULES,
        soak::layout,
        |driver, setting| Box::pin(soak::act(driver, setting)),
    ),
];
