//! Two volumes on two disks, and a mounted filesystem, whose snapshots are taken at one instant, again
//! and again. Writers write to both volumes in lockstep; each image is compared with the witness of its
//! own disk, and at every instant the two must fit together. Sets that cannot be taken are refused
//! as a whole.

use std::time::Duration;

use cowbird_checks::claim::{Claim, Evidence};
use cowbird_checks::image::ImageClaim;
use cowbird_checks::lockstep_writers::CommonInstants;
use cowbird_host::nature::FurtherDisk;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{LockstepWritersSpec, Request, WorkloadSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Workload, vacuous,
};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::names::{COW_MOUNT, SNAPSHOT};
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Operation.cases(&[case(
    "two-volumes",
    "snapshots of two disks and a filesystem at one instant, again and again",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::Frozen])]);

/// 8 MiB and five sectors.
const ORIGIN_SECTORS: u32 = 8 * MIB_SECTORS + 5;

/// The filesystems of the COW files.
const COW_HOME_MIB: u32 = 32;

/// The second disk, which is laid out as the first.
const SECOND: &str = "/dev/vdc1";
const SECOND_COW_HOME: &str = "/dev/vdc2";
const SECOND_COW_MOUNT: &str = "/mnt/cow2";
const SECOND_SNAPSHOT: &str = "/dev/cowbird1";
const SECOND_IMAGE: &str = "/dev/vdd";

/// A filesystem that is in every set, and has to be frozen.
const THIRD: &str = "/dev/vda3";
const THIRD_MOUNT: &str = "/mnt/third";

/// Threads, and blocks of each of them on both volumes.
const WRITERS: u32 = 6;
const SLOTS: u32 = 64;

/// Written before the first instant: each slot of each volume at least once, on average.
const WARM_UP_BYTES: u64 = 2 * (WRITERS * SLOTS * 4096) as u64;

/// Written between two instants.
const BYTES_BETWEEN: u64 = 256 << 10;

/// Time for each of them.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Switches from one set of snapshots to the next.
const SWITCHES: u32 = 6;

const MINORS: [u32; 3] = [0, 1, 2];

/// The disks of `two-volumes`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB).with_third(8)
    }
}

const fn spec(origin: &'static str, cow_file: &'static str, minor: u32) -> SnapshotSpec {
    SnapshotSpec {
        origin,
        cow_file,
        cow_mib: 6,
        cache_mib: 4,
        minor,
    }
}

const FIRST_SPEC: SnapshotSpec = spec("/dev/vda1", "/mnt/cow/first.cow", MINORS[0]);
const SECOND_SPEC: SnapshotSpec = spec(SECOND, "/mnt/cow2/second.cow", MINORS[1]);
const THIRD_SPEC: SnapshotSpec = spec(THIRD, "/mnt/cow2/third.cow", MINORS[2]);

/// Plays `two-volumes`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.mount(SECOND_COW_HOME, SECOND_COW_MOUNT, "").await?;
    guest.mount(THIRD, THIRD_MOUNT, "").await?;
    let lockstep = LockstepWritersSpec {
        devices: [context.origin().into(), SECOND.into()],
        seed: context.seed,
        writers: WRITERS,
        slots: SLOTS,
    };
    let writers = guest
        .start_workload(WorkloadSpec::LockstepWriters(lockstep.clone()))
        .await?;
    let mut written = 0;
    guest
        .wait_for_more(&writers, &mut written, WARM_UP_BYTES, WRITE_LIMIT)
        .await?;

    guest.phase("refuse");
    refuse_first(guest).await?;

    guest.phase("copy");
    let set = [FIRST_SPEC, SECOND_SPEC, THIRD_SPEC];
    let mut instants = vec![pair(&guest.setup_snapshots(&set).await?)];
    guest.copy_image(SNAPSHOT, context.image()).await?;
    guest.copy_image(SECOND_SNAPSHOT, SECOND_IMAGE).await?;

    guest.phase("switch");
    let mut maps = [Vec::new(), Vec::new()];
    for switch in 1..=SWITCHES {
        track(guest, switch == 1).await?;
        guest
            .wait_for_more(&writers, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
            .await?;
        if switch == 1 {
            refuse_next(guest).await?;
        }
        instants.push(pair(&guest.transition_to_snapshots(&MINORS).await?));
        for (maps, minor) in maps.iter_mut().zip(MINORS) {
            maps.push(guest.changes(minor).await?);
        }
        guest
            .update_image(MINORS[0], SNAPSHOT, context.image())
            .await?;
        guest
            .update_image(MINORS[1], SECOND_SNAPSHOT, SECOND_IMAGE)
            .await?;
    }
    guest
        .wait_for_more(&writers, &mut written, BYTES_BETWEEN, WRITE_LIMIT)
        .await?;
    finish(guest, &writers).await?;

    let [first_maps, second_maps] = maps;
    let [first, second] = instants[SWITCHES as usize];
    let evidence = |marker, maps| ImageClaim::new(marker, context.origin_range()).with_maps(maps);
    Ok(Evidence::of(Claim::CommonInstants(Box::new(
        CommonInstants {
            volumes: [evidence(first, first_maps), evidence(second, second_maps)],
            instants,
            lockstep,
        },
    ))))
}

