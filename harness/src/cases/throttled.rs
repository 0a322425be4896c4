//! Writes that a cgroup's limit delays across the snapshot instant. They have passed the hook before
//! it and reach the disk after it. The snapshot must be right, or must have failed and say so.

use std::time::Duration;

use cowbird_proto::message::{Request, ThrottledSpec, WorkloadSpec};

use super::{COW_MOUNT, Layout, MINOR, SNAPSHOT, Setting, raw_writers, vacuous};
use crate::driver::{CaseError, CaseResult, Driver, FAILED};
use crate::verify::{Evidence, SnapshotEvidence};

/// Blocks that are written. They are submitted at once.
const BLOCKS: u32 = 32;

/// The limit: about ten seconds for all of them.
const BYTES_PER_SECOND: u64 = 12 << 10;

/// Time until the writes are submitted, and until they are done.
const LIMIT: Duration = Duration::from_secs(90);

/// Why it must have failed, if it has.
pub(super) const DELAYED: &str = "delayed since before the snapshot";

pub(super) fn layout() -> Layout {
    raw_writers::layout()
}

pub(super) async fn act(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, setting).await?;
    let delayed = WorkloadSpec::Throttled(ThrottledSpec {
        device: setting.origin().into(),
        disk: setting.disk_name().into(),
        seed: setting.seed,
        blocks: BLOCKS,
        bytes_per_second: BYTES_PER_SECOND,
    });
    let delayed = guest.start_workload(delayed).await?;
    guest
        .wait_until(&delayed, "all writes are submitted", LIMIT, |state| {
            state.operations > 0
        })
        .await?;

    guest.phase("snapshot");
    let marker = match guest
        .setup_snapshot(raw_writers::spec(setting.origin()))
        .await
    {
        Ok(marker) => Some(marker),
        // One of the writes may have come before the first look at the snapshot.
        Err(CaseError::Failed(reason)) if reason.contains(DELAYED) => None,
        Err(error) => return Err(error),
    };
    if guest.workload(&delayed).await?.finished {
        return Err(vacuous("all writes were done before the snapshot"));
    }

    guest.phase("overwrite");
    guest
        .wait_until(&delayed, "all writes are done", LIMIT, |state| {
            state.finished
        })
        .await?;
    guest.stop_workload(&delayed).await?;
    let info = guest.info().await?;
    let failed = info
        .devices
        .iter()
        .find(|device| device.minor == MINOR && device.error != 0);

    guest.phase("copy");
    let evidence = match (failed, marker) {
        (None, Some(marker)) => {
            guest.copy_device(SNAPSHOT, setting.image()).await?;
            guest.active_snapshot(MINOR).await?;
            Evidence::Snapshot(SnapshotEvidence::new(marker, setting.origin_range()))
        }
        (Some(device), _) if device.error_text.contains(DELAYED) => {
            guest.note(format!("failed as it must: {}", device.error_text));
            expect_no_image(guest, setting).await?;
            Evidence::FailedSnapshot(&[FAILED])
        }
        (device, _) => {
            let reason = format!("the snapshot is neither right nor failed: {device:?}");
            return Err(CaseError::Failed(reason));
        }
    };

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence)
}

/// A snapshot that has failed gives nothing to a backup.
async fn expect_no_image(guest: &mut Driver<'_, '_>, setting: &Setting) -> CaseResult<()> {
    let request = Request::CopyDevice {
        from: SNAPSHOT.into(),
        bytes: None,
        to: setting.image().into(),
        to_byte: 0,
        chunk_bytes: 1 << 20,
    };
    match guest.try_request(request).await? {
        Err(_) => Ok(()),
        Ok(_) => Err(CaseError::Failed(
            "a snapshot that has failed can be read".to_owned(),
        )),
    }
}
