//! A filesystem on a tracked origin is to its users as one on an untracked disk. The same exerciser works on both, with blocks
//! of each size, while snapshots of the one come and go; both are shut down as if the machine had stopped, mounted again and
//! checked. What they hold must be the same at every step. Then each is mounted through a device above it that from some moment on
//! loses what is written: what was on disk at that moment must be there after the shutdown, and nothing else. What is lost is lost above the
//! module; that it flushes what it is told to is for other cases.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_host::nature::FurtherDisk;
use cowbird_host::program::HostProgram;
use cowbird_proto::message::{
    EndSignal, FaultTarget, InjectedFault, ProgramSpec, ProgramsSpec, Reply, Request, StackKind,
    WorkloadSpec,
};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, FAULTY, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::Layout;

/// The case of this file.
pub static CASES: CasesOf = Subject::Surroundings.cases(&[CaseInfo {
    programs: PROGRAMS,
    ..case(
        "exerciser",
        "a filesystem exerciser on a tracked disk and on an untracked one, with blocks of each size, and shutdowns",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay", "dm_flakey"]),
        layout,
        |guest, context| Box::pin(act(guest, context)),
    )
    .making(&[Fault::LostWrites, Fault::Shutdown])
}]);

/// What makes and checks the filesystems.
pub const PROGRAMS: &[HostProgram] = &[MAKE, CHECK];
const MAKE: HostProgram = HostProgram {
    program: "mke2fs",
    package: "e2fsprogs",
};
const CHECK: HostProgram = HostProgram {
    program: "e2fsck",
    package: "e2fsprogs",
};

/// The exerciser is a part of the agent.
const AGENT: &str = "/init";

/// Sizes of blocks that are tried, bytes.
const BLOCK_SIZES: [u32; 3] = [1024, 2048, 4096];

/// Times that the exerciser works on each, and what it does each time.
const ROUNDS: u64 = 2;
const OPERATIONS: u64 = 1500;

/// Files that are written while writes are lost, and how many words each has.
const LOST_FILES: u64 = 16;
const LOST_WORDS: usize = 2000;

/// Time for it.
const LIMIT: Duration = Duration::from_secs(120);

const ORIGIN_SECTORS: u32 = 40 * 2048;
const COW_HOME_MIB: u32 = 96;

/// Of two filesystems one is on the origin.
#[derive(Clone, Copy)]
struct Place {
    device: &'static str,
    disk: &'static str,
    mount: &'static str,
}

const TRACKED: Place = Place {
    device: ORIGIN,
    disk: "vda1",
    mount: "/mnt/tracked",
};
const CONTROL: Place = Place {
    device: "/dev/vdc1",
    disk: "vdc1",
    mount: "/mnt/control",
};

const SPEC: SnapshotSpec = snapshot_of(ORIGIN, 64);

/// The disks of `exerciser`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        discards: false,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// Plays `exerciser`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let mut marker = guest.setup_snapshot(SPEC).await?;
    for (number, block_size) in BLOCK_SIZES.into_iter().enumerate() {
        guest.phase("exercise");
        for place in [TRACKED, CONTROL] {
            make(guest, place, block_size).await?;
        }
        for round in 0..ROUNDS {
            let seed = context.seed ^ (number as u64 * ROUNDS + round);
            let tracked = exercise(guest, TRACKED, seed, true).await?;
            let control = exercise(guest, CONTROL, seed, false).await?;
            expect_same(block_size, "after the exercise", &tracked, &control)?;
            for (place, held) in [(TRACKED, &tracked), (CONTROL, &control)] {
                let after = crash(guest, place).await?;
                expect_same(block_size, "after a shutdown", &after, held)?;
            }
        }
        guest.unmount(TRACKED.mount).await?;
        guest.unmount(CONTROL.mount).await?;
        for place in [TRACKED, CONTROL] {
            check(guest, place).await?;
        }
        let seed = !context.seed ^ number as u64;
        let tracked = lose(guest, TRACKED, seed, true).await?;
        let control = lose(guest, CONTROL, seed, false).await?;
        for (place, (held, after)) in [(TRACKED, &tracked), (CONTROL, &control)] {
            expect_same(block_size, "after writes were lost", held, after)?;
            check(guest, place).await?;
        }
        expect_same(
            block_size,
            "before writes were lost",
            &tracked.0,
            &control.0,
        )?;
        // The last one is compared, block by block.
        marker = next_snapshot(guest).await?;
        guest.note(format!(
            "blocks of {block_size} bytes: the same, tracked and untracked"
        ));
    }

    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with(OfImage::SoundExt4),
    ))
}

async fn make(guest: &mut GuestSession<'_, '_>, place: Place, block_size: u32) -> CaseResult<()> {
    let blocks = block_size.to_string();
    let arguments = ["-q", "-F", "-t", "ext4", "-b", &blocks, place.device];
    guest.run(&MAKE.path()?, &arguments).await?;
    guest.mount(place.device, place.mount, "").await
}

