//! What an operator does with snapshots while they are written to: series, sets, bounds, room for the COW file.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "series",
        "a series switched from snapshot to snapshot under writers on the same few blocks",
        CaseTier::Daily,
        &GUEST_MODULES,
        series::layout,
        |driver, setting| Box::pin(series::act(driver, setting)),
    ),
    case(
        "two-volumes",
        "snapshots of two disks and a filesystem at one instant, again and again",
        CaseTier::Daily,
        &GUEST_MODULES,
        two_volumes::layout,
        |driver, setting| Box::pin(two_volumes::act(driver, setting)),
    ),
    case(
        "reconfigure",
        "a snapshot whose memory for preserved blocks is bounded anew under writers",
        CaseTier::Daily,
        &GUEST_MODULES,
        reconfigure::layout,
        |driver, setting| Box::pin(reconfigure::act(driver, setting)),
    ),
    case(
        "expand",
        "a COW file that is expanded twice under writers, and needs it",
        CaseTier::Daily,
        &GUEST_MODULES,
        expand::layout,
        |driver, setting| Box::pin(expand::act(driver, setting)),
    ),
    case(
        "auto-expand",
        "a COW file that the tool expands by itself before it is full",
        CaseTier::Daily,
        &GUEST_MODULES,
        expand::layout_auto,
        |driver, setting| Box::pin(expand::act_auto(driver, setting)),
    ),
];
