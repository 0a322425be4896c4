//! Holes: parts of sparse files that are known to be zeros without looking.
//!
//! A disk of 500 GB of which 2 GB were ever written is compared in the time of 2 GB, if nobody looks at the
//! rest; and in the memory of a few MB, if what was looked at can be let go of piece by piece.

use crate::truth::{Content, Segment};
use crate::units::{PIECE_SECTORS, Sector, SectorRange};

/// Holes of the two files that are compared, both in sectors of the disk: in order and without overlap. None
/// where there are none, or nobody has asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    /// Of the disk before the log.
    pub base: Vec<SectorRange>,
    /// Of the image, or of the disk after the log.
    pub other: Vec<SectorRange>,
}

impl Holes {
    /// No holes: everything is looked at.
    pub(crate) const NONE: &'static Self = &Self {
        base: Vec::new(),
        other: Vec::new(),
    };

    /// What of a segment has to be looked at, in pieces.
    pub(crate) fn pieces_of(&self, segment: &Segment<'_>) -> Pieces<'_> {
        match (segment.writer, segment.content) {
            (_, Content::Zeros) => self.pieces(segment.range, false),
            (None, Content::Bytes(_)) => self.pieces(segment.range, true),
            // What was written is not known to be zeros.
            (Some(_), Content::Bytes(_)) => Self::NONE.pieces(segment.range, true),
        }
    }

    /// What of a segment may hold anything but zeros, in pieces.
    pub(crate) fn data_of(&self, segment: &Segment<'_>) -> Pieces<'_> {
        match (segment.writer, segment.content) {
            (None, Content::Bytes(_)) => Pieces {
                lists: [Some(&self.base), None],
                at: segment.range.start.0,
                end: segment.range.end().0,
            },
            _ => Self::NONE.pieces(segment.range, true),
        }
    }

    /// What of a range has to be looked at, in pieces. `base`: whether the disk before the log counts.
    fn pieces(&self, range: SectorRange, base: bool) -> Pieces<'_> {
        let lists: [Option<&[SectorRange]>; 2] = [base.then_some(&self.base), Some(&self.other)];
        Pieces {
            lists,
            at: range.start.0,
            end: range.end().0,
        }
    }
}

/// Iterator over what is not a hole in all of the lists.
pub(crate) struct Pieces<'h> {
    lists: [Option<&'h [SectorRange]>; 2],
    at: u64,
    end: u64,
}

impl Iterator for Pieces<'_> {
    type Item = SectorRange;

    fn next(&mut self) -> Option<SectorRange> {
        while self.at < self.end {
            let at = self.at;
            // Where the first hole ends that this place is in, and where the last one begins that it is not in.
            let (mut hole_end, mut data_end) = (self.end, at);
            for holes in self.lists.into_iter().flatten() {
                let next = holes.partition_point(|hole| hole.end().0 <= at);
                match holes.get(next) {
                    Some(hole) if hole.start.0 <= at => hole_end = hole_end.min(hole.end().0),
                    Some(hole) => data_end = data_end.max(hole.start.0),
                    None => data_end = self.end,
                }
            }
            if data_end == at {
                self.at = hole_end;
                continue;
            }
            // Cut at the same places whatever came before: blocks are never split by it.
            let cut = (at / PIECE_SECTORS + 1) * PIECE_SECTORS;
            let piece_end = data_end.min(self.end).min(cut);
            self.at = piece_end;
            return Some(SectorRange::new(Sector(at), piece_end - at));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Vec<SectorRange> {
        let range = |(start, end): &(u64, u64)| SectorRange::new(Sector(*start), end - start);
        list.iter().map(range).collect()
    }

    /// Goal: of every sector it is said rightly whether it must be looked at. Method: all ranges of a small
    /// disk, against a look at each sector.
    #[test]
    fn what_is_a_hole_in_both_is_left_out() {
        let holes = Holes {
            base: ranges(&[(0, 5), (8, 20), (30, 40)]),
            other: ranges(&[(3, 10), (12, 14), (14, 31), (39, 41)]),
        };
        let within = |list: &[SectorRange], at: u64| {
            list.iter()
                .any(|hole| (hole.start.0..hole.end().0).contains(&at))
        };
        for base in [false, true] {
            for start in 0..45 {
                for end in start..45 {
                    let range = SectorRange::new(Sector(start), end - start);
                    let found: Vec<u64> = holes
                        .pieces(range, base)
                        .flat_map(|piece| piece.start.0..piece.end().0)
                        .collect();
                    let expected: Vec<u64> = (start..end)
                        .filter(|at| {
                            !within(&holes.other, *at) || base && !within(&holes.base, *at)
                        })
                        .collect();
                    assert_eq!(found, expected, "{range} {base}");
                }
            }
        }
    }

    #[test]
    fn without_holes_all_is_looked_at_in_pieces() {
        let range = SectorRange::new(Sector(7), 2 * PIECE_SECTORS);
        let pieces: Vec<u64> = Holes::default()
            .pieces(range, true)
            .map(|piece| piece.sectors)
            .collect();
        assert_eq!(pieces, [PIECE_SECTORS - 7, PIECE_SECTORS, 7]);
    }
}
