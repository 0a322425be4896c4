//! Origins that are larger than the memory for their maps, or mostly empty.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "large-origin",
        "an origin of 2 TiB that is mostly empty, its COW file far away, through boots and a power cut",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_large,
        |driver, setting| Box::pin(large::large(driver, setting)),
    ),
    case(
        "huge-origin",
        "as large-origin, with 20 TiB",
        CaseTier::Full,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_huge_20,
        |driver, setting| Box::pin(large::huge_20(driver, setting)),
    ),
    case(
        "huge-origin-64",
        "as large-origin, with 64 TiB",
        CaseTier::Full,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_huge_64,
        |driver, setting| Box::pin(large::huge_64(driver, setting)),
    ),
    case(
        "large-little-memory",
        "an origin of 6 TiB, whose maps a machine of 256 MiB cannot have",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        large::layout_too_large,
        |driver, setting| Box::pin(large::too_large(driver, setting)),
    ),
    case(
        "small-neighbour",
        "a writer on a disk of 2 TiB, and a small filesystem beside it that is unmounted again and again",
        CaseTier::Daily,
        &GUEST_MODULES,
        large::layout_neighbour,
        |driver, setting| Box::pin(large::neighbour(driver, setting)),
    ),
];
