//! Snapshot reads at the very moment in which the same blocks are overwritten for the first time.
//! This is the case for a snapshot read that is not looked at again after the origin was read.

use std::collections::BTreeSet;
use std::time::Duration;

use cowbird_checks::claim::Evidence;
use cowbird_checks::image::{ImageClaim, OfImage};
use cowbird_host::initramfs::{TRACER, TRACER_TRIAL};
use cowbird_proto::message::{HotSpec, WorkloadSpec};
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec, vacuous};
use cowbird_vm::layout::Layout;
use serde::Deserialize;

use crate::context::CaseContext;
use crate::info::{CaseTier, case, traced};
use crate::modules::GUEST_MODULES;
use crate::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT, snapshot_of};
use crate::subject::{CasesOf, Subject};

/// The case of this file that comes first.
pub static CASES: CasesOf = Subject::Volume.cases(&[case(
    "hot-read",
    "many readers of snapshot blocks that are overwritten at the same moment",
    CaseTier::Quick,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// The case that the tracer records even when nobody asks for it.
pub static TRACED: CasesOf = Subject::Tracing.cases(&[traced(case(
    "hot-read-traced",
    "as hot-read, and the tracer must name the same wrong blocks without the witness",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act_traced(guest, context)),
))]);

/// 64 MiB and three sectors: every block is one attempt.
const ORIGIN_SECTORS: u32 = 64 * 2048 + 3;

/// Every block may be overwritten, and the tracking state needs some room.
const COW_MIB: u32 = 72;

/// The filesystem of the COW file, with its journal and inode tables.
const COW_HOME_MIB: u32 = 112;

const fn spec(origin: &'static str) -> SnapshotSpec {
    snapshot_of(origin, COW_MIB)
}

/// Where the trace is in the guest.
const TRACE: &str = "/tmp/hot-read.cbt";

/// `cowbird-trace verify` ends so when it has found something.
const VERIFY_BROKEN: i32 = 4;

/// The writers sweep for so long at most; what is left is only read.
const SWEEP: Duration = Duration::from_secs(6);

/// After it, everything is read once more.
const FINISH_LIMIT: Duration = Duration::from_secs(120);

/// The disks of `hot-read`, `race-amplified` and `hot-read-traced`.
pub fn layout() -> Layout {
    Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB)
}

/// Plays `hot-read`.
pub async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    set_up(guest).await?;
    let evidence = attacked(guest, context, ORIGIN).await?;
    tear_down(guest).await?;
    Ok(Evidence::from(evidence))
}

/// The same under the eyes of the tracer, which must name the same blocks as the oracle: without
/// any witness, by its trace alone.
async fn act_traced(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    set_up(guest).await?;
    guest.expect_tracer().await?;
    let record = ["--tracer", TRACER, "record-start", TRACE, "--fingerprints"];
    guest.run(TRACER_TRIAL, &record).await?;
    let evidence = attacked(guest, context, ORIGIN).await?;

    guest.phase("trace");
    guest
        .run(TRACER_TRIAL, &["--tracer", TRACER, "record-stop", TRACE])
        .await?;
    let exited = guest
        .run_to_any_end(TRACER, &["verify", "--json", TRACE])
        .await?;
    let traced = match (exited.code, wrongly_read(&exited.stdout)) {
        (Some(0 | VERIFY_BROKEN), Ok(blocks)) => blocks,
        _ => {
            let said = exited.stderr.trim();
            return Err(CaseError::Failed(format!("cowbird-trace verify: {said}")));
        }
    };
    tear_down(guest).await?;
    Ok(Evidence::from(evidence.with(OfImage::TracerNames(traced))))
}

/// What `cowbird-trace verify --json` prints, as far as it matters here.
#[derive(Deserialize)]
struct TraceVerdict {
    findings: Vec<TraceFinding>,
}

#[derive(Deserialize)]
struct TraceFinding {
    block: u64,
}

fn wrongly_read(json: &str) -> Result<BTreeSet<u64>, serde_json::Error> {
    let verdict: TraceVerdict = serde_json::from_str(json)?;
    Ok(verdict
        .findings
        .iter()
        .map(|finding| finding.block)
        .collect())
}

async fn set_up(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("setup");
    guest.mount(COW_HOME, COW_MOUNT, "").await?;
    guest.insert_module().await
}

async fn tear_down(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await
}

/// The sweep over a snapshot of `origin`, which shows the first partition.
pub(super) async fn attacked(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
    origin: &'static str,
) -> CaseResult<ImageClaim> {
    guest.phase("snapshot");
    let marker = guest.setup_snapshot(spec(origin)).await?;
    guest.expect_size(SNAPSHOT, context.layout.origin).await?;

    guest.phase("copy");
    let hot = guest.start_workload(attack(origin, context.seed)).await?;
    guest
        .wait_until(&hot, "everything read", FINISH_LIMIT, |state| {
            state.finished
        })
        .await?;
    let end = guest.stop_workload(&hot).await?;
    let device = guest.active_snapshot(MINOR).await?;
    if end.bytes_written == 0 || device.preserved_blocks == 0 {
        return Err(vacuous("no block was overwritten while it was read"));
    }

    Ok(ImageClaim::new(marker, context.origin_range()).differing_reads(end.differing_reads))
}

fn attack(origin: &str, seed: u64) -> WorkloadSpec {
    WorkloadSpec::Hot(HotSpec {
        origin: origin.into(),
        snapshot: SNAPSHOT.into(),
        image: IMAGE.into(),
        seed,
        pairs: 4,
        sweep_percent: 90,
        sweep_limit_ms: u64::try_from(SWEEP.as_millis()).unwrap_or(u64::MAX),
    })
}
