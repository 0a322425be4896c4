//! Moving a workload onto another volume.

use cowbird_workload::remap::volume_sectors;
use cowbird_workload::{Action, BLOCK_SECTORS, Extent, Fit, Operation, Workload, remap};
use proptest::prelude::*;

use crate::common::{plans, workload, workloads};

/// A device much larger than what is done to it, of which the volume must be a part.
fn sparse() -> impl Strategy<Value = Workload> {
    (plans(4000), 0..1_u64 << 40).prop_map(|(mut plans, far)| {
        for plan in plans.iter_mut().filter(|plan| plan.3 % 3 == 0) {
            plan.3 += far;
        }
        workload(&plans)
    })
}

fn places(workload: &Workload) -> Vec<&Operation> {
    let operations = workload.operations().iter();
    operations
        .filter(|operation| !operation.extent.is_empty())
        .collect()
}

fn sharing(pair: [&Operation; 2]) -> [bool; 2] {
    let blocks = |extent: Extent| Extent {
        sectors: extent.piece_count() * BLOCK_SECTORS,
        start: cowbird_workload::Sector(extent.start.0 / BLOCK_SECTORS * BLOCK_SECTORS),
    };
    let [a, b] = pair.map(|operation| operation.extent);
    [a.overlaps(&b), blocks(a).overlaps(&blocks(b))]
}

proptest! {
    /// Goal: on a volume that has room for all of it, nothing is different but the gaps. Method: for
    /// every pair, sectors and blocks are shared afterwards exactly where they were before.
    #[test]
    fn what_fits_keeps_its_shape(workload in sparse()) {
        let moved = remap(&workload, 200_000);
        prop_assert!(matches!(moved.fit, Fit::Kept | Fit::Compacted));
        prop_assert_eq!(moved.left_out, 0);
        let (old, new) = (places(&workload), places(&moved.workload));
        prop_assert_eq!(old.len(), new.len());
        prop_assert!(moved.workload.space_sectors() <= 200_000);
        for (a, moved_a) in old.iter().zip(&new) {
            let inside = |operation: &Operation| operation.extent.start.0 % BLOCK_SECTORS;
            prop_assert_eq!(inside(a), inside(moved_a));
            let same = Operation { extent: a.extent, ..(**moved_a).clone() };
            prop_assert_eq!(&same, *a);
            prop_assert_eq!(a.extent.sectors, moved_a.extent.sectors);
            for (b, moved_b) in old.iter().zip(&new) {
                prop_assert_eq!(sharing([a, b]), sharing([moved_a, moved_b]));
            }
        }
    }

    /// Goal: on a volume that has room for what is written, no write is different from before, and
    /// what is left of the others lies where writes are.
    #[test]
    fn writes_have_priority(workload in sparse()) {
        // Too large for all of it on the smallest volume that is large enough for what is written.
        let all = volume_sectors(&workload, 0, u64::MAX);
        let sectors = volume_sectors(&workload, BLOCK_SECTORS, all.saturating_sub(1));
        let moved = remap(&workload, sectors);
        prop_assume!(moved.fit != Fit::Folded);
        let writes = |workload: &Workload| {
            let writes = workload.operations().iter().filter(|operation| operation.action == Action::Write);
            writes.cloned().collect::<Vec<_>>()
        };
        let (old, new) = (writes(&workload), writes(&moved.workload));
        prop_assert_eq!(old.len(), new.len());
        prop_assert!(moved.workload.space_sectors() <= sectors);
        for (a, moved_a) in old.iter().zip(&new) {
            prop_assert_eq!(&a.contents, &moved_a.contents);
            for (b, moved_b) in old.iter().zip(&new) {
                prop_assert_eq!(sharing([a, b]), sharing([moved_a, moved_b]));
            }
        }
        let count = moved.workload.operations().len() + moved.left_out;
        prop_assert_eq!(count, workload.operations().len());
    }

    /// Goal: on a volume that is too small all writes are still there, with all their contents and at the
    /// same places inside of blocks, and what overlapped overlaps.
    #[test]
    fn what_is_folded_is_whole(workload in workloads(8000), blocks in 1..100_u64) {
        let volume = blocks * BLOCK_SECTORS;
        let moved = remap(&workload, volume);
        prop_assume!(moved.fit == Fit::Folded);
        prop_assert!(moved.workload.space_sectors() <= volume);
        let sums = |workload: &Workload| {
            let writes = workload.operations().iter().filter(|operation| operation.action == Action::Write);
            let contents: Vec<_> = writes.clone().flat_map(|write| write.contents.clone()).collect();
            (writes.map(|write| write.extent.sectors).sum::<u64>(), contents)
        };
        prop_assert_eq!(sums(&moved.workload), sums(&workload));
        for operation in moved.workload.operations() {
            let contents = operation.contents.len() as u64;
            prop_assert!(contents == 0 || contents == operation.extent.piece_count());
        }
    }

    /// Goal: a workload that was moved is not moved again by the same volume.
    #[test]
    fn once_is_enough(workload in sparse(), sectors in BLOCK_SECTORS..40_000_u64) {
        let once = remap(&workload, sectors).workload;
        let twice = remap(&once, sectors);
        prop_assert_eq!(twice.fit, Fit::Kept);
        prop_assert_eq!(twice.workload, once);
    }
}

