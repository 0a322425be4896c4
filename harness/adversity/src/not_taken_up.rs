//! Series that must not be taken up, now or ever: something was written while nobody tracked, or the record is of
//! another series or another device.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_checks::power::Stop;
use cowbird_host::disk::Filesystem;
use cowbird_proto::message::Request;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::{Layout, MIB_SECTORS};

use crate::persistence;

use super::persistence::{
    MOUNT, OTHER_SPEC, SPEC, begin, burst, finish, go_on, leave, start_again, write_file,
};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Persistence.cases(&[
    case(
        "refused-for-good",
        "a reload that came too late, and another one in the next boot",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |guest, context| Box::pin(refused_for_good(guest, context)),
    )
    .making(&[Fault::UnseenWrites, Fault::PowerCut]),
    case(
        "recorded-otherwise",
        "records of another series, and of another partition",
        CaseTier::Daily,
        &GUEST_MODULES,
        persistence::layout,
        |guest, context| Box::pin(recorded_otherwise(guest, context)),
    ),
    case(
        "deleted-while-away",
        "a suspended snapshot whose COW file is deleted",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout_beside,
        |guest, context| Box::pin(deleted_while_away(guest, context)),
    )
    .making(&[Fault::DeletedCowFile]),
]);

/// Where the COW file has a filesystem of its own.
const ORIGIN_SECTORS: u32 = 64 * MIB_SECTORS;
const COW_MIB: u32 = 24;
const COW_HOME_MIB: u32 = 80;

/// What the tool says of a reload that comes too late, by boots.
const WRITTEN: &str = "was written to in this boot";
const LOST: &str = "tracking was lost before";

/// Goal: a reload that was refused stays refused in later boots, which cannot see why any more. Method: a power cut, a boot
/// in which the origin is written to before the reload, and one in which it is not. The record is each time that of the
/// first boot, as in an initramfs.
async fn refused_for_good(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let (golden, after) = begin(guest, context).await?;
    let record = guest.record(MINOR, IMAGE).await?;

    guest.phase("first reload");
    let seed = context.seed;
    guest.reboot(Stop::PowerCut { after, seed }).await?;
    guest.makes(Fault::UnseenWrites)?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    write_file(guest).await?;
    guest.unmount(MOUNT).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    expect_refusal(guest, WRITTEN).await?;

    guest.phase("second reload");
    guest.reboot(Stop::PowerOff).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    // Whether a map would lack a block depends on which regions are marked, so the refusal itself is asked for.
    expect_refusal(guest, LOST).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    let marker = start_again(guest, OTHER_SPEC).await?;
    finish(guest, context, OTHER_SPEC, marker, golden, &[]).await
}

/// Goal: a record is believed only for its own series and its own devices, and a wrong one harms nothing: with the right
/// one the series goes on. Method: the record with another UUID, then with another partition.
async fn recorded_otherwise(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let (golden, _) = begin(guest, context).await?;
    let record = guest.record(MINOR, IMAGE).await?;
    leave(guest).await?;
    guest.insert_module().await?;

    guest.phase("other records");
    let uuid = record.uuid()?;
    let other: String = uuid.chars().rev().collect();
    if other == uuid {
        return Err(vacuous("the UUID reads the same from both ends"));
    }
    guest.remove_record(&record).await?;
    let renamed = record.replaced(&uuid, &other)?;
    guest.put_record(&renamed).await?;
    expect_refusal(guest, "another series").await?;
    guest.remove_record(&renamed).await?;

    let other = record.replaced("\"partition\": \"1\"", "\"partition\": \"2\"")?;
    guest.put_record(&other).await?;
    expect_refusal(guest, "its partition is 1, and was 2").await?;

    guest.phase("right record");
    guest.put_record(&record).await?;
    go_on(guest, context, golden).await
}

/// A filesystem, and behind it one for the COW file.
fn layout_beside() -> Layout {
    Layout {
        filesystem: Some(Filesystem::Ext4),
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
    }
}

/// Goal: a snapshot whose COW file was deleted while it was suspended is not believed. Method: the file is on another
/// filesystem, so that nothing is written to the origin, and the module takes the snapshot up again; the tool must say so,
/// and refuse a copy. The image is that of a new series.
async fn deleted_while_away(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let [spec, second] = ["/mnt/cow/first", "/mnt/cow/second"].map(|cow_file| SnapshotSpec {
        cow_file,
        cow_mib: COW_MIB,
        ..SPEC
    });
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    guest.insert_module().await?;
    burst(guest, context, 0).await?;
    guest.setup_snapshot(spec).await?;
    burst(guest, context, 1).await?;

    guest.phase("delete");
    // First the origin: what it writes then is preserved in the COW file.
    guest.unmount(MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.suspend(MINOR).await?;
    guest.remove_module().await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    let path = spec.cow_file.to_owned();
    guest.makes(Fault::DeletedCowFile)?;
    guest.prepare(Request::RemoveFile { path }).await?;
    guest.insert_module().await?;
    // The module has it again, and the tool has noticed that its file is missing.
    expect_refusal(guest, "is not there").await?;
    guest
        .expect_copy_refusal(SNAPSHOT, IMAGE, "cannot be trusted")
        .await?;

    guest.phase("copy");
    guest.destroy_snapshot(MINOR).await?;
    guest.mount(ORIGIN, MOUNT, "").await?;
    let marker = guest.setup_snapshot(second).await?;
    burst(guest, context, 2).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(
        ImageClaim::new(marker, context.origin_range()).with(OfImage::SoundExt4),
    ))
}

pub(super) async fn expect_refusal(
    guest: &mut GuestSession<'_, '_>,
    named: &str,
) -> CaseResult<()> {
    match guest.reload_all().await? {
        Err(said) if said.contains(named) => Ok(()),
        Err(said) => Err(unexpected_refusal(named, &said)),
        Ok(()) => Err(CaseError::Failed(format!(
            "the series goes on, where it must be refused: {named}"
        ))),
    }
}

fn unexpected_refusal(named: &str, said: &str) -> CaseError {
    CaseError::Failed(format!("the refusal does not name \"{named}\": {said}"))
}
