//! Somebody writes into a COW file where the module does not see it.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::modules;
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_proto::message::{Extent, Request, StackKind};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec, vacuous};

use super::persistence::start_again;

/// The case of this file.
pub static CASES: CasesOf = Subject::Persistence.cases(&[case(
    "marks-overwritten",
    "a COW file that somebody overwrites below its device while it is not held",
    CaseTier::Daily,
    &modules(["dm_mod"]),
    raw_writers::layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::ChangedCowFile])]);

/// Where the marks of either epoch are in a COW file of few pieces, bytes: behind the epoch header, a slot of pieces, two of
/// the state and two of samples.
const MARKS_AT: u64 = 6 * 4096;
const MARKS_BYTES: usize = 2 * 4096;

/// A block of the origin that nobody has written to.
const WRITE_AT: u64 = 30 << 20;

/// What the module says then.
const OVERWRITTEN: &str = "was overwritten by somebody else";

/// And that its end is not written there, either. Where the host is slow, the unmount does not save it.
const EXPECTED_LOG: ExpectedLog = &[
    OVERWRITTEN,
    "cannot write the tracking state to the COW file",
    "not saved, because writes",
];

/// Goal: a mark is not written over what is somebody else's, although nobody was seen to write there. Method: the COW file is on
/// a logical device and not held, and its marks are overwritten through the disk below; then the origin is written to.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    let spec = raw_writers::spec(ORIGIN);
    guest.phase("setup");
    let home = guest
        .stack(&[context.cow_home()], StackKind::Linear)
        .await?;
    guest.mount(&home, COW_MOUNT, "").await?;
    guest.insert_module().await?;
    guest.phase("copy");
    guest.setup_snapshot(spec).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    let extents = guest.extents(spec.cow_file).await?;
    let holds = |extent: &&Extent| {
        let end = extent.logical + extent.length;
        extent.logical <= MARKS_AT && MARKS_AT + MARKS_BYTES as u64 <= end
    };
    let at = match extents.iter().find(holds) {
        Some(extent) => extent.physical + (MARKS_AT - extent.logical),
        None => {
            return Err(vacuous(&format!(
                "the COW file has the extents {extents:?}"
            )));
        }
    };

    guest.phase("overwrite");
    guest.unmount(COW_MOUNT).await?;
    guest.makes(Fault::ChangedCowFile)?;
    write(guest, context.cow_home(), at, MARKS_BYTES).await?;
    write(guest, ORIGIN, WRITE_AT, 4096).await?;
    let info = guest.info().await?;
    let device = info.devices.iter().find(|device| device.minor == MINOR);
    if !device.is_some_and(|device| device.error_text.contains(OVERWRITTEN)) {
        let text = "the series goes on, although its marks were overwritten";
        return Err(CaseError::Failed(text.to_owned()));
    }

    guest.destroy_snapshot(MINOR).await?;
    guest.mount(&home, COW_MOUNT, "").await?;
    let second = SnapshotSpec {
        cow_file: "/mnt/cow/second.cow",
        cow_mib: 16,
        ..spec
    };
    let marker = start_again(guest, second).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    guest.unstack(StackKind::Linear).await?;
    let image = ImageClaim::new(marker, context.origin_range());
    Ok(Evidence::from(image).expecting(EXPECTED_LOG))
}

async fn write(
    guest: &mut GuestSession<'_, '_>,
    device: &str,
    offset: u64,
    bytes: usize,
) -> CaseResult<()> {
    let request = Request::WriteDirect {
        path: device.into(),
        offset,
        content: vec![0x5A; bytes],
    };
    guest.prepare(request).await.map(|_| ())
}
