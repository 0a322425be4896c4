//! Writes that a cgroup's limit delays across the snapshot instant. They have passed the hook before
//! it and reach the disk after it. The snapshot must be right.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_MOUNT, MINOR, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_proto::message::{ThrottledSpec, WorkloadSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession, vacuous};
use cowbird_vm::layout::Layout;

/// The case of this file.
pub static CASES: CasesOf = Subject::Surroundings.cases(&[case(
    "throttled",
    "writes that a cgroup's limit delays across the snapshot instant",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::LimitedGroup])]);

/// Blocks that are written. They are submitted at once.
const BLOCKS: u32 = 32;

/// The limit: about ten seconds for all of them.
const BYTES_PER_SECOND: u64 = 12 << 10;

/// Time until the writes are submitted, and until they are done.
const LIMIT: Duration = Duration::from_secs(90);

/// The disks of `throttled`.
fn layout() -> Layout {
    raw_writers::layout()
}

/// Plays `throttled`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let delayed = WorkloadSpec::Throttled(ThrottledSpec {
        device: context.origin().into(),
        disk: context.disk_name().into(),
        seed: context.seed,
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
    let marker = guest
        .setup_snapshot(raw_writers::spec(context.origin()))
        .await?;
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

    guest.phase("copy");
    guest.copy_device(SNAPSHOT, context.image()).await?;
    guest.active_snapshot(MINOR).await?;

    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(Evidence::from(ImageClaim::new(
        marker,
        context.origin_range(),
    )))
}
