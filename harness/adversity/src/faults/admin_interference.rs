//! Somebody meddles while a snapshot is there: tools are killed, a second snapshot of the same device is asked
//! for, the module is to be unloaded, the clock jumps, memory is taken. The snapshot must not care.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_proto::message::Request;
use cowbird_proto::rng::Rng;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseError, CaseResult, GuestSession, SnapshotSpec, vacuous};

use super::{COW_FILE, COW_MIB, Writers, evidence, spec, update};

/// The cases of this file.
pub static CASES: CasesOf = Subject::Faults.cases(&[
    case(
        "tool-killed",
        "tools that are killed while they take a snapshot, copy it and bring an image up to date",
        CaseTier::Daily,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(killed(guest, context)),
    )
    .making(&[Fault::KilledTool]),
    case(
        "admin-interference",
        "unloading, second snapshots of the same disk, and a clock that jumps",
        CaseTier::Daily,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(interfered(guest, context)),
    )
    .making(&[Fault::ClockJumps]),
    case(
        "low-memory",
        "a machine whose memory others have taken",
        CaseTier::Daily,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(memory(guest, context)),
    )
    .making(&[Fault::LittleMemory]),
]);

/// How often each tool is killed, and when at the latest.
const KILLS: u32 = 4;
const KILL_WITHIN_MS: u64 = 800;

/// What is asked for beside the snapshot.
const OTHER_COW_FILE: &str = "/mnt/cow/other.cow";
const OTHER_MINOR: u32 = 1;

/// Ten years forth, thirty back, and back to about where it was, s.
const YEAR: i64 = 365 * 24 * 3600;
const JUMPS: [i64; 3] = [10 * YEAR, -30 * YEAR, 20 * YEAR];

/// More memory for preserved blocks than there is, MiB; and what is left of the memory then and later.
const TOO_MUCH_MIB: u32 = 600;
const LEFT_FOR_SETUP_MIB: u64 = 160;
const LEFT_MIB: u64 = 64;

/// What the kernel says when it kills somebody for memory.
const OUT_OF_MEMORY: [&str; 2] = ["invoked oom-killer", "Out of memory"];

/// A tool that takes a snapshot, copies it or brings an image up to date is killed at random moments. What it
/// was about is there or it is not; done again, it works.
async fn killed(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let mut writers = Writers::start(guest, ORIGIN, context.seed).await?;
    let mut killer = Killer {
        rng: Rng::new(context.seed),
        killed: 0,
    };

    guest.phase("setup killed");
    let setup = format!("setup-snapshot -c 4 -f {COW_MIB} {ORIGIN} {COW_FILE} {MINOR}");
    for _ in 0..KILLS {
        killer.kill(guest, &setup).await?;
        if guest.info().await?.devices.is_empty() {
            // What the tool would have removed at its end.
            let path = COW_FILE.into();
            guest.try_request(Request::RemoveFile { path }).await?.ok();
        } else {
            guest.destroy_snapshot(MINOR).await?;
        }
        writers.burst(guest).await?;
    }
    guest.setup_snapshot(spec(ORIGIN)).await?;

    guest.phase("copy killed");
    let copy = format!("copy-image {SNAPSHOT} {IMAGE}");
    for _ in 0..KILLS {
        let whole = !killer.kill(guest, &copy).await?;
        guest.active_snapshot(MINOR).await?;
        if whole {
            continue;
        }
        guest.transition_to_incremental(MINOR).await?;
        guest.transition_to_snapshot(MINOR).await?;
        guest
            .expect_update_refusal(MINOR, SNAPSHOT, IMAGE, "copy-image")
            .await?;
    }
    guest.copy_image(SNAPSHOT, IMAGE).await?;

    guest.phase("update killed");
    guest.transition_to_incremental(MINOR).await?;
    writers.burst(guest).await?;
    let marker = guest.transition_to_snapshot(MINOR).await?;
    let map = guest.change_map_file(MINOR).await?;
    for _ in 0..KILLS {
        let update = format!("update-image {SNAPSHOT} {map} {IMAGE}");
        if !killer.kill(guest, &update).await? {
            break;
        }
        guest.active_snapshot(MINOR).await?;
    }
    if !guest.shows_epoch(IMAGE, marker.epoch).await? {
        guest.update_image(MINOR, SNAPSHOT, IMAGE).await?;
    }
    guest.note(format!("{} tools were killed", killer.killed));
    if killer.killed == 0 {
        return Err(vacuous("every tool was done before it was to be killed"));
    }
    writers.stop(guest).await?;
    finish(guest).await?;
    Ok(evidence(context, marker, &[]))
}

