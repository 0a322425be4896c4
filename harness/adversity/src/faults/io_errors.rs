//! Disks that cannot be read or written: the origin's, the COW file's, the image's.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{FaultTarget, InjectedFault, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, FAULTY, GuestSession, SnapshotSpec};
use cowbird_vm::layout::Layout;

use super::{
    COW_MIB, FAILURES, FS_COW_FILE, MOUNT, Writers, churn, evidence, spec, start_again, update,
};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Faults.cases(&[
    case(
        "origin-read-errors",
        "an origin that cannot be read while its snapshot is copied, then while it is overwritten",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        super::layout,
        |guest, context| Box::pin(origin_read(guest, context)),
    )
    .making(&[Fault::ReadErrors]),
    case(
        "cow-write-errors",
        "a COW file that cannot be written under a snapshot, then while changes are tracked",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_filesystem,
        |guest, context| Box::pin(cow_write(guest, context)),
    )
    .making(&[Fault::WriteErrors]),
    case(
        "image-errors",
        "an image that cannot be written, and filesystems without room for image and COW file",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_image,
        |guest, context| Box::pin(image_write(guest, context)),
    )
    .making(&[Fault::WriteErrors, Fault::NoRoom]),
]);

/// A filesystem with its own COW file.
const FS_MIB: u32 = 96;
const FS_SPEC: SnapshotSpec = SnapshotSpec {
    cow_file: FS_COW_FILE,
    ..spec(FAULTY)
};

/// What the module keeps at the start of a COW file of this size fits into so much of it.
const METADATA_BYTES: u64 = 1 << 20;

/// What [`spec`]'s image must also fit on: too small for it.
const SMALL_MIB: u32 = 8;

const SMALL_HOME: &str = "/dev/vda3";
const SMALL_MOUNT: &str = "/mnt/small";

/// Sectors of a block.
const BLOCK_SECTORS: u64 = 8;

/// A write of the image fails here, byte.
const IMAGE_FAILS_AT: u64 = 5 << 20;

/// The disks of `cow-write-errors`.
pub fn layout_filesystem() -> Layout {
    Layout::filesystem(Filesystem::Ext4, FS_MIB)
}

/// The disks of `image-errors`.
fn layout_image() -> Layout {
    super::layout().with_third(SMALL_MIB)
}

fn piece(start: u64, sectors: u64, fault: InjectedFault) -> FaultTarget {
    FaultTarget {
        start,
        sectors,
        fault,
    }
}

/// The origin cannot be read. A copy of the snapshot fails and can be made again. A write to a block that
/// cannot be read goes on; the snapshot fails, and changes go on to be tracked.
async fn origin_read(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.stack_faulty(ORIGIN).await?;
    // Not the last part: there a page is read before a piece of it is written, without the module.
    let three_quarters = u64::from(context.layout.origin.sectors) / 4 * 3;
    let unreadable = [piece(0, three_quarters, InjectedFault::FailReads)];
    Writers::start(guest, FAULTY, context.seed)
        .await?
        .stop(guest)
        .await?;
    guest.setup_snapshot(spec(FAULTY)).await?;

    guest.phase("copy");
    guest.inject_faults(ORIGIN, &unreadable).await?;
    guest
        .expect_failure(
            &format!("copy-image {SNAPSHOT} {IMAGE}"),
            "cannot read the snapshot",
        )
        .await?;
    guest.inject_faults(ORIGIN, &[]).await?;
    guest.active_snapshot(MINOR).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.phase("fail");
    guest.inject_faults(ORIGIN, &unreadable).await?;
    let mut writers = Writers::start(guest, FAULTY, !context.seed).await?;
    guest.wait_until_failed(MINOR, "cannot read block").await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    writers.burst(guest).await?;
    guest.inject_faults(ORIGIN, &[]).await?;
    let marker = update(guest).await?;
    writers.stop(guest).await?;
    finish(guest).await?;
    Ok(evidence(context, marker, FAILURES))
}

