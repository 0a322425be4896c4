//! Kinds of disks: whole ones, their buses, and the sizes of their logical blocks.

use cowbird_vm::disks::Bus;

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "whole-disk",
        "a whole disk that is written through its partitions, COW file on one of them",
        CaseTier::Daily,
        &GUEST_MODULES,
        whole_disk::layout,
        |driver, setting| Box::pin(whole_disk::act(driver, setting)),
    ),
    case(
        "scsi",
        "a partition of a SCSI disk",
        CaseTier::Daily,
        &modules(["virtio_scsi", "sd_mod"]),
        || raw_writers::layout_on(Bus::Scsi),
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "nvme",
        "a partition of an NVMe disk",
        CaseTier::Daily,
        &modules(["nvme"]),
        || raw_writers::layout_on(Bus::Nvme),
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "large-sectors",
        "a partition of a disk with logical blocks of 4096 bytes",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout_large_sectors,
        |driver, setting| Box::pin(raw_writers::act(driver, setting)),
    ),
    case(
        "mixed-sectors",
        "a COW file on a disk with larger logical blocks than the origin's",
        CaseTier::Daily,
        &GUEST_MODULES,
        mixed_sectors::layout,
        |driver, setting| Box::pin(mixed_sectors::act(driver, setting)),
    ),
    case(
        "mixed-sectors-reversed",
        "a COW file on a disk with smaller logical blocks than the origin's",
        CaseTier::Full,
        &GUEST_MODULES,
        mixed_sectors::layout_reversed,
        |driver, setting| Box::pin(mixed_sectors::act(driver, setting)),
    ),
    case(
        "read-across-errors",
        "an origin that cannot be read any more where its blocks are preserved, while its snapshot is copied",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        mixed_sectors::layout_errors,
        |driver, setting| Box::pin(mixed_sectors::act_errors(driver, setting)),
    ),
    case(
        "cow-read-errors",
        "a COW file that cannot be read while the snapshot is copied, and then can be read again",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        mixed_sectors::layout_errors,
        |driver, setting| Box::pin(mixed_sectors::act_cow_errors(driver, setting)),
    ),
];
