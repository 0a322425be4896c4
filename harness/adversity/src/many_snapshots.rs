//! As many snapshots at once as the module has numbers for: those of many devices above the second disk, and one of the
//! origin, whose image is judged. One more is refused. The filesystem that holds all COW files is unmounted under them,
//! which saves every series.

use std::time::{Duration, Instant};

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, ORIGIN};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_host::nature::FurtherDisk;
use cowbird_host::program::HostProgram;
use cowbird_proto::message::StackKind;
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SHELL, SnapshotSpec, coreutil, vacuous,
};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

/// The case of this file.
pub static CASES: CasesOf = Subject::Limits.cases(&[CaseInfo {
    programs: PROGRAMS,
    ..case(
        "many-snapshots",
        "as many snapshots at once as there are numbers, and their filesystem unmounted under them",
        CaseTier::Full,
        &modules(["dm_mod"]),
        layout,
        |guest, context| Box::pin(act(guest, context)),
    )
}]);

/// What the scripts use.
pub const PROGRAMS: &[HostProgram] = &[SHELL, coreutil("dd")];

/// So many numbers there are; one more is refused. All but the last are those of the devices beside the origin.
const NUMBERS: u32 = 256;
const BESIDE: u32 = NUMBERS - 1;

/// What the devices are above.
const BELOW: &str = "/dev/vdc1";

/// Small, as there are many COW files.
const ORIGIN_SECTORS: u32 = 16 * MIB_SECTORS;
const BESIDE_COW_MIB: u32 = 2;
const COW_HOME_MIB: u32 = (BESIDE + 1) * (BESIDE_COW_MIB + 1) + 64;

/// The origin's snapshot has the last number.
const SPEC: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: "/mnt/cow/last.cow",
    cow_mib: 24,
    cache_mib: 4,
    minor: BESIDE,
};
const SNAPSHOT: &str = "/dev/cowbird255";

/// Devices that one script writes to.
const WRITTEN_AT_ONCE: usize = 32;

/// Time of one command of the control tool, however many snapshots there are.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// Time for saving all series at the end of their filesystem.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(120);

/// The disks of `many-snapshots`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        memory_mib: Some(1536),
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

async fn control(guest: &mut GuestSession<'_, '_>, arguments: &str) -> CaseResult<Duration> {
    let timing = guest.bounded_control(arguments, COMMAND_LIMIT).await?;
    let timing = timing.map_err(|(fault, _)| CaseError::Failed(fault))?;
    match timing.refusal() {
        Some(reason) => Err(CaseError::Failed(format!("{arguments}: {reason}"))),
        None => Ok(timing.took),
    }
}

/// The same for each number; how long the first and the longest took.
async fn control_each(
    guest: &mut GuestSession<'_, '_>,
    what: &str,
    arguments: impl Fn(u32) -> String,
) -> CaseResult<()> {
    let mut first = None;
    let mut longest = Duration::ZERO;
    for number in 0..BESIDE {
        let took = control(guest, &arguments(number)).await?;
        first.get_or_insert(took);
        longest = longest.max(took);
    }
    let first = first.unwrap_or_default();
    guest.note(format!(
        "{what} of {BESIDE}: the first took {first:.2?}, the longest {longest:.2?}"
    ));
    Ok(())
}

/// Writes the first block of every device beside the origin.
async fn write_beside(guest: &mut GuestSession<'_, '_>, devices: &[String]) -> CaseResult<()> {
    // Each script ends within the time that a program has.
    for some in devices.chunks(WRITTEN_AT_ONCE) {
        let script = format!(
            "for device in {}; do dd if=/dev/urandom of=$device bs=4096 count=1 oflag=direct conv=notrunc 2>/dev/null; done",
            some.join(" ")
        );
        guest.shell(&script).await?;
    }
    Ok(())
}

/// All snapshots are well, and in the state.
async fn expect_all(guest: &mut GuestSession<'_, '_>, state: &str) -> CaseResult<()> {
    let info = guest.info().await?;
    let well = info.devices.iter().filter(|device| {
        device.error == 0 && (device.minor == BESIDE || device.state_name == state)
    });
    let well = well.count();
    if well == BESIDE as usize + 1 {
        return Ok(());
    }
    Err(CaseError::Failed(format!(
        "{well} of {} snapshots are well and {state}",
        BESIDE + 1
    )))
}

/// Plays `many-snapshots`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    let paths = guest.stack(&[BELOW], StackKind::Many(BESIDE)).await?;
    let devices: Vec<String> = paths.split_whitespace().map(str::to_owned).collect();
    let writers = raw_writers::warm_up(guest, context, ORIGIN).await?;
    control_each(guest, "set-up", |number| {
        let device = &devices[number as usize];
        format!("setup-snapshot -c 1 -f {BESIDE_COW_MIB} {device} /mnt/cow/{number}.cow {number}")
    })
    .await?;

    guest.phase("snapshot");
    let marker = guest.setup_snapshot(SPEC).await?;
    let one_more = SnapshotSpec {
        cow_file: "/mnt/cow/more.cow",
        origin: BELOW,
        minor: BESIDE + 1,
        ..SPEC
    };
    guest.expect_refusal(one_more, "256").await?;

    guest.phase("overwrite");
    write_beside(guest, &devices).await?;
    expect_all(guest, "active snapshot").await?;

    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    if guest.active_snapshot(SPEC.minor).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten under the snapshot"));
    }

    guest.phase("transition");
    control_each(guest, "transition", |number| {
        format!("transition-to-incremental {number}")
    })
    .await?;
    write_beside(guest, &devices).await?;
    expect_all(guest, "active incremental").await?;
    let begun = Instant::now();
    guest.unmount(COW_MOUNT).await?;
    let took = begun.elapsed();
    guest.note(format!("unmount, which saves all series: {took:.1?}"));
    if took > UNMOUNT_LIMIT * guest.limits.slowdown {
        return Err(CaseError::Failed(format!("unmount took {took:.1?}")));
    }
    guest.stop_workload(&writers).await?;
    // Until somebody hands their COW files over again.
    expect_all(guest, "dormant incremental").await?;

    guest.phase("teardown");
    guest.destroy_snapshot(SPEC.minor).await?;
    control_each(guest, "destroy", |number| format!("destroy {number}")).await?;
    guest.unstack(StackKind::Many(BESIDE)).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(ImageClaim::new(
        marker,
        context.origin_range(),
    )))
}
