//! Where else content that no version of its own block explains comes from.
//!
//! One pass over the sectors of the origin at T0 finds misplaced content, shifted by whole blocks
//! or by single sectors; one pass over the data of the log finds content of other times. Both cost
//! time in proportion to the disk and the log, so they run only when something is unexplained.

use std::collections::HashMap;

use crate::bytes::is_zero;
use crate::holes::Holes;
use crate::report::Culprit;
use crate::truth::{Content, Segment, Truth};
use crate::units::PIECE_SECTORS;
use crate::units::{BlockIndex, Origin, SECTOR_BYTES, SECTORS_PER_BLOCK, Sector, SectorRange};
use crate::witness::{EntryKind, WitnessLog};

/// Places at which one observation is compared in full. Repetitive data has as many candidates as
/// the disk has sectors; the nearest of the first ones is as good as any.
const MAX_CANDIDATES: u32 = 4096;

/// Where a content was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The origin at T0, at this sector of the disk.
    AtInstant(Sector),
    /// The data of this entry, at this sector of the disk.
    InLog(Culprit, Sector),
}

/// An observation to look for.
pub(crate) struct Wanted<'c> {
    pub block: BlockIndex,
    pub observed: &'c [u8],
}

impl Wanted<'_> {
    /// The sector to look for: the first that is not zero, for zeros are everywhere.
    fn probe(&self) -> Option<(usize, &[u8])> {
        self.observed
            .chunks_exact(SECTOR_BYTES)
            .enumerate()
            .find(|(_, sector)| !is_zero(sector))
    }

    fn sectors(&self) -> u64 {
        (self.observed.len() / SECTOR_BYTES) as u64
    }
}

/// Looks for each of `wanted`; the answers are in the same order.
pub(crate) fn locate(
    truth: &Truth<'_>,
    log: &WitnessLog<'_>,
    origin: &Origin,
    wanted: &[Wanted<'_>],
    holes: &Holes,
    after_piece: &mut dyn FnMut(),
) -> Vec<Option<Found>> {
    let mut probes = HashMap::<&[u8], Vec<(usize, u64)>>::new();
    for (id, want) in wanted.iter().enumerate() {
        if let Some((at, sector)) = want.probe() {
            probes.entry(sector).or_default().push((id, at as u64));
        }
    }
    let mut found: Vec<Option<Found>> = vec![None; wanted.len()];
    let mut compared = vec![0u32; wanted.len()];
    if probes.is_empty() {
        return found;
    }
    for segment in truth.segments(origin.range) {
        for piece in holes.data_of(&segment) {
            let part = segment.part(piece);
            search_segment(
                truth,
                origin,
                &part,
                wanted,
                &probes,
                &mut found,
                &mut compared,
            );
            after_piece();
        }
    }
    search_log(log, wanted, &probes, &mut found, after_piece);
    found
}

type Probes<'p> = HashMap<&'p [u8], Vec<(usize, u64)>>;

fn search_segment(
    truth: &Truth<'_>,
    origin: &Origin,
    segment: &Segment<'_>,
    wanted: &[Wanted<'_>],
    probes: &Probes<'_>,
    found: &mut [Option<Found>],
    compared: &mut [u32],
) {
    let Content::Bytes(bytes) = segment.content else {
        return;
    };
    for (offset, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
        if is_zero(sector) {
            continue;
        }
        for &(id, probe_at) in probes.get(sector).map_or(&[][..], Vec::as_slice) {
            let hit = segment.range.start.0 + offset as u64;
            let Some(start) = hit.checked_sub(probe_at) else {
                continue;
            };
            let range = SectorRange::new(Sector(start), wanted[id].sectors());
            if origin.range.intersect(&range) != Some(range) || compared[id] >= MAX_CANDIDATES {
                continue;
            }
            let home = origin.block_range(wanted[id].block).start;
            if !better(home, origin, range.start, found[id]) {
                continue;
            }
            compared[id] += 1;
            if truth.read(range) == wanted[id].observed {
                found[id] = Some(Found::AtInstant(range.start));
            }
        }
    }
}

/// Whether content at `candidate` is a better explanation than `known`: whole blocks before
/// shifted sectors, then the nearer.
fn better(home: Sector, origin: &Origin, candidate: Sector, known: Option<Found>) -> bool {
    let rank = |sector: Sector| {
        let shifted = !(sector.0 - origin.range.start.0).is_multiple_of(SECTORS_PER_BLOCK);
        (shifted, sector.0.abs_diff(home.0))
    };
    match known {
        Some(Found::AtInstant(known)) => rank(candidate) < rank(known),
        _ => true,
    }
}

fn search_log(
    log: &WitnessLog<'_>,
    wanted: &[Wanted<'_>],
    probes: &Probes<'_>,
    found: &mut [Option<Found>],
    after_piece: &mut dyn FnMut(),
) {
    let mut compared = vec![0u32; wanted.len()];
    let mut looked_at = 0;
    for entry in log
        .entries()
        .iter()
        .filter(|entry| entry.kind == EntryKind::Write)
    {
        looked_at += entry.sectors;
        if looked_at >= PIECE_SECTORS {
            looked_at = 0;
            after_piece();
        }
        for (offset, sector) in entry.data.chunks_exact(SECTOR_BYTES).enumerate() {
            if is_zero(sector) {
                continue;
            }
            for &(id, probe_at) in probes.get(sector).map_or(&[][..], Vec::as_slice) {
                let observed = wanted[id].observed;
                if found[id].is_some() || compared[id] >= MAX_CANDIDATES {
                    continue;
                }
                compared[id] += 1;
                let Some(first) = (offset as u64).checked_sub(probe_at) else {
                    continue;
                };
                let from = first as usize * SECTOR_BYTES;
                if entry.data.get(from..from + observed.len()) == Some(observed) {
                    let place = Sector(entry.sector.0 + first);
                    found[id] = Some(Found::InLog(Culprit::from(entry), place));
                }
            }
        }
    }
}
