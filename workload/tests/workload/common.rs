//! Workloads of all kinds.

use cowbird_workload::{Action, Builder, Content, Extent, Flags, Sector, Workload};
use proptest::prelude::*;

/// One operation before it has a place in time.
pub type Plan = (u64, usize, u8, u64, u64, Vec<u32>);

/// Operations within so many sectors.
pub fn plans(sectors: u64) -> impl Strategy<Value = Vec<Plan>> {
    let lengths = prop_oneof![1..=8_u64, 1..=300_u64];
    let plan = (
        0..1_000_000_000_u64,
        0..Action::ALL.len(),
        0..=Flags::ALL.0,
        0..sectors,
        lengths,
        prop::collection::vec(any::<u32>(), 0..5),
    );
    prop::collection::vec(plan, 0..60)
}

/// The workload of these plans; in every other one contents are known in part.
pub fn workload(plans: &[Plan]) -> Workload {
    let mut builder = Builder::default();
    for (pause, action, flags, start, sectors, contents) in plans {
        let extent = Extent {
            start: Sector(*start),
            sectors: *sectors,
        };
        let at = builder.push(*pause, Action::ALL[*action], Flags(*flags), extent);
        for (piece, number) in contents.iter().enumerate() {
            let content = match number % 3 {
                0 => Content::Unknown,
                1 => Content::Zeroes,
                _ => Content::Known(*number),
            };
            builder.content(
                at.expect("it has sectors or is a flush"),
                piece as u64,
                content,
            );
        }
    }
    builder.finish("a test", vec!["nobody vouches".to_owned()])
}

/// Any workload on a device of so many sectors.
pub fn workloads(sectors: u64) -> impl Strategy<Value = Workload> {
    plans(sectors).prop_map(|plans| workload(&plans))
}