fn of(extents: &[(Action, u64, u64)]) -> Workload {
    let plan = |(at, (action, start, sectors)): (usize, &(Action, u64, u64))| {
        (at as u64, *action as usize, 0, *start, *sectors, Vec::new())
    };
    workload(&extents.iter().enumerate().map(plan).collect::<Vec<_>>())
}

fn moved(workload: &Workload, sectors: u64) -> (Fit, usize, Vec<(u64, u64)>) {
    let moved = remap(workload, sectors);
    let extents = moved.workload.operations().iter();
    let extents = extents.map(|operation| (operation.extent.start.0, operation.extent.sectors));
    (moved.fit, moved.left_out, extents.collect())
}

#[test]
fn each_way_is_taken_when_its_turn_comes() {
    let (write, read, discard) = (Action::Write, Action::Read, Action::Discard);
    let device = of(&[
        (discard, 0, 80_000),
        (write, 803, 2),
        (write, 40_000, 16),
        (read, 60_000, 8),
        (discard, 804, 39_200),
    ]);
    let kept = vec![
        (0, 80_000),
        (803, 2),
        (40_000, 16),
        (60_000, 8),
        (804, 39_200),
    ];
    assert_eq!(moved(&device, 80_000), (Fit::Kept, 0, kept));
    // Without the discard of all of it, the rest lies close together: three blocks.
    let written = vec![(0, 24), (3, 2), (8, 16), (4, 8)];
    assert_eq!(moved(&device, 79_999), (Fit::Written, 1, written));
    let folded = vec![(0, 16), (3, 2), (8, 8), (0, 8), (4, 8)];
    assert_eq!(moved(&device, 17), (Fit::Folded, 1, folded));
    let writes = of(&[(write, 803, 2), (write, 40_000, 16), (read, 40_008, 4)]);
    let compacted = vec![(3, 2), (8, 16), (16, 4)];
    assert_eq!(moved(&writes, 24), (Fit::Compacted, 0, compacted));
}

/// Goal: a forged write that is longer than any is does not become more operations than memory has room for. Found by
/// `cowbird-fuzz`. Method: 64 PiB onto 1 MiB.
#[test]
fn a_forged_length_goes_around_once() {
    let forged = of(&[(Action::Write, 8, 1 << 47), (Action::Write, 3, 2)]);
    let (fit, left_out, extents) = moved(&forged, 2048);
    assert_eq!((fit, left_out), (Fit::Folded, 0));
    assert_eq!(extents, [(8, 2040), (0, 8), (3, 2)]);
}
