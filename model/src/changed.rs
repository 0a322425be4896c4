//! Which blocks differ between two states of one disk.

use crate::truth::Truth;
use crate::units::{BlockIndex, BlockSet, Origin};

/// The blocks of `origin` that `before` and `after` do not have in common: the least that a change
/// map between them must contain.
///
/// States over one base are compared where a log wrote; any others everywhere.
#[must_use]
pub fn changed_blocks(before: &Truth<'_>, after: &Truth<'_>, origin: &Origin) -> BlockSet {
    let mut candidates = BlockSet::new();
    if before.has_base_of(after) {
        for range in before.written().chain(after.written()) {
            let blocks = origin.blocks_of(&range);
            candidates.insert(BlockIndex(blocks.start), blocks.end - blocks.start);
        }
    } else {
        candidates.insert(BlockIndex(0), origin.blocks());
    }
    candidates
        .blocks()
        .filter(|block| before.block(origin, *block) != after.block(origin, *block))
        .collect()
}
