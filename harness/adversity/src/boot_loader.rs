//! A boot loader writes to a file in place: the module is not there, the filesystem is not mounted, and no superblock
//! changes.

use cowbird_cases::names::{IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::setting::Setting;
use cowbird_checks::power::Stop;
use cowbird_checks::verify::Evidence;
use cowbird_proto::message::Request;
use cowbird_session::driver::{CaseError, CaseResult, Driver, vacuous};

use super::persistence::{MOUNT, SPEC, burst, churn_in, expect_verified, finish, update};

/// GRUB's environment block, as on a filesystem that is mounted on `/boot`.
const FOLDER: &str = "/mnt/origin/grub";
const FILE: &str = "/mnt/origin/grub/grubenv";
const FILE_BYTES: usize = 1024;

/// Goal: what GRUB writes to its environment block at each boot is in the image of the next epoch. Method: an orderly
/// reboot, and a boot without the module in which the block is overwritten on the device, as firmware does it. Nothing
/// tells of that, so the series goes on; the tool must have the block in its map.
pub async fn act(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    guest.phase("setup");
    guest.mount(ORIGIN, MOUNT, "").await?;
    guest.insert_module().await?;
    let golden = burst(guest, setting, 0).await?;
    churn_in(guest, setting, FOLDER).await?;
    let request = Request::WriteText {
        path: FILE.into(),
        text: "#".repeat(FILE_BYTES),
    };
    guest.prepare(request).await?;
    guest.sync_all().await?;
    guest.phase("copy");
    guest.setup_snapshot(SPEC).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    burst(guest, setting, 1).await?;
    let place = match guest.extents(FILE).await?.as_slice() {
        [extent] => extent.physical,
        extents => return Err(vacuous(&format!("grubenv has the extents {extents:?}"))),
    };
    let record = guest.record(MINOR, IMAGE).await?;

    guest.phase("boot loader");
    guest.unmount(MOUNT).await?;
    guest.reboot(Stop::PowerOff).await?;
    let request = Request::WriteDirect {
        path: ORIGIN.into(),
        offset: place,
        content: vec![b'x'; FILE_BYTES],
    };
    guest.prepare(request).await?;
    guest.reboot(Stop::PowerOff).await?;

    guest.phase("reload");
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    if let Err(said) = guest.reload_all().await? {
        let reason = format!("the series does not go on after a boot loader has written: {said}");
        return Err(CaseError::Failed(reason));
    }
    guest.mount(ORIGIN, MOUNT, "").await?;
    expect_verified(guest).await?;
    burst(guest, setting, 2).await?;
    let marker = update(guest).await?;
    finish(guest, setting, SPEC, marker, golden, &[]).await
}
