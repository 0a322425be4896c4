//! A series that goes on through boots. After a power-off by the kernel its snapshot is there again;
//! after a power cut only its changes are, by region. The image is brought up to date by the change maps
//! alone and must show the last epoch, all blocks.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_checks::power::Stop;
use cowbird_model::MarkerKey;
use cowbird_proto::message::{RawWritersSpec, WorkloadSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Boots.cases(&[
    case(
        "power-off",
        "a snapshot, then a change map, that go on after the machine was powered off and booted",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |guest, context| Box::pin(power_off(guest, context)),
    ),
    case(
        "power-cut",
        "changes that go on to be tracked after the power was cut, twice",
        CaseTier::Daily,
        &GUEST_MODULES,
        raw_writers::layout,
        |guest, context| Box::pin(power_cut(guest, context)),
    )
    .making(&[Fault::PowerCut]),
]);

/// Data of one burst of writes.
const BURST_BYTES: u64 = 4 << 20;

/// Time for it.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// The states of a series that is well.
const PRESERVING: &str = "active snapshot";
const TRACKING: &str = "active incremental";

/// Pairs of writers on the same blocks, for a while.
pub(super) async fn burst(guest: &mut GuestSession<'_, '_>, seed: u64) -> CaseResult<()> {
    let writers = guest
        .start_workload(WorkloadSpec::RawWriters(RawWritersSpec {
            device: ORIGIN.into(),
            seed,
            pairs: 2,
            discard_every: 24,
            rest_at_bytes: 0,
        }))
        .await?;
    guest
        .wait_until(&writers, "wrote a burst", WRITE_LIMIT, |state| {
            state.bytes_written >= BURST_BYTES
        })
        .await?;
    guest.stop_workload(&writers).await.map(|_| ())
}

/// Another boot; the series is taken up again before anything is written or mounted, and must then be in
/// that state.
async fn reboot(guest: &mut GuestSession<'_, '_>, stop: Stop, state: &str) -> CaseResult<()> {
    guest.phase("reboot");
    let record = guest.record(MINOR, IMAGE).await?;
    guest.reboot(stop).await?;
    guest.insert_module().await?;
    guest.put_record(&record).await?;
    let refused = |said| CaseError::Failed(format!("the series was not taken up again: {said}"));
    guest.reload_all().await?.map_err(refused)?;
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.verify(MINOR).await?.map_err(refused)?;
    match guest.active_snapshot(MINOR).await?.state_name {
        found if found == state => Ok(()),
        found => Err(CaseError::Failed(format!(
            "the series is {found:?} after the boot and must be {state:?}"
        ))),
    }
}

/// The next epoch, by changed blocks alone.
async fn update(guest: &mut GuestSession<'_, '_>) -> CaseResult<MarkerKey> {
    guest.phase("update");
    let marker = guest.transition_to_snapshot(MINOR).await?;
    guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    Ok(marker)
}

/// Powered off while it has a snapshot, then while it tracks changes.
async fn power_off(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    burst(guest, context.seed).await?;
    guest.setup_snapshot(raw_writers::spec(ORIGIN)).await?;
    burst(guest, context.seed ^ 1).await?;
    reboot(guest, Stop::PowerOff, PRESERVING).await?;
    burst(guest, context.seed ^ 2).await?;
    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    burst(guest, context.seed ^ 3).await?;
    reboot(guest, Stop::PowerOff, TRACKING).await?;
    burst(guest, context.seed ^ 4).await?;
    let marker = update(guest).await?;
    finish(guest, context, marker).await
}

/// The power is cut while it tracks changes, and again while it has a snapshot, which ends with that.
async fn power_cut(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    burst(guest, context.seed).await?;
    guest.phase("copy");
    let mut after = guest.setup_snapshot(raw_writers::spec(ORIGIN)).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    for cut in 1..=2 {
        if cut == 1 {
            guest.transition_to_incremental(MINOR).await?;
        }
        burst(guest, context.seed ^ cut).await?;
        let seed = context.seed ^ (cut << 8);
        reboot(guest, Stop::PowerCut { after, seed }, TRACKING).await?;
        after = update(guest).await?;
    }
    finish(guest, context, after).await
}

async fn finish(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    marker: MarkerKey,
) -> CaseResult<Evidence> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(ImageClaim::new(
        marker,
        context.origin_range(),
    )))
}
