//! Origins that are stacked on other devices. What is stacked above an origin is in `topologies.rs`.

use cowbird_proto::message::StackKind;

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "dm-linear",
        "a device-mapper device, which works on bios and has no queue to freeze",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        raw_writers::layout,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Linear)),
    ),
    case(
        "dm-two-pieces",
        "a logical volume of two pieces that meet inside a block",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        raw_writers::layout,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::TwoPieces)),
    ),
    case(
        "dm-crypt",
        "an encrypted device; the truth is what the witness saw, decrypted",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_crypt", "xts"]),
        stacked::layout_crypt,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Crypt)),
    ),
    case(
        "dm-thin",
        "a thin volume",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_thin_pool"]),
        stacked::layout_thin,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Thin)),
    ),
    case(
        "md-raid1",
        "a RAID 1 of two disks, both with a witness",
        CaseTier::Daily,
        &modules(["md_mod", "raid1"]),
        stacked::layout_mirror,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Mirror)),
    ),
    case(
        "loop",
        "a loop device with direct I/O on a partition",
        CaseTier::Daily,
        &modules(["loop"]),
        raw_writers::layout,
        |driver, setting| Box::pin(stacked::act(driver, setting, StackKind::Loop)),
    ),
];
