//! The host's time stamp counter, which is that of every emulated CPU.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Between the two readings of a measurement.
const SPAN: Duration = Duration::from_millis(20);

/// Measurements that must agree.
const MEASUREMENTS: usize = 3;

/// Readings of which the one that was least disturbed counts.
const TRIES: usize = 16;

/// Measurements agree when they differ by at most one part in so many. The kernel itself takes a
/// hundredth for the difference between a good calibration and a better one.
const AGREEMENT: u64 = 1000;

/// The counter's frequency in kHz; `None` where it cannot be told. Measured in 60 ms, until it was told once.
#[must_use]
pub fn tsc_khz() -> Option<u64> {
    static FREQUENCY: OnceLock<u64> = OnceLock::new();
    remembered(&FREQUENCY, || {
        agreed([(); MEASUREMENTS].map(|()| measure()))
    })
}

/// What is known, or is now. A host that is too busy for a moment to be measured is none that never can.
fn remembered(known: &OnceLock<u64>, measured: impl FnOnce() -> Option<u64>) -> Option<u64> {
    if let Some(frequency) = known.get() {
        return Some(*frequency);
    }
    let frequency = measured()?;
    Some(*known.get_or_init(|| frequency))
}

/// The middle one of measurements, if they agree.
fn agreed(mut measured: [Option<u64>; MEASUREMENTS]) -> Option<u64> {
    measured.sort_unstable();
    let (lowest, highest) = (measured[0]?, measured[MEASUREMENTS - 1]?);
    let middle = measured[MEASUREMENTS / 2]?;
    (highest - lowest <= middle / AGREEMENT).then_some(middle)
}

fn measure() -> Option<u64> {
    let (start, first) = reading()?;
    thread::sleep(SPAN);
    let (end, last) = reading()?;
    let nanoseconds = end.duration_since(start).as_nanos();
    let ticks = u128::from(last.checked_sub(first)?);
    u64::try_from(ticks * 1_000_000 / nanoseconds).ok()
}

/// The counter, and when it was so.
fn reading() -> Option<(Instant, u64)> {
    let tries = (0..TRIES).filter_map(|_| {
        let before = Instant::now();
        let counter = counter()?;
        Some((before.elapsed(), before, counter))
    });
    let (_, at, counter) = tries.min_by_key(|(took, ..)| *took)?;
    Some((at, counter))
}

#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: every x86-64 CPU has the instruction, and Linux lets programs use it.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_that_differ_tell_nothing() {
        let of = |low, middle, high| agreed([Some(high), Some(low), Some(middle)]);
        assert_eq!(of(1_999_000, 2_000_000, 2_001_000), Some(2_000_000));
        assert_eq!(of(1_999_000, 2_000_000, 2_001_001), None);
        assert_eq!(agreed([Some(2_000_000), None, Some(2_000_000)]), None);
    }

    #[test]
    fn a_measurement_that_failed_is_made_again() {
        let known = OnceLock::new();
        assert_eq!(remembered(&known, || None), None);
        assert_eq!(remembered(&known, || Some(7)), Some(7));
        assert_eq!(remembered(&known, || panic!("it is known")), Some(7));
    }

    /// Goal: the frequency is that of this machine.
    /// Method: time that passed by the counter, against the clock.
    #[test]
    fn the_counter_goes_as_fast_as_measured() {
        let (Some(khz), Some((start, first))) = (tsc_khz(), reading()) else {
            return;
        };
        thread::sleep(Duration::from_millis(200));
        let (end, last) = reading().unwrap();
        let by_clock = end.duration_since(start).as_micros() as f64;
        let by_counter = (last - first) as f64 * 1000.0 / khz as f64;
        assert!(
            (by_counter / by_clock - 1.0).abs() < 0.01,
            "{by_counter} us, not {by_clock}"
        );
    }
}