/// The COW file cannot be written: first where preserved blocks go, which costs the snapshot; then also where
/// changes are marked, which costs the series. Writers go on, and a full copy works once the disk does.
async fn cow_write(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.stack_faulty(ORIGIN).await?;
    guest.mount(FAULTY, MOUNT, "").await?;
    guest.insert_module().await?;
    churn(guest, context, "first").await?;
    guest.setup_snapshot(FS_SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.phase("fail");
    fail_cow_file(guest, METADATA_BYTES).await?;
    churn(guest, context, "second").await?;
    guest
        .wait_until_failed(MINOR, "cannot write to the COW file")
        .await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    churn(guest, context, "third").await?;
    guest.inject_faults(ORIGIN, &[]).await?;
    update(guest).await?;

    guest.phase("fail again");
    guest.transition_to_incremental(MINOR).await?;
    fail_cow_file(guest, 0).await?;
    churn(guest, context, "fourth").await?;
    guest.wait_until_failed(MINOR, "COW file").await?;
    churn(guest, context, "fifth").await?;
    if guest
        .info()
        .await?
        .devices
        .iter()
        .any(|device| device.tracks)
    {
        return Err(CaseError::Failed(
            "changes are said to be tracked, although they cannot be marked".to_owned(),
        ));
    }
    guest
        .expect_transition_refusal(&[MINOR], "does not track changes")
        .await?;
    // The series can be ended while its COW file still fails.
    guest.destroy_snapshot(MINOR).await?;
    guest.inject_faults(ORIGIN, &[]).await?;
    let marker = start_again(guest, FS_SPEC, IMAGE).await?;
    churn(guest, context, "last").await?;
    let zeroed = guest.own_blocks(FS_SPEC).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range())
            .zeroed(zeroed)
            .with(OfImage::SoundExt4),
    )
    .expecting(FAILURES))
}

/// Writes to the COW file from this byte of it on fail from now on, and nothing else.
pub(super) async fn fail_cow_file(guest: &mut GuestSession<'_, '_>, from: u64) -> CaseResult<()> {
    let mut pieces = Vec::new();
    for extent in guest.extents(FS_COW_FILE).await? {
        let skipped = from.saturating_sub(extent.logical).min(extent.length);
        pieces.push(piece(
            (extent.physical + skipped) / 512,
            (extent.length - skipped) / 512,
            InjectedFault::FailWrites,
        ));
    }
    pieces.sort_by_key(|piece| piece.start);
    guest.inject_faults(ORIGIN, &pieces).await
}

/// The image cannot be written, or is larger than what there is room for; so is a COW file. The tool says so
/// and the snapshot stays as it is. An image that was begun is not taken for one that is whole.
async fn image_write(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    guest.mount(SMALL_HOME, SMALL_MOUNT, "").await?;
    guest.stack_faulty(IMAGE).await?;
    let mut writers = Writers::start(guest, ORIGIN, context.seed).await?;
    guest.makes(Fault::NoRoom)?;
    guest
        .expect_failure(
            &format!("setup-snapshot -f {COW_MIB} {ORIGIN} {SMALL_MOUNT}/cow {MINOR}"),
            "No space left",
        )
        .await?;
    guest.setup_snapshot(spec(ORIGIN)).await?;

    guest.phase("fail");
    let unwritable = piece(
        IMAGE_FAILS_AT / 512,
        BLOCK_SECTORS,
        InjectedFault::FailWrites,
    );
    guest.inject_faults(IMAGE, &[unwritable]).await?;
    let copy = format!("copy-image {SNAPSHOT} {FAULTY}");
    guest.expect_failure(&copy, "cannot sync").await?;
    guest
        .expect_failure(
            &format!("copy-image {SNAPSHOT} {SMALL_MOUNT}/image"),
            "No space left",
        )
        .await?;
    writers.burst(guest).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("incomplete");
    guest.inject_faults(IMAGE, &[]).await?;
    guest.transition_to_incremental(MINOR).await?;
    guest.transition_to_snapshot(MINOR).await?;
    guest
        .expect_update_refusal(MINOR, SNAPSHOT, FAULTY, "copy-image")
        .await?;

    guest.phase("copy");
    guest.copy_image(SNAPSHOT, FAULTY).await?;
    guest.transition_to_incremental(MINOR).await?;
    writers.burst(guest).await?;
    guest.phase("update");
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest
        .inject_faults(IMAGE, &[unwritable_everywhere()])
        .await?;
    guest
        .expect_update_refusal(MINOR, SNAPSHOT, FAULTY, "cannot")
        .await?;
    guest.inject_faults(IMAGE, &[]).await?;
    guest.update_image(MINOR, SNAPSHOT, FAULTY).await?;
    guest.active_snapshot(MINOR).await?;
    writers.stop(guest).await?;
    guest.unmount(SMALL_MOUNT).await?;
    finish(guest).await?;
    Ok(evidence(context, marker, &[]))
}

fn unwritable_everywhere() -> FaultTarget {
    piece(0, u64::MAX, InjectedFault::FailWrites)
}

async fn finish(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    guest.remove_module().await
}
