//! Goal: the peak of memory is counted, not what is left at the end. A test of its own, because others would be counted as well.

use cowbird_fuzz::memory;

#[test]
fn the_peak_counts() {
    let (length, peak) = memory::measured(|| vec![1_u8; 5 << 20].len());
    assert_eq!(length, 5 << 20);
    assert!(peak >= 5 << 20, "{peak}");
}
