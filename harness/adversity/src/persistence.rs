//! Change tracking goes on where a series is interrupted: its filesystem is unmounted, its module is
//! away, its COW file is full. Where tracking cannot know what happened it must say so; then a
//! whole copy is made, as an operator would. In each case the image must show the last epoch, all
//! blocks.

use std::time::{Duration, Instant};

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_host::disk::Filesystem;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{FsChurnSpec, GoldenFile, HoldBy, Request, WorkloadSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, GuestSession, SnapshotSpec, Workload, vacuous,
};
use cowbird_vm::layout::Layout;

/// The cases of this file.
pub static CASES: CasesOf = Subject::Persistence.cases(&[
    case(
        "lazy-unmount",
        "unmounted lazily and in another mount namespace, and mounted again, while changes are tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(lazy_unmount(guest, context)),
    )
    .making(&[Fault::LazyUnmount]),
    case(
        "module-reload",
        "a snapshot, then a change map, that go on after the module was unloaded and loaded",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(away(guest, context)),
    ),
    case(
        "offline-write",
        "a volume that somebody writes to while the module is away",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(offline_write(guest, context)),
    )
    .making(&[Fault::UnseenWrites]),
    case(
        "cow-replaced",
        "a COW file that is replaced by a copy of it while it is not held",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(cow_replaced(guest, context)),
    )
    .making(&[Fault::ReplacedCowFile]),
    case(
        "cow-full",
        "a COW file that becomes full while changes go on to be tracked",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, context| Box::pin(cow_full(guest, context)),
    )
    .making(&[Fault::FullCowFile]),
]);

const ORIGIN_MIB: u32 = 112;

pub(super) const MOUNT: &str = "/mnt/origin";

/// On the origin, and written while it is held or by another driver.
const FILE: &str = "/mnt/origin/interrupted";

pub(super) const SPEC: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: "/mnt/origin/.cowbird",
    cow_mib: 20,
    cache_mib: 8,
    minor: MINOR,
};

/// A COW file for the metadata and 2 MiB of preserved blocks.
const SMALL_SPEC: SnapshotSpec = SnapshotSpec {
    cow_mib: 3,
    cache_mib: 1,
    ..SPEC
};

/// Data of one burst of writes.
const BURST_BYTES: u64 = 3 << 20;

/// Written to [`FILE`] at once.
const FILE_BYTES: u64 = 512 << 10;

/// Time for a burst.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Time for a filesystem to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Of files of which each byte is on a new place at first: several times what a small COW file takes.
const FULL_AFTER_BYTES: u64 = 8 * BURST_BYTES;

/// Time for a small COW file to become full.
const FULL_LIMIT: Duration = Duration::from_secs(60);

/// The disks of `lazy-unmount`, `module-reload` and others.
pub fn layout() -> Layout {
    Layout::filesystem(Filesystem::Ext4, ORIGIN_MIB)
}

/// The first epoch, copied whole; from then on only changes are tracked. The files that stay as they are, and the instant.
pub(super) async fn begin(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<(Vec<GoldenFile>, MarkerKey)> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    let golden = burst(guest, context, 0).await?;
    Ok((golden, first_epoch(guest, context).await?))
}

