//! Origins of many TiB, of which a few pieces are anywhere: those of the first partition, spread evenly by
//! device-mapper, zeros between. Writers, copy and witness know the pieces only, so that the truth is that of
//! a small origin; the module knows the large one. Each access to the COW file takes longer, as on a disk that is
//! far away: what is done slot by slot cannot be done in time.

use std::time::{Duration, Instant};

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::{GUEST_MODULES, modules};
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_checks::power::Stop;
use cowbird_host::nature::OriginKind;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{
    FaultTarget, InjectedFault, RawWritersSpec, Request, StackKind, StopwatchSpec, WorkloadSpec,
};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, FAULTY, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::{CowDisk, Layout, MIB_SECTORS};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Large.cases(&[
    case(
        "large-origin",
        "an origin of 2 TiB that is mostly empty, its COW file far away, through boots and a power cut",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        layout_large,
        |guest, context| Box::pin(large(guest, context)),
    )
    .making(&[Fault::Delays, Fault::PowerCut]),
    case(
        "huge-origin",
        "as large-origin, with 20 TiB",
        CaseTier::Full,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        layout_huge_20,
        |guest, context| Box::pin(huge_20(guest, context)),
    )
    .making(&[Fault::Delays, Fault::PowerCut]),
    case(
        "huge-origin-64",
        "as large-origin, with 64 TiB",
        CaseTier::Full,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        layout_huge_64,
        |guest, context| Box::pin(huge_64(guest, context)),
    )
    .making(&[Fault::Delays, Fault::PowerCut]),
    case(
        "large-low-memory",
        "an origin of 6 TiB, whose maps a machine of 256 MiB cannot have",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_zero"]),
        layout_too_large,
        |guest, context| Box::pin(too_large(guest, context)),
    ),
    case(
        "small-neighbour",
        "a writer on a disk of 2 TiB, and a small filesystem beside it that is unmounted again and again",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_neighbour,
        |guest, context| Box::pin(neighbour(guest, context)),
    ),
]);

/// What of the origin is anywhere, sectors.
const PIECES_SECTORS: u32 = 48 * MIB_SECTORS;

/// What the origin, its pieces, the large image and the pieces of the snapshot are called: device-mapper counts, and
/// [`FAULTY`] has the first two.
const LARGE: &str = "/dev/dm-2";
const PIECES: &str = "/dev/dm-3";
const LARGE_IMAGE: &str = "/dev/dm-4";
const SNAPSHOT_PIECES: &str = "/dev/dm-5";

/// Sectors of one TiB.
const TIB_SECTORS: u64 = 1 << 31;

/// Each access to the COW file takes so much longer, ms.
const DELAY_MS: u32 = 1;

/// Data of one burst of writes.
const BURST_BYTES: u64 = 4 << 20;

/// Time for it.
const WRITE_LIMIT: Duration = Duration::from_secs(90);

/// A reload and a save take no longer: reading the maps slot by slot would take several times as long.
const RELOAD_LIMIT: Duration = Duration::from_secs(15);

/// Memory for the maps of a TiB is asked for and cleared in this time, and its part of the COW file written, which
/// is done once.
const RELOAD_PER_TIB: Duration = Duration::from_millis(700);
const SET_UP_PER_TIB: Duration = Duration::from_secs(3);

/// Writes are held for 1 s at most by a save; the rest is what emulation takes.
const HOLD_LIMIT_US: u64 = 2_500_000;

/// Pause of the writer with the stopwatch.
const PAUSE_US: u64 = 5000;

/// Mounts and unmounts beside a writer.
const NEIGHBOUR_TURNS: u32 = 5;

/// Where the neighbour is.
const NEIGHBOUR: &str = "/dev/vda2";
const NEIGHBOUR_MOUNT: &str = "/mnt/neighbour";

/// The states of a series that is well.
const PRESERVING: &str = "active snapshot";
const TRACKING: &str = "active incremental";

/// What the kernel says when it kills somebody for memory.
const OUT_OF_MEMORY: [&str; 2] = ["invoked oom-killer", "Out of memory"];

/// A size of origin: what its COW file and its maps need follows from it.
#[derive(Clone, Copy)]
struct Size {
    tib: u32,
    memory_mib: u32,
}

const LARGE_SIZE: Size = Size {
    tib: 2,
    memory_mib: 768,
};
const HUGE_SIZES: [Size; 2] = [
    Size {
        tib: 20,
        memory_mib: 3584,
    },
    Size {
        tib: 64,
        memory_mib: 8192,
    },
];
/// A map of 192 MiB: less than the machine has, and more than is available. The kernel refuses by itself what is more
/// than it has.
const TOO_LARGE: Size = Size {
    tib: 6,
    memory_mib: 256,
};

