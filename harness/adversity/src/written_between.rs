//! Another system writes between two boots, after an orderly end, and the first 64 KiB of the origin stay as they are.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_cases::whole_disk;
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_checks::power::Stop;
use cowbird_model::BlockSet;
use cowbird_proto::message::Request;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, SnapshotSpec};

use super::boots::burst;
use super::not_taken_up::expect_refusal;
use super::persistence::start_again;

/// The cases of this file.
pub static CASES: CasesOf = Subject::Persistence.cases(&[
    case(
        "database-goes-on",
        "a boot in which the block is rewritten that was written last",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |guest, context| Box::pin(database(guest, context)),
    )
    .making(&[Fault::UnseenWrites]),
    case(
        "partition-mounted",
        "a whole disk, and a boot in which one of its partitions is mounted",
        CaseTier::Daily,
        &GUEST_MODULES,
        whole_disk::layout,
        |guest, context| Box::pin(partition(guest, context)),
    )
    .making(&[Fault::UnseenWrites]),
]);

/// The first disk, of which [`ORIGIN`] is a partition.
const DISK: &str = "/dev/vda";

/// What the tool says of the reload.
const CHANGED: &str = "changed since tracking was saved";

/// A block of the origin, as a database writes the head of its log, bytes.
const LOG_HEAD_AT: u64 = 20 << 20;
const LOG_HEAD_BYTES: usize = 4096;

/// For the series that comes after.
const COW_FILE: &str = "/mnt/cow/second.cow";
const COW_MIB: u32 = 16;

/// Goal: a raw volume whose user has gone on in a boot without the module is not taken up. Method: the block that was
/// written last is written once more.
async fn database(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let spec = raw_writers::spec(ORIGIN);
    first_epoch(guest, context, spec).await?;
    write_log_head(guest, b'1').await?;
    let record = guest.record(MINOR, IMAGE).await?;
    guest.phase("other system");
    guest.reboot(Stop::PowerOff).await?;
    guest.makes(Fault::UnseenWrites)?;
    write_log_head(guest, b'2').await?;
    guest.reboot(Stop::PowerOff).await?;

    guest.phase("reload");
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    expect_refusal(guest, CHANGED).await?;
    guest.mount(context.cow_home(), COW_MOUNT, "").await?;
    again(guest, context, spec, None).await
}

/// Goal: a whole disk of which another system has mounted a partition is not taken up, although its own head is as it was.
/// Method: a file is written to the second partition, on which the COW file is, too.
async fn partition(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    let spec = raw_writers::spec(DISK);
    first_epoch(guest, context, spec).await?;
    let record = guest.record(MINOR, IMAGE).await?;
    guest.phase("other system");
    guest.unmount(COW_MOUNT).await?;
    guest.reboot(Stop::PowerOff).await?;
    guest.makes(Fault::UnseenWrites)?;
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    let (path, text) = ("/mnt/cow/other".to_owned(), "of another system".to_owned());
    guest.prepare(Request::WriteText { path, text }).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.reboot(Stop::PowerOff).await?;

    guest.phase("reload");
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    expect_refusal(guest, CHANGED).await?;
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    let home = context.layout.cow_home;
    let home_at = home.map(|home| u64::from(home.start) * 512);
    again(guest, context, spec, home_at).await
}

async fn first_epoch(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
) -> CaseResult<()> {
    raw_writers::prepare(guest, context).await?;
    burst(guest, context.seed).await?;
    guest.phase("copy");
    guest.setup_snapshot(spec).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context.seed ^ 1).await
}

async fn write_log_head(guest: &mut GuestSession<'_, '_>, byte: u8) -> CaseResult<()> {
    let request = Request::WriteDirect {
        path: ORIGIN.into(),
        offset: LOG_HEAD_AT,
        content: vec![byte; LOG_HEAD_BYTES],
    };
    guest.prepare(request).await.map(|_| ())
}

/// What was refused is begun anew, and copied whole. `home_at`: where the COW file's filesystem begins on the origin, bytes,
/// if it is a part of it.
async fn again(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    spec: SnapshotSpec,
    home_at: Option<u64>,
) -> CaseResult<Evidence> {
    let second = SnapshotSpec {
        cow_file: COW_FILE,
        cow_mib: COW_MIB,
        ..spec
    };
    let marker = start_again(guest, second).await?;
    let zeroed = match home_at {
        Some(offset) => guest.own_blocks_at(second, offset).await?,
        None => BlockSet::new(),
    };
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(ImageClaim {
        zeroed,
        ..ImageClaim::new(marker, context.origin_range())
    }))
}
