//! Writers above the origin: on a logical volume, an array or a filesystem of it, while snapshots of what is below are
//! taken. A write that has been submitted above is on its way through several devices, and may wait on any of them:
//! for a request of the disk, in a list of the task that submits it, in a queue of another thread. At each instant
//! the disk is slow and has few requests, so that many writes wait; then it is fast again, and the snapshot is copied
//! while the writers go on. Every image and every change map is compared with the witness of the disk.

use std::time::Duration;

use cowbird_checks::change_map::ChangeMap;
use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::soak::{SoakEvidence, SoakVolume};
use cowbird_host::background::in_background;
use cowbird_host::disk;
use cowbird_host::error::HarnessError;
use cowbird_model::{BlockSet, MarkerKey};
use cowbird_proto::message::{
    Request, StackKind, StreamTarget, StreamsSpec, SwapperSpec, WorkloadSpec,
};
use cowbird_proto::sector::SECTOR_BYTES;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Throttle, Workload, vacuous,
};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseInfo, CaseTier, case};
use crate::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use crate::stacked::UNCOUNTED;
use crate::subject::{CasesOf, Subject};
use crate::topology;
use crate::topology::{Above, BESIDE, NESTED, Topology};

/// The cases of one topology each. Most are for a run before a release.
pub static CASES: CasesOf = CasesOf {
    subject: Subject::Above,
    cases: &[
        writers(
            "writers-above",
            "a whole disk whose partition is written through a logical volume, with few requests and a slow disk",
            &topology::LINEAR,
        ),
        rarely(writers(
            "writers-above-striped",
            "the same through a striped logical volume of two partitions of the origin",
            &topology::STRIPED,
        )),
        rarely(writers(
            "writers-above-crypt",
            "the same through an encrypted device, whose threads submit",
            &topology::CRYPT,
        )),
        rarely(writers(
            "writers-above-crypt-inline",
            "the same through an encrypted device without queues, where the writers submit",
            &topology::CRYPT_INLINE,
        )),
        rarely(writers(
            "writers-above-thin",
            "the same through a thin volume, data and metadata of which are on the origin",
            &topology::THIN,
        )),
        rarely(writers(
            "writers-above-raid1",
            "the same through a RAID 1 with a half on the origin",
            &topology::RAID1,
        )),
        rarely(writers(
            "writers-above-raid5",
            "the same through a RAID 5 with two members on the origin",
            &topology::RAID5,
        )),
        rarely(writers(
            "writers-above-loop",
            "the same through a loop device on a file of a filesystem on the origin",
            &topology::LOOP_ON_FILE,
        )),
        rarely(writers(
            "writers-above-unseen",
            "the same to files of a filesystem that is mounted in another mount namespace only",
            &topology::UNSEEN,
        )),
        rarely(writers(
            "swap-above",
            "a whole disk to a partition of which the kernel swaps",
            &topology::SWAP,
        )),
        rarely(writers(
            "writers-above-disk",
            "a disk without partitions that is written through a logical volume on all of it",
            &topology::DISK_ABOVE,
        )),
        rarely(writers(
            "writers-above-mapped",
            "a logical volume that is written through an encrypted device on it",
            &topology::MAPPED_ABOVE,
        )),
        rarely(writers(
            "writers-above-array",
            "a RAID 1 that is written through a logical volume on it",
            &topology::VOLUME_ON_ARRAY,
        )),
        rarely(writers(
            "array-partition-above",
            "a RAID 1 that is written through its partition",
            &topology::ARRAY_ABOVE,
        )),
        rarely(writers(
            "array-partition",
            "the partition of a RAID 1",
            &topology::ARRAY_PART,
        )),
    ],
};

/// A case that is made of a topology.
const fn writers(
    name: &'static str,
    summary: &'static str,
    topology: &'static Topology,
) -> CaseInfo {
    CaseInfo {
        topology: Some(topology),
        ..case(
            name,
            summary,
            CaseTier::Daily,
            topology.modules,
            || Layout::raw_without_cow(0),
            |guest, context| Box::pin(act(guest, context)),
        )
        .making(&[Fault::SlowDisk])
    }
}

/// One that a run before a release has time for.
const fn rarely(case: CaseInfo) -> CaseInfo {
    CaseInfo {
        tier: CaseTier::Full,
        ..case
    }
}

/// The first disk, as the guest names it, and as the machine counts it.
const DISK_INDEX: usize = 0;

/// More than the disk has requests, by far; each writes more than a request holds.
pub(super) const WRITERS: u32 = 24;
pub(super) const WRITE_BYTES: u32 = 1 << 20;

/// All that the writers write to, and more.
const COW_MIB: u32 = 40;

/// Snapshot instants in one boot: one when a series begins, the others of its transitions.
const CUTS: u32 = 3;

