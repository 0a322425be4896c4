//! Bios against the witness, block by block: each piece of a bio is once in the witness, and the reverse.

use std::collections::HashMap;

use super::blocks::{
    self, BioPiece, Block, Blocks, EntryPiece, Mask, first_run, is_within, range_of,
};
use super::parts::hash;
use super::{
    Agreement, AgreementInput, Change, Contradiction, Matched, Place, Rule, TracedBio, Window,
};
use crate::units::{EntryIndex, SECTOR_BYTES, SectorRange};
use crate::witness::{Entry, EntryKind};

/// Orders in which the sectors of a bio that was cut differently are put together.
const MAX_TRIES: usize = 16;

/// What a piece is, so far as it can be told; pieces that are alike are interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    Data(u64),
    Gone,
    /// Data without a fingerprint.
    Unknown,
}

fn of_bio(bio: &TracedBio, range: &SectorRange) -> Content {
    match bio.change {
        Change::Discard => Content::Gone,
        Change::Zeroes => Content::Data(hash(&vec![0; range.bytes() as usize])),
        Change::Write => {
            let mut prints = bio.prints.iter();
            let print = prints.find(|print| print.range == *range);
            print.map_or(Content::Unknown, |print| Content::Data(print.xxh64))
        }
    }
}

fn of_entry(entry: &Entry<'_>, range: &SectorRange) -> Content {
    match (entry.kind, blocks::part_of(entry, range)) {
        (EntryKind::Write, Some(data)) => Content::Data(hash(data)),
        _ => Content::Gone,
    }
}

/// A piece of a bio on its way to its entry.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    piece: BioPiece,
    content: Content,
    queued: Place,
    completed: Option<Place>,
    /// The witness must have it; otherwise it may.
    must: bool,
    alone: bool,
}

/// A piece of an entry that no bio has claimed.
#[derive(Clone, Copy, Debug)]
struct Offered {
    piece: EntryPiece,
    content: Content,
    /// The trace must have it; otherwise it may.
    must: bool,
}

pub(super) fn check(
    input: &AgreementInput<'_>,
    window: &Window,
    blocks: &Blocks,
    agreement: &mut Agreement,
) -> Vec<Matched> {
    let mut matched = Vec::new();
    for (at, block) in blocks.in_order() {
        Matching {
            input,
            window,
            at,
            agreement,
            matched: &mut matched,
        }
        .run(block);
    }
    matched
}

/// The pieces of one block.
struct Matching<'a, 'b> {
    input: &'a AgreementInput<'b>,
    window: &'a Window,
    at: u64,
    agreement: &'a mut Agreement,
    matched: &'a mut Vec<Matched>,
}

impl Matching<'_, '_> {
    fn run(mut self, block: &Block) {
        let mut offered: Vec<Option<Offered>> =
            block.entries.iter().map(|p| Some(self.offer(p))).collect();
        let mut wanted = self.wanted(block);
        // First those that must be there, so that none that need not be takes their entry.
        wanted.sort_by_key(|wanted| (!wanted.must, wanted.queued));
        let mut left = self.match_alike(&wanted, &mut offered);
        left.retain(|wanted| !self.match_sectors(wanted, false, &mut offered));
        if self.input.pages_may_change {
            left.retain(|wanted| {
                self.is_direct(wanted) || !self.match_sectors(wanted, true, &mut offered)
            });
        }
        left.retain(|wanted| wanted.must);
        self.excuse_early(block, &mut offered);
        self.report(&left, &offered);
    }

    fn offer(&self, piece: &EntryPiece) -> Offered {
        let entry = &self.input.log.entries()[piece.entry.0 as usize];
        Offered {
            piece: *piece,
            content: of_entry(entry, &range_of(self.at, piece.mask)),
            must: self.window.has_entry(piece.entry),
        }
    }

