//! Goal: two images pass exactly when there is an instant that both show. Method: every pair of
//! numbers of rounds, of a writer that goes around its slots several times.

use cowbird_model::{LockstepFault, check_lockstep};

const SLOTS: u64 = 3;

/// The slots of a volume after so many rounds.
fn after(rounds: u64) -> Vec<u64> {
    let mut slots = vec![0; SLOTS as usize];
    for round in 1..=rounds {
        slots[(round % SLOTS) as usize] = round;
    }
    slots
}

#[test]
fn only_one_instant_passes() {
    for first in 0..12 {
        for second in 0..12 {
            let faults = check_lockstep(&after(first), &after(second));
            let possible = first == second || first == second + 1;
            assert_eq!(faults.is_empty(), possible, "{first} {second}: {faults:?}");
        }
    }
}

#[test]
fn a_lost_round_is_named() {
    let mut first = after(7);
    first[6 % SLOTS as usize] = 3;
    assert_eq!(
        check_lockstep(&first, &after(6)),
        [LockstepFault::SecondAhead { round: 6 }]
    );
    let mut second = after(6);
    second[5 % SLOTS as usize] = 2;
    assert_eq!(
        check_lockstep(&after(6), &second),
        [LockstepFault::FirstAhead { round: 6 }]
    );
}