/// Written before the first instant, and before each: while the disk is slow, the writers then fill its queue.
const WARM_UP_BYTES: u64 = 8 << 20;
const BYTES_BEFORE: u64 = 4 << 20;

/// Written while a snapshot is active and is not copied yet.
const BYTES_AFTER: u64 = 4 << 20;

/// What the process that swaps may have of what it writes to, MiB; it writes in smaller pieces, and waits for reads.
const SWAPPED_MIB: u32 = 28;
const SWAP_LIMIT_MIB: u32 = 10;

/// Time for each of them.
const WRITE_LIMIT: Duration = Duration::from_secs(90);

/// From this kernel on an array counts what it has in flight.
const ARRAYS_COUNT: (u32, u32) = (5, 14);

/// How a kernel says that a device-mapper target or a RAID level is not there, or does not know what it is asked for.
const EINVAL: i32 = 22;

/// What the case is made of.
fn topology(context: &CaseContext) -> CaseResult<&'static Topology> {
    context.topology.ok_or_else(|| {
        let detail = "the case has no topology".to_owned();
        HarnessError::Plan { detail }.into()
    })
}

/// Plays the case of a topology.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let topology = topology(context)?;
    guest.phase("setup");
    guest.mount(BESIDE, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    build(guest, topology).await?;
    let mut load = Load::start(guest, context, topology, WRITE_BYTES.into(), WRITE_BYTES).await?;
    load.wait(guest, WARM_UP_BYTES).await?;

    let mut volume = volume(context, topology);
    for cut in 1..=context.cuts.unwrap_or(CUTS) {
        guest.phase("cut");
        let (marker, map) = take(guest, topology, &mut load, cut).await?;
        volume.maps.extend(map);
        if cut == 1
            && let Some(offset) = topology.origin.cow_home_at(&context.layout)
        {
            volume.own = guest.own_blocks_at(spec(topology), offset).await?;
        }
        guest.phase("copy");
        load.wait(guest, BYTES_AFTER).await?;
        guest.copy_device(SNAPSHOT, IMAGE).await?;
        if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
            return Err(vacuous("nothing was overwritten under a snapshot"));
        }
        volume.images.push(marker);
        let (files, number) = (guest.files().clone(), volume.images.len());
        in_background(move || disk::copy_sparse(&files.image(), &files.kept_image(0, number)))
            .await?;
        guest.transition_to_incremental(MINOR).await?;
    }

    guest.phase("teardown");
    guest.stop_workload(&load.workload).await?;
    guest.destroy_snapshot(MINOR).await?;
    take_down(guest, topology).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    let volumes = vec![volume];
    Ok(Evidence::of(Claim::Soak(SoakEvidence { volumes })))
}

/// One instant while the disk is slow and the writers wait for it; but for the first of a series, with the changes that
/// lead to it.
async fn take(
    guest: &mut GuestSession<'_, '_>,
    topology: &Topology,
    load: &mut Load,
    cut: u32,
) -> CaseResult<(MarkerKey, Option<ChangeMap>)> {
    slow_down(guest, topology.throttle).await?;
    load.wait(guest, BYTES_BEFORE).await?;
    let marker = match cut {
        1 => set_up(guest, topology).await?,
        _ => guest.transition_to_snapshot(MINOR).await?,
    };
    slow_down(guest, Throttle::NONE).await?;
    let map = match cut {
        1 => None,
        _ => Some(guest.changes(MINOR).await?),
    };
    Ok((marker, map))
}

/// Whether the kernel cannot say when the origin is at rest.
pub(super) fn cannot_be(guest: &GuestSession<'_, '_>, topology: &Topology) -> bool {
    topology.origin.is_partitioned() && guest.kernel_is_before(ARRAYS_COUNT)
}

/// The first snapshot of a series.
pub async fn set_up(
    guest: &mut GuestSession<'_, '_>,
    topology: &Topology,
) -> CaseResult<MarkerKey> {
    match guest.setup_snapshot(spec(topology)).await {
        Err(CaseError::Failed(reason))
            if cannot_be(guest, topology) && reason.contains(UNCOUNTED) =>
        {
            Err(CaseError::Unsupported(reason))
        }
        end => end,
    }
}

/// The disk is so slow from now on.
pub async fn slow_down(guest: &mut GuestSession<'_, '_>, throttle: Throttle) -> CaseResult<()> {
    guest.throttle(DISK_INDEX, throttle).await
}

/// The snapshot that is taken of the origin of a topology.
pub const fn spec(topology: &Topology) -> SnapshotSpec {
    snapshot_of(topology.origin.path(), COW_MIB)
}

/// What is judged: nothing yet.
pub fn volume(context: &CaseContext, topology: &Topology) -> SoakVolume {
    SoakVolume {
        name: topology.name,
        second_disk: false,
        origin: topology.origin.range(&context.layout),
        filesystem: false,
        own: BlockSet::new(),
        kept: 0,
        at_byte: 0,
        images: Vec::new(),
        maps: Vec::new(),
        restored: false,
    }
}

