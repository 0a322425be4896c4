//! Goal: whatever a machine goes through, tracking never goes on with a change that it missed; and it does go on after what
//! every machine goes through.
//!
//! Method: random histories of a machine, in which a model of the module writes and flushes in the order of `kmod/src`, and the
//! module's own C code decides each time what the COW file is worth. That is compared with the true difference between the
//! origin and the content at the instants of its epochs. Each history has a seed, which a failure prints with all that
//! happened.
//!
//! What the design cannot see is in [`rows`]: such a miss counts only for the blocks that the event touched, so any other kind
//! fails the test. `docs/tracking-trust.md` has the rows, and says what the model leaves out.

mod device;
mod disks;
mod faults;
mod rows;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use faults::Fault;
use rows::Row;
use world::{Cause, Tally, World};

const HISTORIES: u64 = 1000;
/// Of ten, so many have nothing but what every machine goes through.
const ORDINARY: u64 = 5;
/// A rule that is left out must show within so many histories.
const HISTORIES_PER_FAULT: u64 = 3000;
const SEED: u64 = 0xC0B1_4D00;

fn run(number: u64, fault: Option<Fault>) -> Result<Tally, String> {
    let seed = SEED + number;
    let ordinary = number % 10 < ORDINARY;
    let mut world = World::new(seed, ordinary, fault);
    let steps = 10 + seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 40;
    let mut live = || -> Result<(), String> {
        for _ in 0..steps {
            world.step()?;
        }
        world.end()
    };
    // The trace of a panic counts, too.
    let lived = catch_unwind(AssertUnwindSafe(&mut live));
    match lived.unwrap_or_else(|_| Err("a panic".to_owned())) {
        Ok(()) => Ok(world.tally),
        Err(error) => Err(format!(
            "history {number} (seed {seed:#x}, ordinary: {ordinary}): {error}\n  {}",
            world.trace.join("\n  ")
        )),
    }
}

#[test]
fn no_history_misses_a_change() {
    let mut all = Tally::default();
    let mut histories: BTreeMap<Row, u64> = BTreeMap::new();
    for number in 0..HISTORIES {
        let tally = run(number, None).unwrap_or_else(|error| panic!("{error}"));
        for (cause, counts) in tally.reloads {
            let sum = all.reloads.entry(cause).or_default();
            (0..3).for_each(|at| sum[at] += counts[at]);
        }
        for (row, blocks) in tally.missed {
            *all.missed.entry(row).or_default() += blocks;
            *histories.entry(row).or_default() += 1;
        }
        for (reason, count) in tally.refused {
            *all.refused.entry(reason).or_default() += count;
        }
        for (event, count) in tally.events {
            *all.events.entry(event).or_default() += count;
        }
        all.maps += tally.maps;
        all.forgotten += tally.forgotten;
    }
    println!("{HISTORIES} histories, {} maps of epochs", all.maps);
    for (cause, [reloads, on, snapshots]) in &all.reloads {
        println!(
            "{cause:?}: {reloads} reloads, tracking went on after {on}, the snapshot after {snapshots}"
        );
        if *cause != Cause::Other {
            assert_eq!(on, reloads, "doubt after {cause:?}");
            assert!(*reloads > 300, "{cause:?} is too rare to show anything");
            let least = match cause {
                Cause::CleanReboot => 300,
                Cause::ModuleReload => 100,
                // A snapshot that nothing was written to since its save.
                _ => 5,
            };
            assert!(
                *snapshots > least,
                "a snapshot rarely goes on after {cause:?}"
            );
        }
    }
    for (row, blocks) in &all.missed {
        println!(
            "known open, {}: {blocks} blocks in {} histories",
            row.name(),
            histories[row]
        );
    }
    for (reason, count) in &all.refused {
        println!("refused {count} times: {reason}");
    }
    println!("{:?}", all.events);
    println!("the epoch before was forgotten {} times", all.forgotten);
    assert!(
        all.forgotten > 0,
        "an invalidated snapshot forgets nothing any more"
    );
    for row in Row::ALL {
        assert!(
            all.missed.contains_key(&row),
            "{row:?} was never seen: is it still open?"
        );
    }
}

/// Goal: the list of what is known to be open is that of the documents.
#[test]
fn known_rows_are_open_rows() {
    let page = include_str!("../../../../../docs/tracking-trust.md");
    for row in Row::ALL {
        let line = page.lines().find(|line| line.contains(row.name()));
        let line = line.unwrap_or_else(|| panic!("no row {:?}", row.name()));
        assert!(line.contains("**open**"), "{line}");
    }
}

/// Goal: the histories see what they are for. Method: one rule of the module is left out at a time.
#[test]
fn every_rule_that_is_left_out_is_found() {
    for fault in Fault::ALL {
        let harm = |number| {
            let error = run(number, Some(fault)).err()?;
            let is_meant = error.lines().next()?.contains(fault.harm());
            is_meant.then_some(error)
        };
        let found = (0..HISTORIES_PER_FAULT).find_map(harm);
        let found = found.unwrap_or_else(|| panic!("{fault:?} was not found"));
        println!("{fault:?}: {}", found.lines().next().unwrap_or_default());
    }
}