    /// The bios of the block with what is known of their end.
    fn wanted(&self, block: &Block) -> Vec<Wanted> {
        let traced = self.input.traced;
        let mut wanted: Vec<Wanted> = Vec::new();
        for piece in &block.bios {
            let bio = &traced.bios[piece.bio];
            let covers = |mask: Mask| mask & piece.mask != 0;
            let request = block
                .requests
                .iter()
                .filter(|request| covers(request.mask))
                .map(|request| &traced.requests[request.request])
                .find(|request| request.issued.is_some_and(|issued| issued > bio.queued));
            let completed = request.and_then(|request| request.completed);
            let failed = request.is_some_and(|request| request.failed);
            wanted.push(Wanted {
                piece: *piece,
                content: of_bio(bio, &range_of(self.at, piece.mask)),
                queued: bio.queued,
                completed,
                must: is_within(self.window, Some(bio.queued), completed) && !failed,
                alone: true,
            });
        }
        for next in 1..wanted.len() {
            let until = wanted[next].queued;
            if wanted[next - 1].completed.is_none_or(|end| end > until) {
                wanted[next - 1].alone = false;
                wanted[next].alone = false;
            }
        }
        wanted
    }

    /// Whether an entry can be what a bio became.
    fn may_be(&self, wanted: &Wanted, entry: EntryIndex) -> bool {
        let (begin, end) = self.window.entries;
        (wanted.queued < self.window.begun || entry > begin)
            && (wanted.completed.is_none_or(|end| end > self.window.ending) || entry < end)
    }

    /// Pieces of the same sectors and content; gives those that are left.
    fn match_alike(&mut self, wanted: &[Wanted], offered: &mut [Option<Offered>]) -> Vec<Wanted> {
        let mut alike = HashMap::<(Mask, Content), Vec<usize>>::new();
        for (at, offer) in offered.iter().enumerate().rev() {
            let Some(offer) = offer else { continue };
            let key = (offer.piece.mask, offer.content);
            alike.entry(key).or_default().push(at);
        }
        let counts: HashMap<(Mask, Content), usize> =
            alike.iter().map(|(key, all)| (*key, all.len())).collect();
        let mut left = Vec::new();
        for wanted in wanted {
            let key = (wanted.piece.mask, wanted.content);
            let place = alike.get(&key).and_then(|all| {
                all.iter().rposition(|at| {
                    offered[*at].is_some_and(|offer| self.may_be(wanted, offer.piece.entry))
                })
            });
            let Some(place) = place else {
                left.push(*wanted);
                continue;
            };
            let at = alike.get_mut(&key).map(|all| all.remove(place));
            let Some(offer) = at.and_then(|at| offered[at].take()) else {
                continue;
            };
            self.agreement.contents += 1;
            self.matched.push(Matched {
                queued: wanted.queued,
                completed: wanted.completed,
                entry: offer.piece.entry,
                block: self.at,
                certain: wanted.alone && counts.get(&key) == Some(&1),
            });
        }
        left
    }

    /// A bio that was cut or merged inside a block, or has no fingerprint: its sectors, put together from
    /// whatever entries have them; with any content, if that may have changed on its way.
    fn match_sectors(
        &mut self,
        wanted: &Wanted,
        any_content: bool,
        offered: &mut [Option<Offered>],
    ) -> bool {
        let mut lists: Vec<(u32, Vec<usize>)> = Vec::new();
        for sector in (0..8).filter(|sector| wanted.piece.mask >> sector & 1 != 0) {
            let has = |offer: &Option<Offered>| {
                offer.is_some_and(|offer| {
                    offer.piece.mask >> sector & 1 != 0
                        && self.may_be(wanted, offer.piece.entry)
                        && (offer.content == Content::Gone) == (wanted.content == Content::Gone)
                })
            };
            let of_sector = (0..offered.len()).filter(|at| has(&offered[*at]));
            lists.push((sector, of_sector.take(MAX_TRIES).collect()));
        }
        let tries = lists.iter().map(|(_, list)| list.len()).min().unwrap_or(0);
        for number in 0..tries {
            let chosen: Vec<(u32, usize)> = lists
                .iter()
                .map(|(sector, list)| (*sector, list[number]))
                .collect();
            let found = self.put_together(&chosen, offered);
            if !any_content && wanted.content != Content::Unknown && wanted.content != found {
                continue;
            }
            for (sector, at) in chosen {
                if let Some(offer) = &mut offered[at] {
                    offer.piece.mask &= !(1 << sector);
                    if offer.piece.mask == 0 {
                        offered[at] = None;
                    }
                }
            }
            match wanted.content {
                Content::Unknown => self.agreement.counted += 1,
                _ if any_content => self.agreement.changed += 1,
                _ => self.agreement.contents += 1,
            }
            return true;
        }
        false
    }