async fn check(guest: &mut GuestSession<'_, '_>, place: Place) -> CaseResult<()> {
    match guest.run(&CHECK.path()?, &["-fn", place.device]).await {
        Err(CaseError::Failed(said)) => Err(CaseError::Failed(format!(
            "{} must hold a sound filesystem: {said}",
            place.device
        ))),
        checked => checked.map(|_| ()),
    }
}

/// The exerciser does its work, with snapshots that come and go meanwhile where they are wanted; what the folder holds then.
async fn exercise(
    guest: &mut GuestSession<'_, '_>,
    place: Place,
    seed: u64,
    snapshots: bool,
) -> CaseResult<String> {
    let report = format!("/tmp/{}.exercised", place.disk);
    let program = ProgramSpec {
        program: AGENT.into(),
        args: vec![
            "exercise".into(),
            place.mount.into(),
            seed.to_string(),
            OPERATIONS.to_string(),
            report.clone(),
        ],
        input: None,
        as_owner_of: None,
        acknowledges: String::new(),
        ends_by: EndSignal::Terminate,
    };
    let exerciser = guest
        .start_workload(WorkloadSpec::Programs(ProgramsSpec {
            programs: vec![program],
            device: place.disk.into(),
        }))
        .await?;
    while snapshots && !guest.workload(&exerciser).await?.finished {
        next_snapshot(guest).await?;
    }
    guest
        .wait_until(&exerciser, "exercised", LIMIT, |state| state.finished)
        .await?;
    guest.stop_workload(&exerciser).await?;
    read(guest, report).await
}

async fn next_snapshot(guest: &mut GuestSession<'_, '_>) -> CaseResult<cowbird_model::MarkerKey> {
    guest.transition_to_incremental(MINOR).await?;
    guest.transition_to_snapshot(MINOR).await
}

/// Shuts the filesystem down and mounts it again; what it holds then.
async fn crash(guest: &mut GuestSession<'_, '_>, place: Place) -> CaseResult<String> {
    let report = format!("/tmp/{}.after", place.disk);
    guest.makes(Fault::Shutdown)?;
    guest.run(AGENT, &["shutdown", place.mount]).await?;
    guest.unmount(place.mount).await?;
    guest.mount(place.device, place.mount, "").await?;
    guest.run(AGENT, &["digest", place.mount, &report]).await?;
    read(guest, report).await
}

/// Works on a filesystem that is not mounted, through a device that drops what is written from the middle on. What the
/// filesystem holds at that moment, and after it was shut down.
async fn lose(
    guest: &mut GuestSession<'_, '_>,
    place: Place,
    seed: u64,
    snapshots: bool,
) -> CaseResult<(String, String)> {
    let everything = FaultTarget {
        start: 0,
        sectors: u64::MAX,
        fault: InjectedFault::DropWrites,
    };
    guest.stack_faulty(place.device).await?;
    let above = Place {
        device: FAULTY,
        ..place
    };
    guest.mount(above.device, above.mount, "").await?;
    let held = exercise(guest, above, seed, snapshots).await?;
    guest.sync_all().await?;
    guest.inject_faults(place.device, &[everything]).await?;
    for number in 0..LOST_FILES {
        let path = format!("{}/d1/lost{number}", above.mount);
        let text = "lost".repeat(LOST_WORDS);
        guest.prepare(Request::WriteText { path, text }).await?;
        if snapshots && number == LOST_FILES / 2 {
            next_snapshot(guest).await?;
        }
    }
    guest.sync_all().await?;
    let report = format!("/tmp/{}.after", above.disk);
    guest.run(AGENT, &["digest", above.mount, &report]).await?;
    if read(guest, report.clone()).await? == held {
        return Err(vacuous("what is to be lost changes nothing"));
    }
    guest.makes(Fault::Shutdown)?;
    guest.run(AGENT, &["shutdown", above.mount]).await?;
    guest.unmount(above.mount).await?;
    guest.inject_faults(place.device, &[]).await?;
    guest.mount(above.device, above.mount, "").await?;
    let report = format!("/tmp/{}.after", above.disk);
    guest.run(AGENT, &["digest", above.mount, &report]).await?;
    let after = read(guest, report).await?;
    guest.unmount(above.mount).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    Ok((held, after))
}

async fn read(guest: &mut GuestSession<'_, '_>, path: String) -> CaseResult<String> {
    match guest.prepare(Request::ReadText { path }).await? {
        Reply::Text(text) => Ok(text.trim().to_owned()),
        reply => Err(CaseError::Failed(format!("no report: {reply:?}"))),
    }
}

fn expect_same(block_size: u32, when: &str, one: &str, other: &str) -> CaseResult<()> {
    if one == other {
        return Ok(());
    }
    Err(CaseError::Failed(format!(
        "blocks of {block_size} bytes, {when}: {one} and {other}"
    )))
}
