//! The root filesystem of a running system as the origin, with its COW file on it: the agent, the
//! control tool and the writers all run from the volume that is frozen, copied and tracked. Its series
//! goes on through boots from the first write, because the boot hooks of `dist/` take it up again before
//! it is mounted; without a hook it must not go on.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_checks::power::Stop;
use cowbird_host::disk::Filesystem;
use cowbird_host::initramfs::COWBIRDCTL;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{FsChurnSpec, GoldenFile, Request, WorkloadSpec};
use cowbird_session::boot_hooks::Generator;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Workload, vacuous,
};
use cowbird_vm::layout::Layout;

/// The cases of this file.
pub static CASES: CasesOf = Subject::Root.cases(&[
    case(
        "root-volume",
        "the root filesystem of a running system, through a reboot and a power cut with its boot hooks",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act(guest, context)),
    )
    .making(&[Fault::ReadOnly, Fault::PowerCut]),
    case(
        "root-unhooked",
        "a root filesystem that is written to before the module is there, and copied anew",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(act_unhooked(guest, context)),
    )
    .making(&[Fault::ReadOnly, Fault::UnseenWrites]),
]);

/// Room for the COW files, the system and what the writers leave.
const ORIGIN_MIB: u32 = 104;

const SPEC: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: "/.cowbird",
    cow_mib: 28,
    cache_mib: 8,
    minor: MINOR,
};

/// The COW file of the series that comes after one that could not go on.
const OTHER_SPEC: SnapshotSpec = SnapshotSpec {
    cow_file: "/.cowbird-2",
    ..SPEC
};

/// Data of one burst of writes.
const BURST_BYTES: u64 = 2 << 20;

/// Time for it.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `root-volume` and `root-unhooked`.
fn layout() -> Layout {
    Layout {
        kernel_parameters: "root=/dev/vda1",
        ..Layout::filesystem(Filesystem::Ext4, ORIGIN_MIB)
    }
}

/// The series goes on through a clean reboot with the hook of initramfs-tools, then through a cut of the
/// power with that of dracut.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let golden = begin(guest, context).await?;

    reboot(guest, Stop::PowerOff, Generator::InitramfsTools).await?;
    burst(guest, context, 2).await?;
    let marker = update_under_writers(guest, context, 3).await?;
    guest.transition_to_incremental(MINOR).await?;
    let writers = start(guest, context, 4).await?;
    wait_for_burst(guest, &writers).await?;

    let stop = Stop::PowerCut {
        after: marker,
        seed: context.seed,
    };
    reboot(guest, stop, Generator::Dracut).await?;
    burst(guest, context, 5).await?;
    let marker = update_under_writers(guest, context, 6).await?;
    finish(guest, context, SPEC, marker, golden).await
}

/// The system boots without the hook, and writes to its root volume before the module is there. Nobody
/// can know what, so the series must not go on; the whole copy of the next one is made under writers.
async fn act_unhooked(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let golden = begin(guest, context).await?;
    let record = guest.record(MINOR, IMAGE).await?;
    guest.phase("reboot");
    make_read_only(guest).await?;
    guest.reboot(Stop::PowerOff).await?;
    guest.expect_root(ORIGIN).await?;
    guest.makes(Fault::UnseenWrites)?;
    burst(guest, context, 2).await?;
    guest.insert_module().await?;
    // The volume itself has the record.
    let (spec, marker) = match guest.reload_all().await? {
        Ok(()) => {
            guest.put_label(&record).await?;
            verify_all(guest).await?;
            (SPEC, update_under_writers(guest, context, 3).await?)
        }
        Err(said) => {
            guest.note(format!("refused as it must be: {said}"));
            (OTHER_SPEC, copy_under_writers(guest, context).await?)
        }
    };
    finish(guest, context, spec, marker, golden).await
}

