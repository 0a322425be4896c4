//! The disk of the COW file is slow, but moves: every write that is let through makes room for another, and those that
//! have come last wait for all before them. The limit counts from a write's arrival.

use std::time::{Duration, Instant};

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_host::nature::FurtherDisk;
use cowbird_proto::message::{TimedMode, TimedSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseResult, FAILED, GuestSession, Pace, SnapshotSpec, longest, vacuous,
};
use cowbird_vm::layout::Layout;

use super::{
    BLOCKED_LIMIT, COW_DISK, COW_DISK_FILE, COW_DISK_MOUNT, COW_HOME_MIB, Faults, HOLD_LIMIT_S,
    INSTANT, INSTANT_MIB, LONGEST_WRITE, ORIGIN_SECTORS, SPEC, evidence_of_instant, prepare_two,
    stop, take_judged_image, timed,
};

/// The case of this file.
pub static CASES: CasesOf = Subject::Waiting.cases(&[case(
    "slow-cow",
    "thousands of writes in flight, and a COW file on a disk that is slow but moves",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::SlowDisk])]);

const SPEC_SLOW: SnapshotSpec = SnapshotSpec {
    cow_file: COW_DISK_FILE,
    cache_mib: 1,
    ..SPEC
};

/// 160 blocks in a second: of the writes that the module works on at once, none waits for as long as the limit.
const PACE: Pace = Pace::Bytes(640 << 10);

/// Writers, and the writes that each of them has in flight.
const WRITERS: u32 = 8;
const DEPTH: u32 = 800;

/// So long it is watched.
const WATCHED: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);

/// If no write has waited for so long, the disk was not slow.
const SLOW: Duration = Duration::from_secs(2);

const EXPECTED: ExpectedLog = &[
    FAILED,
    // So slow a disk may also be too slow to be told within a second that tracking is lost.
    "this could not be recorded in the COW file",
];

/// The disks of `slow-cow`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw(ORIGIN_SECTORS, COW_HOME_MIB).with_third(INSTANT_MIB)
    }
}

/// Plays `slow-cow`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    prepare_two(guest, &format!("hold_limit_s={HOLD_LIMIT_S}")).await?;
    guest.blocked_tasks_may_last(BLOCKED_LIMIT).await?;
    guest.phase("snapshot");
    let marker = guest.setup_snapshot(INSTANT).await?;
    guest.setup_snapshot(SPEC_SLOW).await?;

    guest.phase("overwrite");
    guest.set_pace(COW_DISK, PACE).await?;
    let writers = guest
        .start_timed(TimedSpec {
            mode: TimedMode::Deep(DEPTH),
            once: true,
            ..timed(context, 0, WRITERS)
        })
        .await?;
    let begin = Instant::now();
    let mut waited = Duration::ZERO;
    let mut state = guest.workload(&writers).await?;
    while begin.elapsed() < WATCHED && state.threads_running > 0 {
        guest.vm().pause(LOOK).await?;
        state = guest.workload(&writers).await?;
        waited = longest(&state);
    }
    let writes = state.operations;
    let device = guest.info().await?.devices;
    let device = device.into_iter().find(|device| device.minor == MINOR);
    let failed = device.filter(|device| device.error != 0);
    let said = match &failed {
        Some(device) => device.error_text.clone(),
        None => "the snapshot is well".to_owned(),
    };
    guest.note(format!(
        "{writes} writes, of which the longest took {waited:.1?}; {said}"
    ));
    let mut faults = Faults::default();
    faults.unless(waited <= LONGEST_WRITE, || {
        format!(
            "a write waited for {waited:.1?} from its arrival, more than {LONGEST_WRITE:?}; {said}"
        )
    });
    guest.set_pace(COW_DISK, Pace::Full).await?;
    waited = waited.max(stop(guest, &writers).await?);
    faults.finish()?;
    if failed.is_none() && waited < SLOW {
        return Err(vacuous("the disk of the COW file was not slow"));
    }

    if failed.is_none() {
        guest.phase("copy");
        guest.copy_image(SNAPSHOT, IMAGE).await?;
        guest.active_snapshot(MINOR).await?;
    }
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.destroy_snapshot(INSTANT.minor).await?;
    guest.unmount(COW_DISK_MOUNT).await?;
    if failed.is_some() {
        return take_judged_image(guest, context, EXPECTED, false).await;
    }
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence_of_instant(context, marker, EXPECTED, false))
}
