//! Machines that are powered off or lose their power; the root volume, which is in use before the tools are.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "power-off",
        "a snapshot, then a change map, that go on after the machine was powered off and booted",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |driver, setting| Box::pin(boots::power_off(driver, setting)),
    ),
    case(
        "power-cut",
        "changes that go on to be tracked after the power was cut, twice",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |driver, setting| Box::pin(boots::power_cut(driver, setting)),
    ),
];

/// Those of the root volume.
pub(super) static OF_ROOT: &[CaseInfo] = &[
    case(
        "root-volume",
        "the root filesystem of a running system, through a reboot and a power cut with its boot hooks",
        CaseTier::Daily,
        &GUEST_MODULES,
        root_volume::layout,
        |driver, setting| Box::pin(root_volume::act(driver, setting)),
    ),
    case(
        "root-unhooked",
        "a root filesystem that is written to before the module is there, and copied anew",
        CaseTier::Daily,
        &GUEST_MODULES,
        root_volume::layout,
        |driver, setting| Box::pin(root_volume::act_unhooked(driver, setting)),
    ),
];
