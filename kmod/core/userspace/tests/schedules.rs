//! Goal: no schedule of writers, readers, engine and switch returns anything
//! but the content at T0 or leaves a write behind; and the explorer finds every
//! rule that is left out, by itself.
//! Method: exhaustive walk of small worlds, asking the C core at each decision.

use cowbird_core::explore::{Fault, World, explore};

const WORLDS: [World; 4] = [
    World {
        writers: &[0],
        readers: &[0],
        blocks: 1,
    },
    World {
        writers: &[0, 0],
        readers: &[0, 0],
        blocks: 1,
    },
    World {
        writers: &[0, 1],
        readers: &[0, 1],
        blocks: 2,
    },
    World {
        writers: &[0, 0, 1],
        readers: &[0],
        blocks: 2,
    },
];

#[test]
fn no_schedule_of_the_protocol_is_wrong() {
    for world in &WORLDS {
        let outcome = explore(world, None);
        if let Some(counterexample) = outcome.counterexample {
            panic!("{world:?}: {counterexample}");
        }
        println!("{world:?}: {} states", outcome.states);
        assert!(
            outcome.states > 50,
            "the world is too small to show anything: {world:?}"
        );
    }
}

#[test]
fn every_rule_that_is_left_out_is_found() {
    for fault in Fault::ALL {
        let found = WORLDS
            .iter()
            .find_map(|world| explore(world, Some(fault)).counterexample);
        let found = found.unwrap_or_else(|| panic!("{fault:?} was not found in any world"));
        println!("{fault:?}: {found}");
        assert!(
            found.what.contains("at T0"),
            "{fault:?} was found as something else: {found}"
        );
    }
}

mod marks {
    //! Goal: after a power cut at any point of any schedule the change map contains the truth; and
    //! the explorer finds every rule that is left out, by itself.
    //! Method: exhaustive walk of small worlds, with real COW files taken up again in each state.

    use cowbird_core::explore_marks::{Fault, World, explore};

    const WORLDS: [World; 4] = [
        World {
            writers: &[0, 0],
            saves: 1,
            epochs: 0,
        },
        World {
            writers: &[0, 1],
            saves: 0,
            epochs: 1,
        },
        World {
            writers: &[0, 1, 0],
            saves: 1,
            epochs: 1,
        },
        World {
            writers: &[0, 1],
            saves: 2,
            epochs: 2,
        },
    ];

    #[test]
    fn no_power_cut_loses_a_change() {
        for world in &WORLDS {
            let outcome = explore(world, None);
            if let Some(counterexample) = outcome.counterexample {
                panic!("{world:?}: {counterexample}");
            }
            println!(
                "{world:?}: {} states, {} disks",
                outcome.states, outcome.disks
            );
            assert!(
                outcome.states > 100 && outcome.disks > 4,
                "the world is too small to show anything: {world:?}"
            );
        }
    }

    #[test]
    fn every_rule_that_is_left_out_is_found() {
        for fault in Fault::ALL {
            let found = WORLDS
                .iter()
                .find_map(|world| explore(world, Some(fault)).counterexample);
            let found = found.unwrap_or_else(|| panic!("{fault:?} was not found in any world"));
            println!("{fault:?}: {found}");
            assert!(
                found.what.contains("power cut"),
                "{fault:?} was found as something else: {found}"
            );
        }
    }
}
