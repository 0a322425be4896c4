//! Filesystems other than the ext4 of `plain.rs`, and everything that changes their files.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    case(
        "ext2-churn",
        "ext2, served by the ext4 driver, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        fs_churn::layout_ext2,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "ext3-churn",
        "ext3, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &GUEST_MODULES,
        fs_churn::layout_ext3,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "xfs-churn",
        "xfs that holds its own COW file",
        CaseTier::Daily,
        &modules(["xfs"]),
        fs_churn::layout_xfs,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
    case(
        "ext4-mix",
        "ext4 and everything that changes files; the restored filesystem is mounted, read and checked",
        CaseTier::Daily,
        &GUEST_MODULES,
        fs_churn::layout_ext4,
        |driver, setting| Box::pin(fs_churn::act_mix(driver, setting)),
    ),
    case(
        "xfs-mix",
        "the same on xfs, with files that share blocks",
        CaseTier::Daily,
        &modules(["xfs"]),
        fs_churn::layout_xfs,
        |driver, setting| Box::pin(fs_churn::act_mix(driver, setting)),
    ),
    case(
        "f2fs-churn",
        "f2fs, beside a mounted ext4 with the COW file",
        CaseTier::Daily,
        &modules(["f2fs"]),
        fs_churn::layout_f2fs,
        |driver, setting| Box::pin(fs_churn::act(driver, setting)),
    ),
];
