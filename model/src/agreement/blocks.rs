//! Both logs sorted by 4 KiB blocks of the disk, the grid of the fingerprints.

use std::collections::HashMap;

use super::{Agreement, AgreementInput, Change, Contradiction, Place, Rule, Window};
use crate::units::{EntryIndex, SECTOR_BYTES, SECTORS_PER_BLOCK, Sector, SectorRange};
use crate::witness::{Entry, EntryKind};

/// Which of the eight sectors of a block: bit 0 is the first.
pub(super) type Mask = u8;

/// The pieces of a range, block by block: number of the block, and which sectors of it.
pub(super) fn pieces(range: &SectorRange) -> impl Iterator<Item = (u64, Mask)> + use<> {
    let (start, end) = (range.start.0, range.end().0);
    (start / SECTORS_PER_BLOCK..end.div_ceil(SECTORS_PER_BLOCK)).map(move |block| {
        let first = start.max(block * SECTORS_PER_BLOCK) % SECTORS_PER_BLOCK;
        let last = (end - 1).min(block * SECTORS_PER_BLOCK + 7) % SECTORS_PER_BLOCK;
        (block, (0xff << first) & (0xff >> (7 - last)))
    })
}

/// The sectors of a piece; a mask is always of neighbours.
pub(super) fn range_of(block: u64, mask: Mask) -> SectorRange {
    let first = block * SECTORS_PER_BLOCK + u64::from(mask.trailing_zeros());
    SectorRange::new(Sector(first), mask.count_ones().into())
}

/// The part of an entry's data that lies in `range`, if all of it does.
pub(super) fn part_of<'a>(entry: &Entry<'a>, range: &SectorRange) -> Option<&'a [u8]> {
    let from = range.start.0.checked_sub(entry.sector.0)? as usize * SECTOR_BYTES;
    entry.data.get(from..from + range.bytes() as usize)
}

/// A part of an entry in one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryPiece {
    pub(super) entry: EntryIndex,
    pub(super) mask: Mask,
}

/// A part of a bio in one block: its place in the list of bios.
#[derive(Clone, Copy, Debug)]
pub(super) struct BioPiece {
    pub(super) bio: usize,
    pub(super) mask: Mask,
}

/// A part of a request in one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestPiece {
    pub(super) request: usize,
    pub(super) mask: Mask,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) entries: Vec<EntryPiece>,
    pub(super) bios: Vec<BioPiece>,
    pub(super) requests: Vec<RequestPiece>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Blocks(HashMap<u64, Block>);

impl Blocks {
    /// Entries before the mark at the beginning are taken where the trace has the block too: a write that was
    /// under way then may be one of these.
    pub(super) fn new(input: &AgreementInput<'_>, window: &Window) -> Self {
        let mut blocks = HashMap::<u64, Block>::new();
        for (bio, traced) in input.traced.bios.iter().enumerate() {
            for (block, mask) in pieces(&traced.range) {
                let piece = BioPiece { bio, mask };
                blocks.entry(block).or_default().bios.push(piece);
            }
        }
        for (request, traced) in input.traced.requests.iter().enumerate() {
            for (block, mask) in pieces(&traced.range) {
                let piece = RequestPiece { request, mask };
                blocks.entry(block).or_default().requests.push(piece);
            }
        }
        let changes = |kind| matches!(kind, EntryKind::Write | EntryKind::Discard);
        for entry in input.log.entries().iter().filter(|e| changes(e.kind)) {
            for (block, mask) in pieces(&entry.range()) {
                let piece = EntryPiece {
                    entry: entry.index,
                    mask,
                };
                if window.has_entry(entry.index) {
                    blocks.entry(block).or_default().entries.push(piece);
                } else if let Some(block) = blocks.get_mut(&block) {
                    block.entries.push(piece);
                }
            }
        }
        Self(blocks)
    }

    /// The blocks in ascending order, so that a report is the same every time.
    pub(super) fn in_order(&self) -> Vec<(u64, &Block)> {
        let mut all: Vec<(u64, &Block)> = self.0.iter().map(|(at, block)| (*at, block)).collect();
        all.sort_by_key(|(at, _)| *at);
        all
    }

    /// Each sector was completed by requests as often as the witness has it.
    pub(super) fn check_requests(
        &self,
        input: &AgreementInput<'_>,
        window: &Window,
        agreement: &mut Agreement,
    ) {
        agreement.requests += input.traced.requests.len() as u64;
        for (at, block) in self.in_order() {
            let sums = Sums::of(input, window, block);
            let unseen = |sector: usize| sums.entries[sector] > sums.any_requests[sector];
            let unwitnessed = |sector: usize| sums.requests[sector] > sums.any_entries[sector];
            for (wrong, trace, other) in [
                (mask_of(unseen), sums.any_requests, sums.entries),
                (mask_of(unwitnessed), sums.requests, sums.any_entries),
            ] {
                let Some(range) = first_run(at, wrong) else {
                    continue;
                };
                let sector = wrong.trailing_zeros() as usize;
                agreement.add(Contradiction {
                    rule: Rule::Requests,
                    range: Some(range),
                    trace: format!("{} completions of it", trace[sector]),
                    other: format!("the witness has {} writes", other[sector]),
                });
            }
        }
    }
}

fn mask_of(wrong: impl Fn(usize) -> bool) -> Mask {
    (0..8).fold(0, |mask, sector| mask | u8::from(wrong(sector)) << sector)
}

/// The first run of neighbours in a mask.
pub(super) fn first_run(block: u64, mask: Mask) -> Option<SectorRange> {
    (mask != 0).then(|| {
        let first = mask.trailing_zeros();
        let length = (mask >> first).trailing_ones();
        let start = block * SECTORS_PER_BLOCK + u64::from(first);
        SectorRange::new(Sector(start), length.into())
    })
}

/// How often each sector of a block was written: what must be on the other side, and what may.
#[derive(Default)]
struct Sums {
    requests: [u32; 8],
    any_requests: [u32; 8],
    entries: [u32; 8],
    any_entries: [u32; 8],
}

fn count(sums: &mut [u32; 8], mask: Mask) {
    for (sector, sum) in sums.iter_mut().enumerate() {
        *sum += u32::from(mask >> sector & 1);
    }
}

impl Sums {
    fn of(input: &AgreementInput<'_>, window: &Window, block: &Block) -> Self {
        let mut sums = Self::default();
        for piece in &block.requests {
            let request = &input.traced.requests[piece.request];
            if request.change == Change::Discard {
                continue;
            }
            count(&mut sums.any_requests, piece.mask);
            if is_within(window, request.issued, request.completed) && !request.failed {
                count(&mut sums.requests, piece.mask);
            }
        }
        for piece in &block.entries {
            let entry = &input.log.entries()[piece.entry.0 as usize];
            if entry.kind == EntryKind::Discard {
                continue;
            }
            if window.entries.0 < entry.index {
                count(&mut sums.any_entries, piece.mask);
            }
            if window.has_entry(entry.index) {
                count(&mut sums.entries, piece.mask);
            }
        }
        sums
    }
}

/// Whether something began after the mark at the beginning was complete, and ended before the one at the
/// end was queued: then the other log must have it between the two as well.
pub(super) fn is_within(window: &Window, began: Option<Place>, ended: Option<Place>) -> bool {
    began.is_some_and(|began| began > window.begun)
        && ended.is_some_and(|ended| ended < window.ending)
}