/// Stacks the devices, then makes requests scarce: what is above does not know of it, and sends long ones down.
pub async fn build(guest: &mut GuestSession<'_, '_>, topology: &Topology) -> CaseResult<()> {
    if let Some((kind, below)) = topology.origin.below() {
        let path = guest.stack(below, kind).await?;
        if topology.origin.is_partitioned() {
            partition(guest, path).await?;
        }
    }
    if let Some((mount, file)) = topology.above.file() {
        // A loop device writes to a file of a frozen filesystem, and an update of its times makes ext4 complain then.
        guest.mount(ORIGIN, mount, "lazytime").await?;
        guest.stack(&[file.as_str()], StackKind::Loop).await?;
    }
    if let Above::Stack { kind, below, path } = topology.above {
        let stacked = stack(guest, kind, below).await?;
        if stacked != path {
            return Err(CaseError::Failed(format!("{stacked} instead of {path}")));
        }
    }
    let disk = topology.origin.queue_of();
    guest.set_queue(disk, topology.queue).await
}

/// Makes one partition on an array.
async fn partition(guest: &mut GuestSession<'_, '_>, array: String) -> CaseResult<()> {
    let request = Request::WriteDirect {
        path: array.clone(),
        offset: 0,
        content: disk::mbr(&[NESTED], SECTOR_BYTES as u32)?.to_vec(),
    };
    guest.prepare(request).await?;
    let request = Request::ReadPartitions { disk: array };
    guest.prepare(request).await.map(|_| ())
}

/// A kernel may have a driver without all that it is asked for here.
async fn stack(
    guest: &mut GuestSession<'_, '_>,
    kind: StackKind,
    below: &[&str],
) -> CaseResult<String> {
    let request = Request::Stack {
        devices: below.iter().map(ToString::to_string).collect(),
        kind,
    };
    match guest.try_request(request).await? {
        Ok(cowbird_proto::message::Reply::Text(path)) => Ok(path),
        Ok(reply) => Err(CaseError::Failed(format!("{reply:?} instead of a path"))),
        Err(error) if error.errno == Some(EINVAL) => Err(CaseError::Unsupported(format!(
            "this kernel has no {kind:?}: {error}"
        ))),
        Err(error) => {
            let detail = format!("the guest cannot be prepared: {error}");
            Err(HarnessError::Plan { detail }.into())
        }
    }
}

pub(super) async fn take_down(
    guest: &mut GuestSession<'_, '_>,
    topology: &Topology,
) -> CaseResult<()> {
    if let Above::Stack { kind, .. } = topology.above {
        guest.unstack(kind).await?;
    }
    if let Some((mount, _)) = topology.above.file() {
        guest.unstack(StackKind::Loop).await?;
        guest.unmount(mount).await?;
    }
    if let Some((kind, _)) = topology.origin.below() {
        guest.unstack(kind).await?;
    }
    Ok(())
}

/// Who writes, and how far they are.
pub(super) struct Load {
    pub workload: Workload,
    written: u64,
    /// So many times less than elsewhere is enough of it.
    costs: u64,
}

impl Load {
    pub async fn start(
        guest: &mut GuestSession<'_, '_>,
        context: &CaseContext,
        topology: &Topology,
        stretch_bytes: u64,
        write_bytes: u32,
    ) -> CaseResult<Self> {
        let streams = |target| {
            WorkloadSpec::Streams(StreamsSpec {
                target,
                seed: context.seed,
                writers: WRITERS,
                write_bytes,
                stretch_bytes,
            })
        };
        let spec = match (topology.above, topology.above.devices()) {
            (Above::Swap, _) => WorkloadSpec::Swapper(SwapperSpec {
                device: ORIGIN.to_owned(),
                seed: context.seed,
                used_mib: SWAPPED_MIB,
                limit_mib: SWAP_LIMIT_MIB,
            }),
            (_, Some(devices)) => streams(StreamTarget::Devices(devices)),
            (_, None) => streams(StreamTarget::Unseen {
                device: ORIGIN.to_owned(),
                fstype: "ext4".to_owned(),
            }),
        };
        Ok(Self {
            workload: guest.start_workload(spec).await?,
            written: 0,
            costs: topology.costs,
        })
    }

    /// Waits until so much more is written.
    pub async fn wait(&mut self, guest: &mut GuestSession<'_, '_>, bytes: u64) -> CaseResult<()> {
        // What was written since the last look does not count.
        self.written = guest.workload(&self.workload).await?.bytes_written;
        guest
            .wait_for_more(
                &self.workload,
                &mut self.written,
                bytes / self.costs,
                WRITE_LIMIT,
            )
            .await
    }
}
