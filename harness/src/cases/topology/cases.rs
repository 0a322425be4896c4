//! The cases that are made of topologies.

use super::{
    ARRAY_ABOVE, ARRAY_PART, CRYPT, CRYPT_INLINE, LINEAR, LOOP_ON_FILE, RAID1, RAID5, STRIPED,
    SWAP, THIN, Topology, UNSEEN,
};
use crate::cases::{Act, CaseInfo, CaseTier, Layout, above, case};

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

/// In the order of the results.
pub(in crate::cases) static CASES: [CaseInfo; 12] = [
    writers(
        "writers-above",
        "a whole disk whose partition is written through a logical volume, with few requests and a slow disk",
        &LINEAR,
    ),
    writers(
        "writers-above-striped",
        "the same through a striped logical volume of two partitions of the origin",
        &STRIPED,
    ),
    writers(
        "writers-above-crypt",
        "the same through an encrypted device, whose threads submit",
        &CRYPT,
    ),
    writers(
        "writers-above-crypt-inline",
        "the same through an encrypted device without queues, where the writers submit",
        &CRYPT_INLINE,
    ),
    writers(
        "writers-above-thin",
        "the same through a thin volume, data and metadata of which are on the origin",
        &THIN,
    ),
    writers(
        "writers-above-raid1",
        "the same through a RAID 1 with a half on the origin",
        &RAID1,
    ),
    writers(
        "writers-above-raid5",
        "the same through a RAID 5 with two members on the origin",
        &RAID5,
    ),
    writers(
        "writers-above-loop",
        "the same through a loop device on a file of a filesystem on the origin",
        &LOOP_ON_FILE,
    ),
    writers(
        "writers-above-unseen",
        "the same to files of a filesystem that is mounted in another mount namespace only",
        &UNSEEN,
    ),
    writers(
        "swap-above",
        "a whole disk to a partition of which the kernel swaps",
        &SWAP,
    ),
    writers(
        "array-partition-above",
        "a RAID 1 that is written through its partition",
        &ARRAY_ABOVE,
    ),
    writers("array-partition", "the partition of a RAID 1", &ARRAY_PART),
];