    fn put_together(&self, chosen: &[(u32, usize)], offered: &[Option<Offered>]) -> Content {
        let mut bytes = Vec::with_capacity(chosen.len() * SECTOR_BYTES);
        for (sector, at) in chosen {
            let Some(offer) = &offered[*at] else { continue };
            let entry = &self.input.log.entries()[offer.piece.entry.0 as usize];
            match blocks::part_of(entry, &range_of(self.at, 1 << sector)) {
                Some(data) if entry.kind == EntryKind::Write => bytes.extend_from_slice(data),
                _ => return Content::Gone,
            }
        }
        Content::Data(hash(&bytes))
    }

    /// Whether the journal has a direct write there at that time, whose pages nobody changes.
    fn is_direct(&self, wanted: &Wanted) -> bool {
        let range = range_of(self.at, wanted.piece.mask);
        let queued_ns = self.input.traced.bios[wanted.piece.bio].queued_ns;
        self.input.direct.iter().any(|write| {
            write.range.intersect(&range).is_some()
                && (write.issued_ns..=write.completed_ns).contains(&queued_ns)
        })
    }

    /// The bio of a request that was issued before the mark at the beginning may have been queued before the
    /// recording: one entry for each of these.
    fn excuse_early(&self, block: &Block, offered: &mut [Option<Offered>]) {
        for piece in &block.requests {
            let request = &self.input.traced.requests[piece.request];
            if request
                .issued
                .is_some_and(|issued| issued > self.window.begun)
            {
                continue;
            }
            let is_it = |offer: &Option<Offered>| {
                offer.is_some_and(|offer| offer.must && offer.piece.mask & !piece.mask == 0)
            };
            if let Some(at) = offered.iter().position(is_it) {
                offered[at] = None;
            }
        }
    }

    /// What is left on both sides: where each has something, it is the content that differs.
    fn report(&mut self, wanted: &[Wanted], offered: &[Option<Offered>]) {
        let mut unseen: Vec<&Offered> = offered.iter().flatten().filter(|o| o.must).collect();
        for wanted in wanted {
            let partner = unseen
                .iter()
                .position(|offer| offer.piece.mask & wanted.piece.mask != 0);
            let other = partner.map(|at| unseen.remove(at));
            self.agreement.add(Contradiction {
                rule: Rule::Contents,
                range: Some(range_of(self.at, wanted.piece.mask)),
                trace: self.describe_bio(wanted),
                other: other.map_or_else(
                    || "the witness has no such write".into(),
                    |offer| format!("the witness has {}", describe_entry(offer)),
                ),
            });
        }
        for offer in unseen {
            self.agreement.add(Contradiction {
                rule: Rule::Contents,
                range: first_run(self.at, offer.piece.mask),
                trace: "no such write".into(),
                other: format!("the witness has {}", describe_entry(offer)),
            });
        }
    }

    fn describe_bio(&self, wanted: &Wanted) -> String {
        format!(
            "{} queued at place {}",
            describe(wanted.content),
            wanted.queued.0
        )
    }
}

fn describe_entry(offer: &Offered) -> String {
    format!("{} as entry {}", describe(offer.content), offer.piece.entry)
}

fn describe(content: Content) -> String {
    match content {
        Content::Data(print) => format!("data {print:016x}"),
        Content::Gone => "a discard".into(),
        Content::Unknown => "data without a fingerprint".into(),
    }
}