/// The first epoch, copied whole; from then on changes are tracked.
async fn begin(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Vec<GoldenFile>> {
    guest.phase("setup");
    guest.expect_root(ORIGIN).await?;
    guest.insert_module().await?;
    let golden = burst(guest, context, 0).await?;
    guest.phase("copy");
    guest.setup_snapshot(SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context, 1).await?;
    Ok(golden)
}

/// Writers of files, each time in a folder of their own. The golden files are those of the first time.
async fn start(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    number: u64,
) -> CaseResult<Workload> {
    guest
        .start_workload(WorkloadSpec::FsChurn(FsChurnSpec {
            root: format!("/{}", folder(number)),
            seed: context.seed ^ number,
            threads: 2,
            files_per_thread: 12,
            max_file_bytes: 128 << 10,
            golden_files: 4,
            budget_after_epoch_bytes: u64::MAX,
            pause_us: 0,
        }))
        .await
}

fn folder(number: u64) -> String {
    format!("data-{number}")
}

async fn wait_for_burst(guest: &mut GuestSession<'_, '_>, writers: &Workload) -> CaseResult<()> {
    guest
        .wait_until(writers, "wrote a burst", WRITE_LIMIT, |state| {
            state.bytes_written >= BURST_BYTES
        })
        .await
        .map(|_| ())
}

/// Some data, and nothing that goes on to write; the files that stay as they are.
async fn burst(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    number: u64,
) -> CaseResult<Vec<GoldenFile>> {
    let writers = start(guest, context, number).await?;
    wait_for_burst(guest, &writers).await?;
    guest.stop_workload(&writers).await?;
    let golden = writers.golden.into_iter().map(|mut file| {
        file.path = format!("{}/{}", folder(number), file.path);
        file
    });
    Ok(golden.collect())
}

/// As an init ends a system: the root volume is made read-only and never unmounted.
async fn make_read_only(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    let request = Request::Remount {
        target: "/".into(),
        read_only: true,
    };
    guest.prepare(request).await.map(|_| ())
}

/// Boots with a hook in the initramfs, which must take the series up again before its volume is mounted.
async fn reboot(
    guest: &mut GuestSession<'_, '_>,
    stop: Stop,
    generator: Generator,
) -> CaseResult<()> {
    guest.phase("reboot");
    let record = guest.record(MINOR, IMAGE).await?;
    guest.update_initramfs(generator, &record).await?;
    if matches!(stop, Stop::PowerOff) {
        make_read_only(guest).await?;
    }
    guest.reboot(stop).await?;
    guest.expect_taken_up(MINOR, ORIGIN).await?;
    guest.put_label(&record).await?;
    verify_all(guest).await
}

/// Hands the COW file over again, as the unit in `dist/systemd` does.
async fn verify_all(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.run(COWBIRDCTL, &["verify", "--all"]).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if device.cow_is_pinned && device.state_name == "active incremental" {
        return Ok(());
    }
    Err(CaseError::Failed(format!(
        "changes were tracked before the boot; now it is {:?}, and its COW file {}",
        device.state_name,
        if device.cow_is_pinned {
            "is held"
        } else {
            "is not held"
        }
    )))
}

/// The next epoch, by changed blocks alone, while writers go on.
async fn update_under_writers(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    number: u64,
) -> CaseResult<MarkerKey> {
    guest.phase("update");
    let writers = start(guest, context, number).await?;
    wait_for_burst(guest, &writers).await?;
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    stop_writers(guest, &writers).await?;
    Ok(marker)
}

/// A new series, copied whole while writers go on.
async fn copy_under_writers(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<MarkerKey> {
    guest.phase("full copy");
    let writers = start(guest, context, 3).await?;
    wait_for_burst(guest, &writers).await?;
    let marker = guest.setup_snapshot(OTHER_SPEC).await?;
    guest.copy_device(SNAPSHOT, IMAGE).await?;
    stop_writers(guest, &writers).await?;
    Ok(marker)
}

async fn stop_writers(guest: &mut GuestSession<'_, '_>, writers: &Workload) -> CaseResult<()> {
    guest.stop_workload(writers).await?;
    if guest.active_snapshot(MINOR).await?.preserved_blocks == 0 {
        return Err(vacuous("nothing was overwritten during the copy"));
    }
    Ok(())
}

async fn finish(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
    marker: MarkerKey,
    golden: Vec<GoldenFile>,
) -> CaseResult<Evidence> {
    let zeroed = guest.own_blocks(spec).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with_files(golden),
    ))
}