/// The same of a volume that has its data.
pub(super) async fn first_epoch(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<MarkerKey> {
    guest.phase("copy");
    let marker = guest.setup_snapshot(SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context, 1).await?;
    Ok(marker)
}

/// The series must be taken up again.
pub(super) async fn take_up(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    let refused = |said| CaseError::Failed(format!("the series was not taken up again: {said}"));
    guest.reload_all().await?.map_err(refused)
}

/// The series is taken up again before its filesystem is mounted, and the image brought up to date by its changes.
pub(super) async fn go_on(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    golden: Vec<GoldenFile>,
) -> CaseResult<Evidence> {
    take_up(guest).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    expect_verified(guest).await?;
    burst(guest, context, 2).await?;
    let marker = update(guest).await?;
    finish(guest, context, SPEC, marker, golden, &[]).await
}

fn churn_of(context: &CaseContext, root: String, number: u64) -> WorkloadSpec {
    WorkloadSpec::FsChurn(FsChurnSpec {
        root,
        seed: context.seed ^ number,
        threads: 2,
        files_per_thread: 16,
        max_file_bytes: 256 << 10,
        golden_files: 4,
        budget_after_epoch_bytes: u64::MAX,
        pause_us: 0,
    })
}

/// Writers of files. Each burst has a folder of its own but the first, whose files stay as they are.
async fn start(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    number: u64,
) -> CaseResult<Workload> {
    let root = match number {
        0 => MOUNT.to_owned(),
        number => format!("{MOUNT}/burst-{number}"),
    };
    guest.start_workload(churn_of(context, root, number)).await
}

/// Writers of files in a folder, which is made, and their end.
pub(super) async fn churn_in(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    root: &str,
) -> CaseResult<()> {
    let churn = guest
        .start_workload(churn_of(context, root.to_owned(), 99))
        .await?;
    guest.stop_workload(&churn).await?;
    Ok(())
}

/// Some data, and nothing that goes on to write; the files that stay as they are.
pub(super) async fn burst(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    number: u64,
) -> CaseResult<Vec<GoldenFile>> {
    let churn = start(guest, context, number).await?;
    guest
        .wait_until(&churn, "wrote a burst", WRITE_LIMIT, |state| {
            state.bytes_written >= BURST_BYTES
        })
        .await?;
    guest.stop_workload(&churn).await?;
    Ok(churn.golden)
}

async fn hold(guest: &mut GuestSession<'_, '_>, by: HoldBy) -> CaseResult<()> {
    let file = FILE.into();
    guest.prepare(Request::Hold { file, by }).await.map(|_| ())
}

async fn write_held(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    let bytes = FILE_BYTES;
    guest
        .prepare(Request::WriteHeld { bytes })
        .await
        .map(|_| ())
}

async fn let_go(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.prepare(Request::LetGo).await.map(|_| ())
}

/// Writes a file as anybody would.
pub(super) async fn write_file(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    hold(guest, HoldBy::File).await?;
    write_held(guest).await?;
    let_go(guest).await
}

/// The module has the COW file as long as its filesystem lives, and not longer. The end of a thread's
/// mount namespace comes a moment after that of the thread.
async fn expect_pinned(guest: &mut GuestSession<'_, '_>, pinned: bool) -> CaseResult<()> {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let device = guest.active_snapshot(MINOR).await?;
        if device.cow_is_pinned == pinned {
            return Ok(());
        }
        if pinned || Instant::now() > deadline {
            return Err(CaseError::Failed(format!(
                "the COW file is{} pinned in state {:?}",
                if pinned { " not" } else { "" },
                device.state_name
            )));
        }
        guest.vm().pause(POLL).await?;
    }
}

async fn expect_verified(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest
        .verify(MINOR)
        .await?
        .map_err(|said| CaseError::Failed(format!("the COW file was not taken back: {said}")))
}

/// The next epoch, by changed blocks alone.
async fn update(guest: &mut GuestSession<'_, '_>) -> CaseResult<MarkerKey> {
    guest.phase("update");
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    Ok(marker)
}

/// A new series, copied whole; nothing is left of the old one but a file.
pub(super) async fn start_again(
    guest: &mut GuestSession<'_, '_>,
    spec: SnapshotSpec,
) -> CaseResult<MarkerKey> {
    guest.phase("full copy");
    let marker = guest.setup_snapshot(spec).await?;
    guest.copy_device(SNAPSHOT, IMAGE).await?;
    Ok(marker)
}

pub(super) async fn finish(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
    marker: MarkerKey,
    golden: Vec<GoldenFile>,
    expected_log: ExpectedLog,
) -> CaseResult<Evidence> {
    let zeroed = guest.own_blocks(spec).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with_files(golden),
    )
    .expecting(expected_log))
}

/// Unmounted while another mount namespace goes on with it, then while an open file does; each end
/// and each mount writes to the origin, and so does a journal.
async fn lazy_unmount(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let (golden, _) = begin(guest, context).await?;
    guest.phase("remount");
    hold(guest, HoldBy::Namespace).await?;
    guest.unmount(MOUNT).await?;
    expect_pinned(guest, true).await?;
    write_held(guest).await?;
    let_go(guest).await?;
    expect_pinned(guest, false).await?;

    guest.mount(ORIGIN, MOUNT, "").await?;
    write_file(guest).await?;
    hold(guest, HoldBy::File).await?;
    let target = MOUNT.into();
    guest.prepare(Request::Detach { target }).await?;
    write_held(guest).await?;
    let_go(guest).await?;

    guest.mount(ORIGIN, MOUNT, "").await?;
    write_file(guest).await?;
    expect_verified(guest).await?;
    expect_pinned(guest, true).await?;
    burst(guest, context, 2).await?;
    let marker = update(guest).await?;
    finish(guest, context, SPEC, marker, golden, &[]).await
}

