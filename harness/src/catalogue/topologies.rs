//! Cases that are made of topologies: what is written to an origin from above. They are last.

use cowbird_cases::throttled_set::Slow;
use cowbird_cases::topology::{
    ARRAY_ABOVE, ARRAY_PART, CRYPT, CRYPT_INLINE, DISK_ABOVE, LINEAR, LOOP_ON_FILE, MAPPED_ABOVE,
    RAID1, RAID5, STRIPED, SWAP, THIN, Topology, UNSEEN, VOLUME_ON_ARRAY,
};

use super::scope::*;

const fn of(
    name: &'static str,
    summary: &'static str,
    topology: &'static Topology,
    act: Act,
) -> CaseInfo {
    CaseInfo {
        topology: Some(topology),
        ..case(
            name,
            summary,
            CaseTier::Daily,
            topology.modules,
            || Layout::bare(0),
            act,
        )
    }
}

const fn writers(
    name: &'static str,
    summary: &'static str,
    topology: &'static Topology,
) -> CaseInfo {
    of(name, summary, topology, |driver, setting| {
        Box::pin(above::act(driver, setting))
    })
}

/// One that a run before a release has time for.
const fn rarely(case: CaseInfo) -> CaseInfo {
    CaseInfo {
        tier: CaseTier::Full,
        ..case
    }
}

pub(super) static CASES: &[CaseInfo] = &[
    writers(
        "writers-above",
        "a whole disk whose partition is written through a logical volume, with few requests and a slow disk",
        &LINEAR,
    ),
    rarely(writers(
        "writers-above-striped",
        "the same through a striped logical volume of two partitions of the origin",
        &STRIPED,
    )),
    rarely(writers(
        "writers-above-crypt",
        "the same through an encrypted device, whose threads submit",
        &CRYPT,
    )),
    rarely(writers(
        "writers-above-crypt-inline",
        "the same through an encrypted device without queues, where the writers submit",
        &CRYPT_INLINE,
    )),
    rarely(writers(
        "writers-above-thin",
        "the same through a thin volume, data and metadata of which are on the origin",
        &THIN,
    )),
    rarely(writers(
        "writers-above-raid1",
        "the same through a RAID 1 with a half on the origin",
        &RAID1,
    )),
    rarely(writers(
        "writers-above-raid5",
        "the same through a RAID 5 with two members on the origin",
        &RAID5,
    )),
    rarely(writers(
        "writers-above-loop",
        "the same through a loop device on a file of a filesystem on the origin",
        &LOOP_ON_FILE,
    )),
    rarely(writers(
        "writers-above-unseen",
        "the same to files of a filesystem that is mounted in another mount namespace only",
        &UNSEEN,
    )),
    rarely(writers(
        "swap-above",
        "a whole disk to a partition of which the kernel swaps",
        &SWAP,
    )),
    rarely(writers(
        "writers-above-disk",
        "a disk without partitions that is written through a logical volume on all of it",
        &DISK_ABOVE,
    )),
    rarely(writers(
        "writers-above-mapped",
        "a logical volume that is written through an encrypted device on it",
        &MAPPED_ABOVE,
    )),
    rarely(writers(
        "writers-above-array",
        "a RAID 1 that is written through a logical volume on it",
        &VOLUME_ON_ARRAY,
    )),
    rarely(writers(
        "array-partition-above",
        "a RAID 1 that is written through its partition",
        &ARRAY_ABOVE,
    )),
    rarely(writers(
        "array-partition",
        "the partition of a RAID 1",
        &ARRAY_PART,
    )),
    case(
        "sync-above",
        "a filesystem on a logical volume of the origin with very many dirty pages, all of them written back at once",
        CaseTier::Daily,
        &modules(["dm_mod"]),
        sync_above::layout,
        |driver, setting| Box::pin(sync_above::act(driver, setting, sync_above::MANY)),
    ),
    case(
        "sync-above-large",
        "the same with 2 GiB of dirty pages",
        CaseTier::Full,
        &modules(["dm_mod"]),
        sync_above::layout_large,
        |driver, setting| Box::pin(sync_above::act(driver, setting, sync_above::VERY_MANY)),
    ),
    case(
        "throttled-set",
        "delayed writes to one of two volumes, while the other one is slow to write its epoch header",
        CaseTier::Daily,
        &GUEST_MODULES,
        throttled_set::layout,
        |driver, setting| Box::pin(throttled_set::act(driver, setting, Slow::Mark)),
    ),
    case(
        "throttled-set-drain",
        "delayed writes to one of two volumes, while the other one is slow to come to rest",
        CaseTier::Full,
        &GUEST_MODULES,
        throttled_set::layout,
        |driver, setting| Box::pin(throttled_set::act(driver, setting, Slow::Drain)),
    ),
    case(
        "many-cuts-mapped",
        "instant after instant under writers on devices of device-mapper above the origin",
        CaseTier::Full,
        &modules(["dm_mod", "dm_crypt", "xts", "dm_thin_pool"]),
        many_cuts::layout,
        |driver, setting| Box::pin(many_cuts::act(driver, setting, &many_cuts::MAPPED)),
    ),
    case(
        "many-cuts-arrays",
        "the same with arrays, above the origin and below it",
        CaseTier::Full,
        &modules(["md_mod", "raid1", "raid456", "dm_mod"]),
        many_cuts::layout,
        |driver, setting| Box::pin(many_cuts::act(driver, setting, &many_cuts::ARRAYS)),
    ),
    case(
        "many-cuts-files",
        "the same with a loop device, a filesystem that the tools do not see, and swap",
        CaseTier::Full,
        &modules(["loop", "dm_mod"]),
        many_cuts::layout_files,
        |driver, setting| Box::pin(many_cuts::act(driver, setting, &many_cuts::FILES)),
    ),
];
