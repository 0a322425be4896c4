//! The shrinker against lists of which it is known what makes them fail.

use std::collections::BTreeSet;

use cowbird_model::Shrinker;
use proptest::prelude::*;

/// Shrinks the list from 0 to `length` with this judge; gives what is left and how often it was asked.
fn shrink(length: usize, fails: impl Fn(&[usize]) -> bool) -> (Vec<usize>, usize) {
    let mut shrinker = Shrinker::new((0..length).collect());
    let mut asked = 0;
    while !shrinker.is_minimal() {
        let candidates = shrinker.candidates();
        assert!(!candidates.is_empty());
        asked += candidates.len();
        let answers: Vec<bool> = candidates.iter().map(|parts| fails(parts)).collect();
        shrinker.take(&answers);
        assert!(asked < 20 * (length + 2) * (length + 2), "it does not end");
    }
    assert!(shrinker.candidates().is_empty());
    (shrinker.parts().to_vec(), asked)
}

proptest! {
    /// Goal: where some parts make a list fail and all others do not matter, just those are left.
    #[test]
    fn what_is_needed_is_left(
        length in 1_usize..200,
        needed in prop::collection::btree_set(0_usize..200, 1..6),
    ) {
        let needed: BTreeSet<usize> = needed.into_iter().map(|part| part % length).collect();
        let (left, _) = shrink(length, |parts| needed.iter().all(|part| parts.contains(part)));
        prop_assert_eq!(left, needed.into_iter().collect::<Vec<_>>());
    }

    /// Goal: whatever the judge answers, what is left is a part of the list in its order that was seen to
    /// fail, and without any single part it does not. Method: a judge without sense, which hashes.
    #[test]
    fn what_is_left_fails_and_is_minimal(length in 1_usize..60, salt in any::<u64>()) {
        let fails = |parts: &[usize]| {
            let hash = parts.iter().fold(salt, |hash, part| {
                (hash ^ *part as u64).wrapping_mul(0x0100_0000_01B3).rotate_left(23)
            });
            parts.len() == length || (!parts.is_empty() && hash % 3 == 0)
        };
        let (left, _) = shrink(length, fails);
        prop_assert!(fails(&left));
        prop_assert!(left.is_sorted());
        for without in 0..left.len() {
            let mut shorter = left.clone();
            shorter.remove(without);
            prop_assert!(shorter.is_empty() || !fails(&shorter), "{} is not needed", left[without]);
        }
    }

    /// Goal: a judge that fails to see a failure makes the list longer, never wrong, and it ends.
    #[test]
    fn a_race_is_never_lost(length in 1_usize..100, needed in 0_usize..100, seed in any::<u64>()) {
        let needed = needed % length;
        let random = std::cell::Cell::new(seed | 1);
        let (left, _) = shrink(length, |parts| {
            let mut next = random.get();
            next ^= next << 13;
            next ^= next >> 7;
            next ^= next << 17;
            random.set(next);
            parts.contains(&needed) && !next.is_multiple_of(3)
        });
        prop_assert!(left.contains(&needed));
    }
}

/// Goal: one part of thousands is found with few tries, or a guest would take hours for it.
#[test]
fn one_of_many_is_found_soon() {
    let (left, asked) = shrink(4096, |parts| parts.contains(&1234));
    assert_eq!(left, [1234]);
    assert!(asked <= 4 * 12, "{asked} tries");
}
