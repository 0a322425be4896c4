//! Races that would hit once in days, made to hit in seconds: the origin's reads and writes take their time, by
//! faults that the seed decides, CPUs go and come, and threads are interrupted by others. Which accident of
//! timing a fault needs nobody has to know.

use cowbird_checks::claim::Evidence;
use cowbird_proto::message::{FaultTarget, InjectedFault, NoiseSpec, StackKind, WorkloadSpec};
use cowbird_proto::rng::Rng;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, FAULTY, GuestSession, Workload};

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::modules;
use crate::names::ORIGIN;
use crate::subject::{CasesOf, Subject};
use crate::{hot_read, raw_writers};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Volume.cases(&[
    case(
        "race-amplified",
        "hot-read on an origin that delays reads and writes, with CPUs that go and come",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        hot_read::layout,
        |guest, context| Box::pin(hot_reads(guest, context)),
    )
    .making(&[Fault::Delays, Fault::CpuHotplug]),
    case(
        "race-amplified-writers",
        "raw-writers on an origin that delays reads and writes, with CPUs that go and come",
        CaseTier::Daily,
        &modules(["dm_mod", "dm_delay"]),
        raw_writers::layout,
        |guest, context| Box::pin(raw_writes(guest, context)),
    )
    .making(&[Fault::Delays, Fault::CpuHotplug]),
]);

/// The origin has so many stretches with delays of their own.
const STRETCHES: u64 = 16;

/// Delays, ms; one tick of the kernel's clock is 4.
const READ_DELAYS_MS: [u32; 4] = [0, 4, 8, 16];
const WRITE_DELAYS_MS: [u32; 4] = [0, 4, 12, 40];

/// While the cut is made, writes take longer than all of it but its wait for them.
const SLOW_WRITES_MS: u32 = 1000;

/// From this kernel on device-mapper counts a write only once the delay is over, so that no wait can know of it. The
/// module sees it land and fails the snapshot, which is right; writes are not slow at the cut there.
const DELAYS_UNCOUNTED_FROM: (u32, u32) = (5, 19);

/// Threads that take CPUs from others.
const SPINNERS: u32 = 2;

/// What makes the noise; it ends with the case.
struct Amplifier {
    noise: Workload,
}

impl Amplifier {
    /// Delays on the origin, which is then [`FAULTY`], and noise.
    async fn start(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Self> {
        guest.stack_faulty(ORIGIN).await?;
        guest.inject_faults(ORIGIN, &fault_targets(context)).await?;
        let noise = guest
            .start_workload(WorkloadSpec::Noise(NoiseSpec {
                seed: context.seed,
                hotplug: true,
                spinners: SPINNERS,
            }))
            .await?;
        Ok(Self { noise })
    }

    async fn stop(self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        let state = guest.stop_workload(&self.noise).await?;
        for what in state.left_out {
            guest.note(what);
        }
        guest.note(format!("CPUs went or came {} times", state.operations));
        Ok(())
    }
}

/// All writes take so long.
fn slow_writes(writes_ms: u32) -> [FaultTarget; 1] {
    let fault = InjectedFault::Delay {
        reads_ms: 0,
        writes_ms,
    };
    [FaultTarget {
        start: 0,
        sectors: u64::MAX,
        fault,
    }]
}

/// Each stretch of the origin has delays of its own, drawn once. Reads of the first are not slow: there the module
/// tries whether the origin counts what is in flight, which device-mapper does not do during a delay of its newer
/// versions, see [`DELAYS_UNCOUNTED_FROM`].
fn fault_targets(context: &CaseContext) -> Vec<FaultTarget> {
    let mut rng = Rng::new(context.seed);
    let sectors = u64::from(context.layout.origin.sectors).div_ceil(STRETCHES);
    (0..STRETCHES)
        .map(|stretch| {
            let mut draw = |delays: [u32; 4]| delays[rng.below(4) as usize];
            let (reads_ms, writes_ms) = (draw(READ_DELAYS_MS), draw(WRITE_DELAYS_MS));
            FaultTarget {
                start: stretch * sectors,
                sectors,
                fault: InjectedFault::Delay {
                    reads_ms: if stretch == 0 { 0 } else { reads_ms },
                    writes_ms,
                },
            }
        })
        .collect()
}

/// [`hot_read::act`], amplified.
async fn hot_reads(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let amplifier = Amplifier::start(guest, context).await?;
    let evidence = hot_read::attacked(guest, context, FAULTY).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(crate::names::MINOR).await?;
    amplifier.stop(guest).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(evidence))
}

/// [`raw_writers::act`], amplified. Writes that are in flight when the cut begins are so for long, where the
/// kernel counts them.
async fn raw_writes(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let amplifier = Amplifier::start(guest, context).await?;
    let writers = raw_writers::warm_up(guest, context, FAULTY).await?;
    guest.phase("snapshot");
    let at_the_cut = match guest.kernel_is_before(DELAYS_UNCOUNTED_FROM) {
        true => SLOW_WRITES_MS,
        false => 0,
    };
    guest
        .inject_faults(ORIGIN, &slow_writes(at_the_cut))
        .await?;
    let marker = guest.setup_snapshot(raw_writers::spec(FAULTY)).await?;
    guest.inject_faults(ORIGIN, &fault_targets(context)).await?;
    let evidence = raw_writers::overwrite_and_copy(guest, context, &writers, marker).await?;
    amplifier.stop(guest).await?;
    guest.unstack(StackKind::FaultInjection).await?;
    raw_writers::tear_down(guest).await?;
    Ok(Evidence::from(evidence))
}