struct Killer {
    rng: Rng,
    killed: u32,
}

impl Killer {
    /// Starts the control tool and kills it after a random while; whether it was killed before its end.
    async fn kill(
        &mut self,
        guest: &mut GuestSession<'_, '_>,
        arguments: &str,
    ) -> CaseResult<bool> {
        let after = Duration::from_millis(self.rng.below(KILL_WITHIN_MS));
        let exited = guest.control_killed(arguments, after).await?;
        match (exited.code, exited.signal) {
            (Some(0), _) => Ok(false),
            (None, Some(_)) => {
                self.killed += 1;
                Ok(true)
            }
            _ => Err(CaseError::Failed(format!(
                "cowbirdctl {arguments}: {}",
                exited.stderr.trim()
            ))),
        }
    }
}

/// The module is to be unloaded, the same device to be snapshot again, and the clock jumps, while a snapshot is
/// there and while changes are tracked.
async fn interfered(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let mut writers = Writers::start(guest, ORIGIN, context.seed).await?;
    guest.setup_snapshot(spec(ORIGIN)).await?;
    meddle(guest, &mut writers).await?;
    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    meddle(guest, &mut writers).await?;
    let marker = update(guest).await?;
    writers.stop(guest).await?;
    finish(guest).await?;
    Ok(evidence(context, marker, &[]))
}

async fn meddle(guest: &mut GuestSession<'_, '_>, writers: &mut Writers) -> CaseResult<()> {
    guest.phase("meddle");
    guest.expect_module_stays().await?;
    for (origin, minor, named) in [
        (ORIGIN, OTHER_MINOR, "has a snapshot already"),
        ("/dev/vda", OTHER_MINOR, "has a snapshot already"),
        (COW_HOME, MINOR, "is in use"),
    ] {
        let second = SnapshotSpec {
            origin,
            cow_file: OTHER_COW_FILE,
            cow_mib: 8,
            minor,
            ..spec(ORIGIN)
        };
        guest.expect_refusal(second, named).await?;
    }
    for seconds in JUMPS {
        guest.shift_clock(seconds).await?;
        writers.burst(guest).await?;
        guest.active_snapshot(MINOR).await?;
    }
    Ok(())
}

/// Somebody takes the memory of the machine. What the module cannot have it does without, or says so; nobody
/// is killed for it.
async fn memory(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let mut writers = Writers::start(guest, ORIGIN, context.seed).await?;
    guest.phase("refuse");
    guest.take_memory(LEFT_FOR_SETUP_MIB).await?;
    let greedy = SnapshotSpec {
        cache_mib: TOO_MUCH_MIB,
        ..spec(ORIGIN)
    };
    guest.expect_refusal(greedy, "not enough memory").await?;
    guest.setup_snapshot(spec(ORIGIN)).await?;
    guest
        .expect_reconfigure_refusal(MINOR, TOO_MUCH_MIB, "not enough memory")
        .await?;
    guest.reconfigure(MINOR, 4).await?;

    guest.phase("copy");
    guest.take_memory(LEFT_MIB).await?;
    writers.burst(guest).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.transition_to_incremental(MINOR).await?;
    writers.burst(guest).await?;
    let marker = update(guest).await?;
    writers.stop(guest).await?;
    guest.prepare(Request::GiveMemory).await?;
    let limit = guest.limits.request;
    let killed = guest
        .kernel_log(limit)
        .await
        .map_err(cowbird_session::guest::shut_down_error)?;
    let killed = killed
        .iter()
        .find(|record| OUT_OF_MEMORY.iter().any(|said| record.text.contains(said)));
    if let Some(record) = killed {
        return Err(CaseError::Failed(format!(
            "the kernel kills for memory: {}",
            record.text
        )));
    }
    finish(guest).await?;
    Ok(evidence(context, marker, &[]))
}

async fn finish(guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await
}