impl Size {
    fn reload_limit(self) -> Duration {
        RELOAD_LIMIT + RELOAD_PER_TIB * self.tib
    }

    /// Metadata of 66 MiB per TiB, and room for preserved blocks.
    const fn cow_mib(self) -> u32 {
        self.tib * 67 + 72
    }

    fn layout(self) -> Layout {
        Layout {
            discards: false,
            memory_mib: Some(self.memory_mib),
            ..Layout::raw(PIECES_SECTORS, self.cow_mib() + self.cow_mib() / 16 + 40)
        }
    }

    fn sectors(self) -> u64 {
        u64::from(self.tib) * TIB_SECTORS
    }

    fn spec(self) -> SnapshotSpec {
        snapshot_of(LARGE, self.cow_mib())
    }

    fn spread(self, number: u8) -> StackKind {
        let sectors = self.sectors();
        StackKind::Spread { number, sectors }
    }

    /// Gathered from what has this size.
    fn gathered(number: u8) -> StackKind {
        StackKind::Gathered {
            number,
            sectors: PIECES_SECTORS.into(),
        }
    }
}

/// The disks of `large-origin`.
fn layout_large() -> Layout {
    LARGE_SIZE.layout()
}

/// The disks of `huge-origin`.
fn layout_huge_20() -> Layout {
    HUGE_SIZES[0].layout()
}

/// The disks of `huge-origin-64`.
fn layout_huge_64() -> Layout {
    HUGE_SIZES[1].layout()
}

/// The disks of `large-low-memory`.
fn layout_too_large() -> Layout {
    TOO_LARGE.layout()
}

async fn stack(
    guest: &mut GuestSession<'_, '_>,
    below: &str,
    kind: StackKind,
    expected: &str,
) -> CaseResult<()> {
    let path = guest.stack(&[below], kind).await?;
    if path == expected {
        return Ok(());
    }
    Err(CaseError::Failed(format!("{path} instead of {expected}")))
}

/// The devices of a boot, and the COW file's filesystem on one that is slow.
async fn stack_all(guest: &mut GuestSession<'_, '_>, size: Size) -> CaseResult<()> {
    guest.stack_faulty(COW_HOME).await?;
    stack(guest, ORIGIN, size.spread(0), LARGE).await?;
    stack(guest, LARGE, Size::gathered(0), PIECES).await?;
    stack(guest, IMAGE, size.spread(1), LARGE_IMAGE).await
}

/// From here on the COW file is far away.
async fn slow_down(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    let slow = FaultTarget {
        start: 0,
        sectors: u64::MAX,
        fault: InjectedFault::Delay {
            reads_ms: DELAY_MS,
            writes_ms: DELAY_MS,
        },
    };
    guest.inject_faults(COW_HOME, &[slow]).await
}

/// Pairs of writers on the same blocks, for a while.
async fn burst(guest: &mut GuestSession<'_, '_>, seed: u64) -> CaseResult<()> {
    let writers = guest
        .start_workload(WorkloadSpec::RawWriters(RawWritersSpec {
            device: PIECES.into(),
            seed,
            pairs: 2,
            discard_every: 0,
            rest_at_bytes: BURST_BYTES,
        }))
        .await?;
    guest
        .wait_until(&writers, "wrote a burst", WRITE_LIMIT, |state| {
            state.bytes_written >= BURST_BYTES
        })
        .await?;
    guest.stop_workload(&writers).await.map(|_| ())
}

/// Says how long something took, which must not be longer than the limit.
fn within(
    guest: &mut GuestSession<'_, '_>,
    what: &str,
    begun: Instant,
    limit: Duration,
) -> CaseResult<()> {
    let took = begun.elapsed();
    guest.note(format!("{what}: {:.1} s", took.as_secs_f64()));
    if took > limit * guest.limits.slowdown {
        return Err(CaseError::Failed(format!("{what} took {took:?}")));
    }
    Ok(())
}

/// Another boot; the series is taken up again before anything is written or mounted, and must then be in that
/// state.
async fn reboot(
    guest: &mut GuestSession<'_, '_>,
    size: Size,
    stop: Stop,
    state: &str,
) -> CaseResult<()> {
    guest.phase("reboot");
    let record = guest.record(MINOR, LARGE_IMAGE).await?;
    let begun = Instant::now();
    guest.reboot(stop).await?;
    guest.note(format!("reboot: {:.1} s", begun.elapsed().as_secs_f64()));
    stack_all(guest, size).await?;
    slow_down(guest).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    let refused = |said| CaseError::Failed(format!("the series was not taken up again: {said}"));
    let begun = Instant::now();
    guest.reload_all().await?.map_err(refused)?;
    within(guest, "reload", begun, size.reload_limit())?;
    guest.mount(FAULTY, COW_MOUNT, "").await?;
    guest.verify(MINOR).await?.map_err(refused)?;
    let device = guest.active_snapshot(MINOR).await?;
    guest.note(format!("maps: {} MiB", device.map_bytes >> 20));
    match device.state_name {
        found if found == state => Ok(()),
        found => Err(CaseError::Failed(format!(
            "the series is {found:?} after the boot and must be {state:?}"
        ))),
    }
}

