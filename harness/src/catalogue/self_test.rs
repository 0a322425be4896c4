//! Cases that put the harness on trial: guests that end in every way in which a guest can end, and
//! a witness without any snapshot.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{ActFuture, CaseInfo, CaseTier};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::ORIGIN;
use cowbird_checks::claim::Evidence;
use cowbird_checks::power::Stop;
use cowbird_proto::message::{RawWritersSpec, Request, WorkloadSpec};
use cowbird_proto::rng::mix;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession};
use cowbird_vm::layout::Layout;

/// Size of the origin.
const ORIGIN_MIB: u32 = 8;

/// How long the idle guest idles; whoever wants to kill it has this long.
const IDLE: Duration = Duration::from_secs(60);

/// What the writers write below the witness before they stop.
const WITNESSED_BYTES: u64 = 16 << 20;

/// Time for it.
const WITNESS_LIMIT: Duration = Duration::from_secs(60);

/// The kernel panics.
pub const PANIC: &str = "self-test-panic";

/// The guest stops answering.
pub const SILENT: &str = "self-test-silent";

/// The guest answers but one request never ends.
pub const STUCK: &str = "self-test-stuck";

/// The guest does nothing for a while.
pub const IDLE_CASE: &str = "self-test-idle";

/// Writes, discards and write-zeroes of every size and alignment without any snapshot, in two boots.
pub const WITNESS: &str = "self-test-witness";

/// A traced guest, and a write below it that its kernel knows nothing of.
pub const UNSEEN_WRITE: &str = "self-test-unseen-write";

/// Where QEMU writes by itself: within the origin, behind what is written there.
const UNSEEN_AT: u64 = 6 << 20;

pub(super) static CASES: [CaseInfo; 6] = [
    case(PANIC, "the kernel panics", |guest, _| {
        Box::pin(panic(guest))
    })
    .making(&[Fault::KernelPanic]),
    case(SILENT, "the guest stops answering", |guest, _| {
        Box::pin(silent(guest))
    })
    .making(&[Fault::SilentGuest]),
    case(STUCK, "a request never ends", |guest, _| {
        Box::pin(stuck(guest))
    }),
    case(
        IDLE_CASE,
        "the guest idles until it is killed",
        |guest, _| Box::pin(idle(guest)),
    ),
    case(
        WITNESS,
        "the witness agrees with its disk",
        |guest, context| Box::pin(witness(guest, context)),
    ),
    case(
        UNSEEN_WRITE,
        "a disk is written to below the eyes of its kernel",
        |guest, context| Box::pin(unseen_write(guest, context)),
    ),
];

const fn case(
    name: &'static str,
    summary: &'static str,
    act: for<'a> fn(&'a mut GuestSession<'_, '_>, &'a CaseContext) -> ActFuture<'a>,
) -> CaseInfo {
    CaseInfo {
        name,
        summary,
        tier: CaseTier::Full,
        needs_modules: &GUEST_MODULES,
        uses_module: false,
        uses_tracer: false,
        programs: &[],
        files: || Ok(Vec::new()),
        layout: || Layout::raw_without_cow(ORIGIN_MIB),
        topology: None,
        faults: &[],
        act,
    }
}

async fn panic(guest: &mut GuestSession<'_, '_>) -> CaseResult<Evidence> {
    guest.phase("panic");
    guest.prepare(Request::CrashKernel).await?;
    Ok(Evidence::witness_only())
}

async fn silent(guest: &mut GuestSession<'_, '_>) -> CaseResult<Evidence> {
    guest.phase("silence");
    guest.prepare(Request::GoSilent).await?;
    Ok(Evidence::witness_only())
}

async fn stuck(guest: &mut GuestSession<'_, '_>) -> CaseResult<Evidence> {
    guest.phase("stuck");
    // Reading the trace pipe waits until something is traced, and nothing is.
    let path = "/sys/kernel/tracing/trace_pipe".to_owned();
    guest.prepare(Request::ReadText { path }).await?;
    Ok(Evidence::witness_only())
}

async fn idle(guest: &mut GuestSession<'_, '_>) -> CaseResult<Evidence> {
    guest.phase("idle");
    guest.vm().pause(IDLE).await?;
    Ok(Evidence::witness_only())
}

async fn witness(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    guest.phase("workload");
    witnessed(guest, context.seed).await?;
    guest.phase("reboot");
    guest.reboot(Stop::PowerOff).await?;
    guest.phase("workload");
    witnessed(guest, mix(context.seed)).await?;
    Ok(Evidence::witness_only())
}

async fn unseen_write(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    guest.start_tracing().await?;
    guest.phase("workload");
    witnessed(guest, context.seed).await?;
    // Through the disk's own device, so that it passes the witness as the guest's writes do.
    let device = "/machine/peripheral/disk0/virtio-backend";
    let command = format!("qemu-io -d {device} \"write -P 0x5a {UNSEEN_AT} 4k\"");
    let said = guest.vm().qmp().clone().monitor(&command).await?;
    if !said.is_empty() {
        return Err(CaseError::Failed(format!("qemu-io: {said}")));
    }
    Ok(Evidence::witness_only())
}

async fn witnessed(guest: &mut GuestSession<'_, '_>, seed: u64) -> CaseResult<()> {
    let spec = RawWritersSpec {
        device: ORIGIN.into(),
        seed,
        pairs: 3,
        // Often, and at the same time as writes: a witness that logs them in two steps would mix
        // them up.
        discard_every: 3,
        rest_at_bytes: 0,
    };
    let writers = guest.start_workload(WorkloadSpec::RawWriters(spec)).await?;
    guest
        .wait_until(&writers, "written enough", WITNESS_LIMIT, |state| {
            state.bytes_written >= WITNESSED_BYTES
        })
        .await?;
    guest.stop_workload(&writers).await.map(|_| ())
}
