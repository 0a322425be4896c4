//! One write that is larger than the memory for preserved blocks many times, and takes longer than the limit to be
//! preserved, beside a small writer. The small one gets its share, and the snapshot is right: the COW file has room,
//! and its disk moves.

use std::time::Duration;

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::judgement::ExpectedLog;
use cowbird_host::nature::FurtherDisk;
use cowbird_proto::message::{Request, TimedSpec};
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseResult, FAILED, GuestSession, Pace, SnapshotSpec, longest, vacuous,
};
use cowbird_vm::layout::Layout;

use super::{
    BLOCKED_LIMIT, COW_DISK, COW_DISK_FILE, COW_DISK_MOUNT, Faults, HOLD_LIMIT_S, INSTANT,
    INSTANT_MIB, LONGEST_WRITE, evidence_of_instant, prepare_two, stop, timed,
};

/// The case of this file.
pub static CASES: CasesOf = Subject::Waiting.cases(&[case(
    "huge-write",
    "one write of many times the memory for preserved blocks, beside a small writer",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)
.making(&[Fault::SlowDisk])]);

/// What the huge write zeroes, MiB, at the start of the origin. A disk of this emulator takes it in one piece.
const HUGE_MIB: u32 = 224;

/// The rest is the small writer's, MiB.
const SMALL_MIB: u32 = 16;

/// How fast the COW file's disk is: the huge write takes more than twice the limit.
const PACE: Pace = Pace::Bytes(16 << 20);

/// The COW file has room for all.
const SPEC_HUGE: SnapshotSpec = SnapshotSpec {
    origin: ORIGIN,
    cow_file: COW_DISK_FILE,
    cow_mib: HUGE_MIB + SMALL_MIB + 24,
    cache_mib: 8,
    minor: MINOR,
};

const COW_HOME_MIB: u32 = SPEC_HUGE.cow_mib + 96;

/// The small writer's pause, us, and how long it is looked at, alone and beside the huge write.
const PAUSE_US: u64 = 10_000;
const ALONE: Duration = Duration::from_secs(4);
const BESIDE: Duration = Duration::from_secs(8);

/// Beside the huge write the small writer is so many times slower at most.
const SLOWER: f64 = 20.0;

/// Time for the huge write.
const HUGE_LIMIT: Duration = Duration::from_secs(90);

const EXPECTED: ExpectedLog = &[FAILED];

/// The disks of `huge-write`.
fn layout() -> Layout {
    Layout {
        further: FurtherDisk::SecondVolume,
        ..Layout::raw((HUGE_MIB + SMALL_MIB) * 2048, COW_HOME_MIB).with_third(INSTANT_MIB)
    }
}

/// Plays `huge-write`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    prepare_two(guest, &format!("hold_limit_s={HOLD_LIMIT_S}")).await?;
    guest.blocked_tasks_may_last(BLOCKED_LIMIT).await?;
    guest.phase("snapshot");
    let marker = guest.setup_snapshot(INSTANT).await?;
    guest.setup_snapshot(SPEC_HUGE).await?;

    guest.phase("overwrite");
    guest.set_pace(COW_DISK, PACE).await?;
    let writer = guest
        .start_timed(TimedSpec {
            first_block: u64::from(HUGE_MIB) * 256,
            blocks: u64::from(SMALL_MIB) * 256,
            pause_us: PAUSE_US,
            ..timed(context, 0, 1)
        })
        .await?;
    guest.vm().pause(ALONE).await?;
    let before = guest.workload(&writer).await?;
    let alone = before.operations as f64 / ALONE.as_secs_f64();
    if before.operations == 0 {
        return Err(vacuous("the small writer wrote nothing"));
    }
    let request = Request::ZeroOut {
        path: ORIGIN.to_owned(),
        offset: 0,
        bytes: u64::from(HUGE_MIB) << 20,
    };
    let mut huge = guest.begin("the huge write", request).await?;
    let early = guest.ended_within(&mut huge, BESIDE).await?;
    if early.is_some() {
        let said = guest.info().await?.devices;
        let failed = said.iter().any(|device| device.error != 0);
        if !failed {
            return Err(vacuous("the huge write was over at once"));
        }
    }
    let state = guest.workload(&writer).await?;
    let beside = (state.operations - before.operations) as f64 / BESIDE.as_secs_f64();
    let ended = match early {
        Some(timing) => Some(timing),
        None => guest.ended_within(&mut huge, HUGE_LIMIT).await?,
    };
    let waited = longest(&guest.workload(&writer).await?);
    let mut faults = Faults::default();
    let figures = format!(
        "the small writer wrote {alone:.1}/s alone and {beside:.1}/s beside the huge write, its longest write took {waited:.1?}"
    );
    match ended {
        Some(timing) => {
            let took = timing.took;
            guest.note(format!("{figures}; the huge write took {took:.1?}"));
            if let Some(reason) = timing.refusal() {
                faults.add(format!("the huge write failed: {reason}"));
            }
        }
        None => faults.add(format!("the huge write has not ended after {HUGE_LIMIT:?}")),
    }
    faults.unless(beside * SLOWER >= alone, || {
        format!("the small writer starves: {figures}")
    });
    faults.unless(waited <= LONGEST_WRITE, || {
        format!("a small write took more than {LONGEST_WRITE:?}: {figures}")
    });
    if let Some(device) = guest.info().await?.devices.iter().find(|it| it.error != 0) {
        faults.add(format!(
            "the snapshot failed although its COW file has room: {}",
            device.error_text
        ));
    }
    guest.set_pace(COW_DISK, Pace::Full).await?;
    stop(guest, &writer).await?;
    faults.finish()?;

    guest.phase("copy");
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    guest.active_snapshot(MINOR).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    guest.destroy_snapshot(INSTANT.minor).await?;
    guest.unmount(COW_DISK_MOUNT).await?;
    guest.unmount(COW_MOUNT).await?;
    guest.remove_module().await?;
    Ok(evidence_of_instant(context, marker, EXPECTED, false))
}