/// The pieces of the snapshot are copied; the label of an image says what it shows then.
async fn copy_pieces(
    guest: &mut GuestSession<'_, '_>,
    size: Size,
    marker: MarkerKey,
) -> CaseResult<()> {
    guest.phase("copy");
    stack(guest, SNAPSHOT, Size::gathered(1), SNAPSHOT_PIECES).await?;
    guest.copy_device(SNAPSHOT_PIECES, IMAGE).await?;
    guest.unstack(Size::gathered(1)).await?;
    let uuid = guest.active_snapshot(MINOR).await?.uuid;
    let request = Request::WriteText {
        path: format!("{LARGE_IMAGE}.cowbird"),
        text: format!(
            "{{\"format\": 1, \"uuid\": \"{uuid}\", \"epoch\": {}, \"bytes\": {}, \"complete\": true}}",
            marker.epoch.0,
            size.sectors() * 512
        ),
    };
    guest.prepare(request).await.map(|_| ())
}

/// The next epoch, by changed blocks alone.
async fn update(guest: &mut GuestSession<'_, '_>) -> CaseResult<MarkerKey> {
    guest.phase("update");
    let begun = Instant::now();
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest.note(format!("next snapshot: {:?}", begun.elapsed()));
    guest.update_image(MINOR, SNAPSHOT, LARGE_IMAGE).await?;
    Ok(marker)
}

/// The COW file's filesystem goes and comes back under a writer with a stopwatch: a save, while writes go on.
async fn remount_under_writer(guest: &mut GuestSession<'_, '_>, seed: u64) -> CaseResult<()> {
    guest.phase("save");
    let stopwatch = guest
        .start_workload(WorkloadSpec::Stopwatch(StopwatchSpec {
            device: PIECES.into(),
            seed,
            pause_us: PAUSE_US,
        }))
        .await?;
    guest
        .wait_until(&stopwatch, "writes", WRITE_LIMIT, |state| {
            state.operations > 50
        })
        .await?;
    let begun = Instant::now();
    guest.unmount(COW_MOUNT).await?;
    within(guest, "unmount with a save", begun, RELOAD_LIMIT)?;
    let device = guest.active_snapshot(MINOR).await?;
    guest.mount(FAULTY, COW_MOUNT, "").await?;
    let refused = |said| CaseError::Failed(format!("the COW file was not taken back: {said}"));
    guest.verify(MINOR).await?.map_err(refused)?;
    let end = guest.stop_workload(&stopwatch).await?;
    guest.note(format!(
        "the save held writes for {} ms, the slowest of {} took {} ms",
        device.save_hold_ms,
        end.operations,
        end.longest_us / 1000
    ));
    if end.longest_us > HOLD_LIMIT_US * u64::from(guest.limits.slowdown) {
        return Err(CaseError::Failed(format!(
            "a write took {} ms while the series was saved",
            end.longest_us / 1000
        )));
    }
    Ok(())
}

/// Plays `large-origin`.
async fn large(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    act(guest, context, LARGE_SIZE).await
}

/// Plays `huge-origin`.
async fn huge_20(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    act(guest, context, HUGE_SIZES[0]).await
}

/// Plays `huge-origin-64`.
async fn huge_64(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    act(guest, context, HUGE_SIZES[1]).await
}

/// A snapshot that goes on through a boot, then changes that do: first through a power cut, then saved twice in one boot.
///
/// After a power cut, whole regions count as changed, and all pieces lie in few of them: such an update copies nearly everything. It comes
/// first, so that nothing mends what the map of the last one lacks. The update before it marks the instant after which the power is cut.
async fn act(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    size: Size,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    stack_all(guest, size).await?;
    guest.mount(FAULTY, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    burst(guest, context.seed).await?;
    let begun = Instant::now();
    guest.limits.control += SET_UP_PER_TIB * size.tib * guest.limits.slowdown;
    let marker = guest.setup_snapshot(size.spec()).await?;
    guest.note(format!("set-up: {:?}", begun.elapsed()));
    slow_down(guest).await?;
    burst(guest, context.seed ^ 1).await?;
    reboot(guest, size, Stop::PowerOff, PRESERVING).await?;
    burst(guest, context.seed ^ 2).await?;
    copy_pieces(guest, size, marker).await?;

    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context.seed ^ 3).await?;
    let after = update(guest).await?;

    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context.seed ^ 4).await?;
    let seed = context.seed ^ 10;
    reboot(guest, size, Stop::PowerCut { after, seed }, TRACKING).await?;
    burst(guest, context.seed ^ 5).await?;
    update(guest).await?;

    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context.seed ^ 6).await?;
    remount_under_writer(guest, context.seed ^ 7).await?;
    burst(guest, context.seed ^ 8).await?;
    reboot(guest, size, Stop::PowerOff, TRACKING).await?;
    burst(guest, context.seed ^ 9).await?;
    let marker = update(guest).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    for kind in [
        size.spread(1),
        Size::gathered(0),
        size.spread(0),
        StackKind::FaultInjection,
    ] {
        guest.unstack(kind).await?;
    }
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).marked_by(size.sectors()),
    ))
}

