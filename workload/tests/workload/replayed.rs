//! The order and the times in which a workload is replayed.

use std::sync::Arc;

use cowbird_workload::schedule::MAX_PAUSE_NS;
use cowbird_workload::{
    Action, Builder, Extent, Flags, Instant, Operation, Schedule, Timing, Turn, Workload,
};
use proptest::prelude::*;

use crate::common::workloads;

const WHOLE: Instant = Instant {
    from: u64::MAX,
    hold: u64::MAX,
};

/// A replay by so many threads on a device that completes in any order: what was issued, and when each
/// was complete, as places in that order.
fn simulate(workload: &Workload, threads: usize, choices: &[usize]) -> Vec<(usize, usize)> {
    let mut schedule = Schedule::new(Arc::new(workload.clone()), Timing::Fast, WHOLE);
    let (mut issued, mut in_flight) = (Vec::new(), Vec::<usize>::new());
    let mut choices = choices.iter().cycle();
    loop {
        let turn = match in_flight.len() < threads {
            true => schedule.turn(0),
            false => Turn::WaitForOthers,
        };
        match turn {
            Turn::Go(at) => {
                in_flight.push(at);
                issued.push((at, usize::MAX));
            }
            Turn::WaitUntil(_) => panic!("there is nothing to wait for"),
            Turn::Over if in_flight.is_empty() => {
                assert!(schedule.is_done());
                return issued;
            }
            Turn::WaitForOthers | Turn::Over => {
                let choice = choices.next().expect("they go round") % in_flight.len();
                let done = in_flight.swap_remove(choice);
                schedule.complete(done);
                let place = issued.len();
                let entry = issued.iter_mut().find(|(at, _)| *at == done);
                entry.expect("it was issued").1 = place;
            }
        }
    }
}

fn must_not_meet(a: &Operation, b: &Operation) -> bool {
    (a.action.modifies() || b.action.modifies()) && a.extent.overlaps(&b.extent)
}

proptest! {
    /// Goal: everything is issued once and in order; what overlaps is never in flight together; a flush
    /// comes after the writes before it. Method: a device that completes in any order.
    #[test]
    fn what_overlaps_does_not_overtake(
        workload in workloads(600),
        threads in 1..9_usize,
        choices in prop::collection::vec(any::<usize>(), 1..40),
    ) {
        let issued = simulate(&workload, threads, &choices);
        let order: Vec<usize> = issued.iter().map(|(at, _)| *at).collect();
        prop_assert_eq!(order, (0..workload.operations().len()).collect::<Vec<_>>());
        for (later, _) in &issued {
            for (earlier, complete) in &issued[..*later] {
                let [a, b] = [*earlier, *later].map(|at| &workload.operations()[at]);
                let flushed = b.action == Action::Flush && a.action.modifies();
                if flushed || must_not_meet(a, b) {
                    prop_assert!(complete <= later, "{later} before {earlier} was complete");
                }
            }
        }
    }
}

/// Writes to blocks of their own, so many ns apart.
fn writes(pauses: &[u64]) -> Workload {
    let mut builder = Builder::default();
    let mut now = 0;
    for (at, pause) in pauses.iter().enumerate() {
        now += pause;
        let extent = Extent::of_bytes(at as u64 * 4096, 4096);
        builder.push(now, Action::Write, Flags::default(), extent);
    }
    builder.finish("x", Vec::new())
}

/// When each operation is issued if the device is infinitely fast.
fn times(schedule: &mut Schedule, mut now: u64) -> Vec<u64> {
    let mut times = Vec::new();
    loop {
        match schedule.turn(now) {
            Turn::Go(at) => {
                schedule.complete(at);
                times.push(now);
            }
            Turn::WaitUntil(until) => {
                assert!(until > now);
                now = until;
            }
            Turn::WaitForOthers | Turn::Over => return times,
        }
    }
}

#[test]
fn pauses_are_kept_scaled_and_bounded() {
    let workload = writes(&[0, 1000, 10 * MAX_PAUSE_NS, 10]);
    let of = |timing: &str| {
        let timing = timing.parse().expect("a timing");
        times(
            &mut Schedule::new(Arc::new(workload.clone()), timing, WHOLE),
            0,
        )
    };
    assert_eq!(of("fast"), [0, 0, 0, 0]);
    let long = 1000 + MAX_PAUSE_NS;
    assert_eq!(of("kept"), [0, 1000, long, long + 10]);
    let half = 500 + MAX_PAUSE_NS;
    assert_eq!(of("scaled:0.5"), [0, 500, half, half + 5]);
}

#[test]
fn timings_are_read_strictly() {
    for good in ["fast", "kept", "scaled:0.5", "scaled:20"] {
        assert_eq!(
            good.parse::<Timing>().map(|timing| timing.to_string()),
            Ok(good.into())
        );
    }
    for bad in [
        "",
        "slow",
        "scaled",
        "scaled:0",
        "scaled:-1",
        "scaled:x",
        "fast:2",
        "scaled:nan",
    ] {
        let error = bad.parse::<Timing>().expect_err(bad);
        assert!(error.contains("scaled:X"), "{error}");
    }
}

/// Goal: before the snapshot is taken, operations become slow and then stop; afterwards they go on with
/// the pauses that were recorded.
#[test]
fn operations_wait_for_the_snapshot() {
    let workload = writes(&[100; 12]);
    let instant = Instant::after_percent(&workload, 34).expect("it has a middle");
    assert_eq!(instant, Instant { from: 4, hold: 8 });
    for timing in [Timing::Fast, Timing::Scaled(1000)] {
        let mut schedule = Schedule::new(Arc::new(workload.clone()), timing, instant);
        let before = times(&mut schedule, 0);
        assert_eq!(before.len(), 8);
        assert!(before[3] < 1000 && before[7] > 100_000_000, "{before:?}");
        assert_eq!(schedule.turn(u64::MAX), Turn::WaitForOthers);
        schedule.release(9_000_000_000);
        let after = times(&mut schedule, 9_000_000_000);
        assert_eq!(after.len(), 4);
        let pause = if timing == Timing::Fast { 0 } else { 100 };
        assert_eq!(after[3], 9_000_000_000 + 3 * pause);
    }
}

#[test]
fn a_workload_without_a_middle_is_refused() {
    for (count, percent) in [(0, 50), (1, 50), (10, 0), (10, 9), (10, 100)] {
        let workload = writes(&vec![1; count]);
        let error = Instant::after_percent(&workload, percent).expect_err("no middle");
        assert!(error.to_string().contains("record for longer"), "{error}");
    }
    let smallest = writes(&[1; 2]);
    let instant = Instant::after_percent(&smallest, 50);
    assert_eq!(instant, Ok(Instant { from: 1, hold: 1 }));
}