/// The module is unloaded and loaded again, first while a snapshot exists, then while changes are
/// tracked.
async fn away(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    let golden = burst(guest, context, 0).await?;
    let first = guest.setup_snapshot(SPEC).await?;
    burst(guest, context, 1).await?;
    leave_and_return(guest).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    write_file(guest).await?;
    expect_verified(guest).await?;
    burst(guest, context, 2).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if device.state_name != "active snapshot" || device.seq_id != first.epoch.0 {
        return Err(CaseError::Failed(format!(
            "the snapshot did not go on: it is {:?}, epoch {}",
            device.state_name, device.seq_id
        )));
    }
    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context, 3).await?;
    leave_and_return(guest).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    expect_verified(guest).await?;
    burst(guest, context, 4).await?;
    let marker = update(guest).await?;
    finish(guest, context, SPEC, marker, golden, &[]).await
}

async fn leave_and_return(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("away");
    leave(guest).await?;
    guest.insert_module().await?;
    take_up(guest).await
}

pub(super) async fn leave(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.unmount(MOUNT).await?;
    guest.suspend(MINOR).await?;
    guest.remove_module().await
}

/// Somebody writes to the origin while the module is away. Nobody can know what, so the series must
/// not go on.
async fn offline_write(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let (golden, _) = begin(guest, context).await?;
    guest.phase("away");
    leave(guest).await?;
    guest.makes(Fault::UnseenWrites)?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    write_file(guest).await?;
    guest.unmount(MOUNT).await?;
    guest.insert_module().await?;
    let reloaded = guest.reload_all().await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    let (spec, marker) = if reloaded.is_ok() {
        expect_verified(guest).await?;
        (SPEC, update(guest).await?)
    } else {
        (OTHER_SPEC, start_again(guest, OTHER_SPEC).await?)
    };
    finish(guest, context, spec, marker, golden, &[]).await
}

/// The COW file of the series that came after one that could not go on.
pub(super) const OTHER_SPEC: SnapshotSpec = SnapshotSpec {
    cow_file: "/mnt/origin/.cowbird-2",
    cow_mib: 16,
    ..SPEC
};

/// What the module says then.
const REPLACED: &str = "the COW file is not the one that was in use";

/// The COW file is replaced by a copy while it is not held. Its extents are somebody else's then, and
/// the series must not write to them.
async fn cow_replaced(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let (golden, _) = begin(guest, context).await?;
    guest.phase("replace");
    guest.unmount(MOUNT).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    let (path, kept) = (SPEC.cow_file.to_owned(), "/mnt/origin/kept".to_owned());
    guest.prepare(Request::ReplaceByCopy { path, kept }).await?;
    let verified = guest.verify(MINOR).await?;
    let (spec, marker) = if verified.is_ok() {
        burst(guest, context, 2).await?;
        (SPEC, update(guest).await?)
    } else {
        guest.destroy_snapshot(MINOR).await?;
        (OTHER_SPEC, start_again(guest, OTHER_SPEC).await?)
    };
    finish(guest, context, spec, marker, golden, &[REPLACED]).await
}

/// The COW file becomes full, which costs the snapshot, but not the tracking of changes.
async fn cow_full(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    let golden = burst(guest, context, 0).await?;
    guest.phase("copy");
    guest.setup_snapshot(SMALL_SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    // Free blocks of the origin may have held data at the instant.
    guest
        .expect_expand_refusal(MINOR, "lies on /dev/vda1, where free blocks")
        .await?;
    guest
        .expect_auto_expand_refusal(MINOR, 8, 0, "the origin of minor 0")
        .await?;
    guest.phase("fill");
    guest.makes(Fault::FullCowFile)?;
    let churn = start(guest, context, 1).await?;
    wait_until_full(guest, &churn).await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    guest
        .wait_until(&churn, "wrote on", WRITE_LIMIT, |state| {
            state.bytes_written >= 4 * BURST_BYTES
        })
        .await?;
    guest.stop_workload(&churn).await?;
    let marker = update(guest).await?;
    finish(
        guest,
        context,
        SMALL_SPEC,
        marker,
        golden,
        &["the COW file is full"],
    )
    .await
}

async fn wait_until_full(guest: &mut GuestSession<'_, '_>, churn: &Workload) -> CaseResult<()> {
    let deadline = Instant::now() + FULL_LIMIT;
    loop {
        let info = guest.info().await?;
        let device = info.devices.iter().find(|device| device.minor == MINOR);
        match device {
            Some(device) if device.error != 0 && device.error_text.contains("full") => {
                return Ok(());
            }
            Some(device) if device.error != 0 => {
                let text = format!("the snapshot failed otherwise: {}", device.error_text);
                return Err(CaseError::Failed(text));
            }
            Some(_) if Instant::now() < deadline => {}
            _ => return Err(vacuous("the COW file did not become full")),
        }
        let written = guest.workload(churn).await?.bytes_written;
        if written > FULL_AFTER_BYTES {
            return Err(CaseError::Failed(format!(
                "{written} bytes were written, and the COW file is still not full"
            )));
        }
        guest.vm().pause(POLL).await?;
    }
}