/// The maps of the origin do not fit into the machine: that is refused, and nobody is killed.
async fn too_large(
    guest: &mut GuestSession<'_, '_>,
    _setting: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    stack_all(guest, TOO_LARGE).await?;
    guest.mount(FAULTY, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.phase("refuse");
    guest
        .expect_refusal(
            TOO_LARGE.spec(),
            "not enough memory: the maps of 6144 GiB take",
        )
        .await?;
    let limit = guest.limits.request;
    let log = guest
        .kernel_log(limit)
        .await
        .map_err(cowbird_session::guest::shut_down_error)?;
    let killed = log
        .iter()
        .find(|record| OUT_OF_MEMORY.iter().any(|said| record.text.contains(said)));
    if let Some(record) = killed {
        let reason = format!("the kernel kills for memory: {}", record.text);
        return Err(CaseError::Failed(reason));
    }
    guest.phase("teardown");
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::witness_only())
}

/// The largest disk that the partition table and the witness's oracle count, sectors: 2 TiB without 1 GiB.
const DISK_SECTORS: u32 = 2047 * 1024 * MIB_SECTORS;

/// The disks of `small-neighbour`.
fn layout_neighbour() -> Layout {
    Layout {
        kind: OriginKind::WholeDisk,
        disk_sectors: Some(DISK_SECTORS),
        cow_disk: Some(CowDisk::InPlaceOfImage {
            mib: LARGE_SIZE.cow_mib() + LARGE_SIZE.cow_mib() / 16 + 40,
        }),
        memory_mib: Some(LARGE_SIZE.memory_mib),
        ..Layout::raw(PIECES_SECTORS, 32)
    }
}

/// A writer on one partition of a disk, and a small filesystem on another that is mounted and unmounted beside it.
/// The COW file is on another disk.
async fn neighbour(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    // The COW file's disk: the one for images is not needed for that.
    guest.mount(IMAGE, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let spec = SnapshotSpec {
        origin: "/dev/vda",
        ..LARGE_SIZE.spec()
    };
    guest.setup_snapshot(spec).await?;
    guest.transition_to_incremental(MINOR).await?;
    let stopwatch = guest
        .start_workload(WorkloadSpec::Stopwatch(StopwatchSpec {
            device: ORIGIN.into(),
            seed: context.seed,
            pause_us: PAUSE_US,
        }))
        .await?;
    guest
        .wait_until(&stopwatch, "writes", WRITE_LIMIT, |state| {
            state.operations > 100
        })
        .await?;
    let before = guest.workload(&stopwatch).await?;
    guest.phase("neighbour");
    for _ in 0..NEIGHBOUR_TURNS {
        guest.mount(NEIGHBOUR, NEIGHBOUR_MOUNT, "").await?;
        let begun = Instant::now();
        guest.unmount(NEIGHBOUR_MOUNT).await?;
        guest.note(format!("unmounted in {:?}", begun.elapsed()));
    }
    let end = guest.stop_workload(&stopwatch).await?;
    guest.note(format!(
        "the slowest of {} writes took {} ms, {} ms before the neighbour came",
        end.operations,
        end.longest_us / 1000,
        before.longest_us / 1000
    ));
    let device = guest.active_snapshot(MINOR).await?;
    if device.saved {
        return Err(vacuous("nothing was written after the last unmount"));
    }
    if device.save_hold_ms > 0 {
        return Err(CaseError::Failed(format!(
            "the end of a neighbour held writes for {} ms",
            device.save_hold_ms
        )));
    }
    if end.longest_us > NEIGHBOUR_LIMIT_US * u64::from(guest.limits.slowdown) {
        return Err(CaseError::Failed(format!(
            "a write took {} ms beside a neighbour that is unmounted",
            end.longest_us / 1000
        )));
    }
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::witness_only())
}

/// No longer than without a neighbour: what emulation takes.
const NEIGHBOUR_LIMIT_US: u64 = 700_000;
