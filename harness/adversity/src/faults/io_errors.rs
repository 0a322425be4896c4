//! Disks that cannot be read or written: the origin's, the COW file's, the image's.

use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::setting::Setting;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::{Rule, RuledPiece, StackKind};
use cowbird_session::driver::{CaseError, CaseResult, Driver, RULED, SnapshotSpec};
use cowbird_session::fault::Fault;
use cowbird_vm::layout::Layout;

use super::{
    COW_MIB, FAILURES, FS_COW_FILE, MOUNT, Writers, churn, evidence, spec, start_again, update,
};

/// The cases of this file.
pub const CASES: CasesOf = Subject::Faults.cases(&[
    case(
        "origin-read-errors",
        "an origin that cannot be read while its snapshot is copied, then while it is overwritten",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        super::layout,
        |driver, setting| Box::pin(origin_read(driver, setting)),
    )
    .making(&[Fault::ReadErrors]),
    case(
        "cow-write-errors",
        "a COW file that cannot be written under a snapshot, then while changes are tracked",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_filesystem,
        |driver, setting| Box::pin(cow_write(driver, setting)),
    )
    .making(&[Fault::WriteErrors]),
    case(
        "image-errors",
        "an image that cannot be written, and filesystems without room for image and COW file",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        layout_image,
        |driver, setting| Box::pin(image_write(driver, setting)),
    )
    .making(&[Fault::WriteErrors, Fault::NoRoom]),
]);

/// A filesystem with its own COW file.
const FS_MIB: u32 = 96;
const FS_SPEC: SnapshotSpec = SnapshotSpec {
    cow_file: FS_COW_FILE,
    ..spec(RULED)
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

fn piece(start: u64, sectors: u64, rule: Rule) -> RuledPiece {
    RuledPiece {
        start,
        sectors,
        rule,
    }
}

/// The origin cannot be read. A copy of the snapshot fails and can be made again. A write to a block that
/// cannot be read goes on; the snapshot fails, and changes go on to be tracked.
async fn origin_read(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, setting).await?;
    guest.stack_ruled(ORIGIN).await?;
    // Not the last part: there a page is read before a piece of it is written, without the module.
    let three_quarters = u64::from(setting.layout.origin.sectors) / 4 * 3;
    let unreadable = [piece(0, three_quarters, Rule::FailReads)];
    Writers::start(guest, RULED, setting.seed)
        .await?
        .stop(guest)
        .await?;
    guest.setup_snapshot(spec(RULED)).await?;

    guest.phase("copy");
    guest.rule(ORIGIN, &unreadable).await?;
    guest
        .expect_failure(
            &format!("copy-image {SNAPSHOT} {IMAGE}"),
            "cannot read the snapshot",
        )
        .await?;
    guest.rule(ORIGIN, &[]).await?;
    guest.active_snapshot(MINOR).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.phase("fail");
    guest.rule(ORIGIN, &unreadable).await?;
    let mut writers = Writers::start(guest, RULED, !setting.seed).await?;
    guest.wait_until_failed(MINOR, "cannot read block").await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    writers.burst(guest).await?;
    guest.rule(ORIGIN, &[]).await?;
    let marker = update(guest).await?;
    writers.stop(guest).await?;
    finish(guest).await?;
    Ok(evidence(setting, marker, FAILURES))
}

