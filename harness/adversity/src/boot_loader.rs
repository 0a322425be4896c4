//! A boot loader writes to a file in place: the module is not there, the filesystem is not mounted, and no superblock
//! changes.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{IMAGE, MINOR, ORIGIN};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::power::Stop;
use cowbird_proto::message::Request;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, vacuous};

use crate::persistence;

use super::persistence::{MOUNT, burst, churn_in, first_epoch, go_on};

/// The case of this file.
pub static CASES: CasesOf = Subject::Persistence.cases(&[case(
    "boot-loader-writes",
    "a boot in which GRUB writes to its environment block",
    CaseTier::Daily,
    &GUEST_MODULES,
    persistence::layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::UnseenWrites])]);

/// GRUB's environment block, as on a filesystem that is mounted on `/boot`.
const FOLDER: &str = "/mnt/origin/grub";
const FILE: &str = "/mnt/origin/grub/grubenv";
const FILE_BYTES: usize = 1024;

fn environment(variables: &str) -> String {
    let begin = format!("# GRUB Environment Block\n{variables}");
    format!("{begin}{}", "#".repeat(FILE_BYTES - begin.len()))
}

async fn write(guest: &mut GuestSession<'_, '_>, variables: &str) -> CaseResult<()> {
    guest.sync_all().await?;
    let (path, text) = (FILE.into(), environment(variables));
    guest.prepare(Request::WriteText { path, text }).await?;
    guest.sync_all().await
}

/// Goal: what GRUB writes to its environment block at each boot is in the image of the next epoch. Method: an orderly
/// reboot, and a boot without the module in which the block is overwritten on the device, as firmware does it. Nothing
/// tells of that, so the series goes on, although the block is among those that were written last; the tool must have it in its
/// map.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    let golden = burst(guest, context, 0).await?;
    churn_in(guest, context, FOLDER).await?;
    write(guest, "").await?;
    first_epoch(guest, context).await?;
    // As a service at the end of a boot does.
    write(guest, "recordfail=0\n").await?;
    let place = match guest.extents(FILE).await?.as_slice() {
        [extent] => extent.physical,
        extents => return Err(vacuous(&format!("grubenv has the extents {extents:?}"))),
    };
    let record = guest.record(MINOR, IMAGE).await?;

    guest.phase("boot loader");
    guest.unmount(MOUNT).await?;
    guest.reboot(Stop::PowerOff).await?;
    guest.makes(Fault::UnseenWrites)?;
    let request = Request::WriteDirect {
        path: ORIGIN.into(),
        offset: place,
        content: environment("recordfail=1\n").into_bytes(),
    };
    guest.prepare(request).await?;
    guest.reboot(Stop::PowerOff).await?;

    guest.phase("reload");
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    go_on(guest, context, golden).await
}
