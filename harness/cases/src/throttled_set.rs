//! Snapshots of two volumes at one instant, of which the second is slow to come to rest or slow to write its epoch
//! header, while writes to the first that a cgroup's limit delays go on to leave that limit. What leaves it when the
//! first volume has come to rest already, and before its epoch begins, must be held as any other write. The snapshots
//! must be right, and so must the map of the first volume.

use std::time::Duration;

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::soak::{SoakEvidence, SoakVolume};
use cowbird_host::background::in_background;
use cowbird_host::disk;
use cowbird_host::nature::FurtherDisk;
use cowbird_model::BlockSet;
use cowbird_proto::message::{StreamTarget, StreamsSpec, ThrottledSpec, WorkloadSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec, Throttle, Workload, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{COW_MOUNT, IMAGE, SNAPSHOT};
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Above.cases(&[
    case(
        "throttled-set",
        "delayed writes to one of two volumes, while the other one is slow to write its epoch header",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Slow::Mark)),
    )
    .making(&[Fault::SlowDisk, Fault::LimitedGroup]),
    case(
        "throttled-set-drain",
        "delayed writes to one of two volumes, while the other one is slow to come to rest",
        CaseTier::Full,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context, Slow::Drain)),
    )
    .making(&[Fault::SlowDisk, Fault::LimitedGroup]),
]);

/// What keeps the second volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// Its writes in flight take long.
    Drain,
    /// The write of its epoch header takes long.
    Mark,
}

/// 8 MiB and five sectors.
const ORIGIN_SECTORS: u32 = 8 * MIB_SECTORS + 5;

const COW_HOME_MIB: u32 = 32;
const COW_MIB: u32 = 12;

/// The second disk, and how the machine counts it.
const SECOND: &str = "/dev/vdc1";
const SECOND_DISK_INDEX: usize = 2;
const SECOND_COW_HOME: &str = "/dev/vdc2";
const SECOND_COW_MOUNT: &str = "/mnt/cow2";
const SECOND_SNAPSHOT: &str = "/dev/cowbird1";
const SECOND_IMAGE: &str = "/dev/vdd";

/// Writes to the first volume, submitted at once: they leave their limit three in a second, for ten seconds.
const BLOCKS: u32 = 32;
const BYTES_PER_SECOND: u64 = 12 << 10;

/// Time until they are submitted, and until they are done.
const LIMIT: Duration = Duration::from_secs(90);

/// Writers on the second volume: with the disk as slow as it then is, their writes take about two seconds.
const WRITERS: u32 = 8;
const WRITE_BYTES: u32 = 256 << 10;
const WARM_UP_BYTES: u64 = 4 << 20;
const SLOW_DISK: Throttle = Throttle {
    operations_per_second: 0,
    bytes_per_second: 1 << 20,
};

/// With this each write takes a second, that of the header too.
const SLOWEST_DISK: Throttle = Throttle {
    operations_per_second: 1,
    bytes_per_second: 0,
};

const FIRST_SPEC: SnapshotSpec = spec("/dev/vda1", "/mnt/cow/first.cow", 0);
const SECOND_SPEC: SnapshotSpec = spec(SECOND, "/mnt/cow2/second.cow", 1);
const MINORS: [u32; 2] = [0, 1];

const fn spec(origin: &'static str, cow_file: &'static str, minor: u32) -> SnapshotSpec {
    SnapshotSpec {
        origin,
        cow_file,
        cow_mib: COW_MIB,
        cache_mib: 4,
        minor,
    }
}

/// The disks of `throttled-set` and `throttled-set-drain`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `throttled-set` and `throttled-set-drain`.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    slow: Slow,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.mount(SECOND_COW_HOME, SECOND_COW_MOUNT, "").await?;
    guest.setup_snapshots(&[FIRST_SPEC, SECOND_SPEC]).await?;
    for minor in MINORS {
        guest.transition_to_incremental(minor).await?;
    }
    let streams = match slow {
        Slow::Drain => Some(start_streams(guest, context).await?),
        Slow::Mark => None,
    };
    let delayed = WorkloadSpec::Throttled(ThrottledSpec {
        device: context.origin().into(),
        disk: context.disk_name().into(),
        seed: context.seed,
        blocks: BLOCKS,
        bytes_per_second: BYTES_PER_SECOND,
    });
    let delayed = guest.start_workload(delayed).await?;
    guest
        .wait_until(&delayed, "all writes are submitted", LIMIT, |state| {
            state.operations > 0
        })
        .await?;

    guest.phase("snapshot");
    let throttle = match slow {
        Slow::Drain => SLOW_DISK,
        Slow::Mark => SLOWEST_DISK,
    };
    guest.throttle(SECOND_DISK_INDEX, throttle).await?;
    let taken = guest.transition_to_snapshots(&MINORS).await;
    if guest.workload(&delayed).await?.finished {
        return Err(vacuous("all writes were done before the snapshots"));
    }
    guest.throttle(SECOND_DISK_INDEX, Throttle::NONE).await?;
    let markers = taken?;

    guest.phase("overwrite");
    guest
        .wait_until(&delayed, "all writes are done", LIMIT, |state| {
            state.finished
        })
        .await?;
    guest.stop_workload(&delayed).await?;

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, IMAGE).await?;
    guest.copy_device(SECOND_SNAPSHOT, SECOND_IMAGE).await?;
    if let Some(streams) = &streams {
        guest.stop_workload(streams).await?;
    }
    let mut volumes = Vec::new();
    for (volume, minor) in MINORS.into_iter().enumerate() {
        guest.active_snapshot(minor).await?;
        volumes.push(SoakVolume {
            name: ["first volume", "second volume"][volume],
            second_disk: volume == 1,
            origin: context.origin_range(),
            filesystem: false,
            own: BlockSet::new(),
            kept: volume,
            at_byte: 0,
            images: vec![markers[volume]],
            maps: vec![guest.changes(minor).await?],
            restored: false,
        });
    }
    let files = guest.files().clone();
    in_background(move || {
        disk::copy_sparse(&files.image(), &files.kept_image(0, 1))?;
        disk::copy_sparse(&files.second().image(), &files.kept_image(1, 1))
    })
    .await?;
    tear_down(guest).await?;
    Ok(Evidence::of(Claim::Soak(SoakEvidence { volumes })))
}

/// Writers on the second volume, who have begun.
async fn start_streams(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Workload> {
    let streams = WorkloadSpec::Streams(StreamsSpec {
        target: StreamTarget::Devices(vec![SECOND.into()]),
        seed: context.seed,
        writers: WRITERS,
        write_bytes: WRITE_BYTES,
        stretch_bytes: u64::from(WRITE_BYTES) * 4,
    });
    let streams = guest.start_workload(streams).await?;
    let mut written = 0;
    guest
        .wait_for_more(&streams, &mut written, WARM_UP_BYTES, LIMIT)
        .await?;
    Ok(streams)
}

async fn tear_down(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    for minor in MINORS {
        guest.destroy_snapshot(minor).await?;
    }
    guest.unmount(SECOND_COW_MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}