/// The COW file cannot be written: first where preserved blocks go, which costs the snapshot; then also where
/// changes are marked, which costs the series. Writers go on, and a full copy works once the disk does.
async fn cow_write(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.stack_ruled(ORIGIN).await?;
    guest.mount(RULED, MOUNT, "").await?;
    guest.insert_module().await?;
    churn(guest, setting, "first").await?;
    guest.setup_snapshot(FS_SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.phase("fail");
    fail_cow_file(guest, METADATA_BYTES).await?;
    churn(guest, setting, "second").await?;
    guest
        .wait_until_failed(MINOR, "cannot write to the COW file")
        .await?;
    guest.expect_unreadable(SNAPSHOT, IMAGE).await?;
    churn(guest, setting, "third").await?;
    guest.rule(ORIGIN, &[]).await?;
    update(guest).await?;

    guest.phase("fail again");
    guest.transition_to_incremental(MINOR).await?;
    fail_cow_file(guest, 0).await?;
    churn(guest, setting, "fourth").await?;
    guest.wait_until_failed(MINOR, "COW file").await?;
    churn(guest, setting, "fifth").await?;
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
    guest.rule(ORIGIN, &[]).await?;
    let marker = start_again(guest, FS_SPEC, IMAGE).await?;
    churn(guest, setting, "last").await?;
    let zeroed = guest.own_blocks(FS_SPEC).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.unstack(StackKind::Ruled).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, setting.origin_range())
            .zeroed(zeroed)
            .with(OfImage::SoundExt4),
    )
    .expecting(FAILURES))
}

/// Writes to the COW file from this byte of it on fail from now on, and nothing else.
pub(super) async fn fail_cow_file(guest: &mut Driver<'_, '_>, from: u64) -> CaseResult<()> {
    let mut pieces = Vec::new();
    for extent in guest.extents(FS_COW_FILE).await? {
        let skipped = from.saturating_sub(extent.logical).min(extent.length);
        pieces.push(piece(
            (extent.physical + skipped) / 512,
            (extent.length - skipped) / 512,
            Rule::FailWrites,
        ));
    }
    pieces.sort_by_key(|piece| piece.start);
    guest.rule(ORIGIN, &pieces).await
}

/// The image cannot be written, or is larger than what there is room for; so is a COW file. The tool says so
/// and the snapshot stays as it is. An image that was begun is not taken for one that is whole.
async fn image_write(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, setting).await?;
    guest.mount(SMALL_HOME, SMALL_MOUNT, "").await?;
    guest.stack_ruled(IMAGE).await?;
    let mut writers = Writers::start(guest, ORIGIN, setting.seed).await?;
    guest.makes(Fault::NoRoom)?;
    guest
        .expect_failure(
            &format!("setup-snapshot -f {COW_MIB} {ORIGIN} {SMALL_MOUNT}/cow {MINOR}"),
            "No space left",
        )
        .await?;
    guest.setup_snapshot(spec(ORIGIN)).await?;

    guest.phase("fail");
    let unwritable = piece(IMAGE_FAILS_AT / 512, BLOCK_SECTORS, Rule::FailWrites);
    guest.rule(IMAGE, &[unwritable]).await?;
    let copy = format!("copy-image {SNAPSHOT} {RULED}");
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
    guest.rule(IMAGE, &[]).await?;
    guest.transition_to_incremental(MINOR).await?;
    guest.transition_to_snapshot(MINOR).await?;
    guest
        .expect_update_refusal(MINOR, SNAPSHOT, RULED, "copy-image")
        .await?;

    guest.phase("copy");
    guest.copy_image(SNAPSHOT, RULED).await?;
    guest.transition_to_incremental(MINOR).await?;
    writers.burst(guest).await?;
    guest.phase("update");
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest.rule(IMAGE, &[unwritable_everywhere()]).await?;
    guest
        .expect_update_refusal(MINOR, SNAPSHOT, RULED, "cannot")
        .await?;
    guest.rule(IMAGE, &[]).await?;
    guest.update_image(MINOR, SNAPSHOT, RULED).await?;
    guest.active_snapshot(MINOR).await?;
    writers.stop(guest).await?;
    guest.unmount(SMALL_MOUNT).await?;
    finish(guest).await?;
    Ok(evidence(setting, marker, &[]))
}

fn unwritable_everywhere() -> RuledPiece {
    piece(0, u64::MAX, Rule::FailWrites)
}

async fn finish(guest: &mut Driver<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.unstack(StackKind::Ruled).await?;
    guest.remove_module().await
}