/// Of the three, those that are judged.
fn pair(markers: &[MarkerKey]) -> [MarkerKey; 2] {
    [markers[0], markers[1]]
}

/// Sets of which one cannot be taken, each for another reason.
async fn refuse_first(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    let refused = [
        (
            [FIRST_SPEC, spec("/dev/vda1", "/mnt/cow/b", 1)],
            "is the same",
        ),
        (
            [FIRST_SPEC, spec("/dev/vda", "/mnt/cow2/b", 1)],
            "is stacked on",
        ),
        ([FIRST_SPEC, spec(SECOND, "/mnt/cow2/b", 0)], "named twice"),
        // Preserved blocks of the first would change the image of the second.
        (
            [FIRST_SPEC, spec("/dev/vda2", "/mnt/cow2/b", 1)],
            "the COW file of minor 0 lies on /dev/vda2",
        ),
    ];
    for (set, named) in refused {
        expect_none(guest, &set, named).await?;
    }
    // The first is ready for its instant when the third cannot be frozen.
    let path = THIRD_MOUNT.to_owned();
    guest
        .prepare(Request::Freeze { path: path.clone() })
        .await?;
    expect_none(guest, &[FIRST_SPEC, THIRD_SPEC], "frozen already").await?;
    guest.prepare(Request::Thaw { path }).await.map(|_| ())
}

async fn expect_none(
    guest: &mut GuestSession<'_, '_>,
    set: &[SnapshotSpec],
    named: &str,
) -> CaseResult<()> {
    guest.expect_set_refusal(set, named).await?;
    if let Some(device) = guest.info().await?.devices.first() {
        return Err(CaseError::Failed(format!(
            "the set was refused for \"{named}\", and snapshot {} is there",
            device.minor
        )));
    }
    Ok(())
}

/// All three go on to track changes. On the way a set of which one member does not track yet must be
/// refused.
async fn track(guest: &mut GuestSession<'_, '_>, try_too_early: bool) -> CaseResult<()> {
    guest.transition_to_incremental(MINORS[0]).await?;
    if try_too_early {
        guest
            .expect_transition_refusal(&MINORS, "minor 1 does not track changes")
            .await?;
        expect_state(guest, MINORS[0], "active incremental").await?;
        expect_state(guest, MINORS[1], "active snapshot").await?;
    }
    guest.transition_to_incremental(MINORS[1]).await?;
    guest.transition_to_incremental(MINORS[2]).await
}

/// The next set fails when it is about to begin; all three go on to track.
async fn refuse_next(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    let path = THIRD_MOUNT.to_owned();
    guest
        .prepare(Request::Freeze { path: path.clone() })
        .await?;
    guest
        .expect_transition_refusal(&MINORS, "frozen already")
        .await?;
    guest.prepare(Request::Thaw { path }).await?;
    for minor in MINORS {
        expect_state(guest, minor, "active incremental").await?;
    }
    Ok(())
}

async fn expect_state(guest: &mut GuestSession<'_, '_>, minor: u32, state: &str) -> CaseResult<()> {
    let found = guest.active_snapshot(minor).await?.state_name;
    if found == state {
        return Ok(());
    }
    Err(CaseError::Failed(format!(
        "snapshot {minor} is {found} instead of {state}"
    )))
}

async fn finish(guest: &mut GuestSession<'_, '_>, writers: &Workload) -> CaseResult<()> {
    guest.stop_workload(writers).await?;
    for minor in [MINORS[0], MINORS[1]] {
        if guest.active_snapshot(minor).await?.preserved_blocks == 0 {
            return Err(vacuous("nothing was overwritten under a snapshot"));
        }
    }
    guest.phase("teardown");
    for minor in MINORS {
        guest.destroy_snapshot(minor).await?;
    }
    guest.unmount(THIRD_MOUNT).await?;
    guest.unmount(SECOND_COW_MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}
