//! One block through the whole log: which versions it had, and which of them an observation fits.

use crate::bytes::is_zero;
use crate::class::Class;
use crate::report::Culprit;
use crate::truth::DiscardModel;
use crate::units::{EntryIndex, SECTOR_BYTES, SECTORS_PER_BLOCK, SectorRange};
use crate::witness::{Entry, EntryKind};

/// Sectors in the longest block, for arrays.
const MAX_SECTORS: usize = SECTORS_PER_BLOCK as usize;

/// The versions of one block: what the disk held before the log, then one version per entry.
#[derive(Clone, Debug)]
pub(crate) struct History<'h, 'a> {
    /// The sectors of the block on the disk.
    pub range: SectorRange,
    /// Their content before the log.
    pub base: &'a [u8],
    /// The entries that change any of them, in log order.
    pub entries: &'h [Entry<'a>],
    /// The first entry that is after the snapshot instant.
    pub marker: EntryIndex,
    /// How discards count.
    pub discard: DiscardModel,
    /// Whether the block belongs to the COW file: then zeros are right and the version at the
    /// snapshot instant is as wrong as an older one.
    pub own: bool,
}

/// The class of an observation as far as the block's own history tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Explained by the history.
    Explained {
        class: Class,
        culprit: Option<Culprit>,
        detail: String,
    },
    /// No version of this block; `sectors` is the map of sectors for people.
    Unexplained { sectors: String },
}

/// Where one sector of an observation was seen in the history of that sector.
#[derive(Clone, Copy, Debug, Default)]
struct SectorMatch {
    /// In the version before the snapshot instant that is looked at, then in that at the instant.
    now: bool,
    /// In any version before the instant's own.
    older: bool,
    /// In the version at the snapshot instant.
    at_instant: bool,
    /// First entry after the instant that wrote it.
    newer: Option<usize>,
}

/// What a walk over the versions found.
struct Matches {
    sectors: [SectorMatch; MAX_SECTORS],
    count: usize,
    /// The first version after the instant that fits as a whole: the entry that made it.
    newer: Option<usize>,
    /// The last version before the instant that fits as a whole: the entry that made it, or none
    /// for the content before the log.
    older: Option<Option<usize>>,
}

impl<'a> History<'_, 'a> {
    /// Classifies `observed`, which differs from the truth and has the length of the block.
    pub(crate) fn classify(&self, observed: &[u8]) -> Finding {
        let matches = self.walk(observed);
        if let Some(at) = matches.newer {
            return self.future(&matches, at);
        }
        if is_zero(observed) {
            return self.zeroed(&matches);
        }
        if let Some(older) = matches.older {
            return self.stale(older);
        }
        let seen = &matches.sectors[..matches.count];
        let sectors = sector_map(seen, observed);
        if seen
            .iter()
            .all(|sector| sector.older || sector.at_instant || sector.newer.is_some())
        {
            return self.torn(seen, &sectors);
        }
        Finding::Unexplained { sectors }
    }

    fn walk(&self, observed: &[u8]) -> Matches {
        let count = observed.len() / SECTOR_BYTES;
        let mut sectors = [SectorMatch::default(); MAX_SECTORS];
        let (mut newer, mut older) = (None, None);
        for (at, sector) in sectors[..count].iter_mut().enumerate() {
            sector.now = sector_of(self.base, at) == sector_of(observed, at);
        }
        let instant = self
            .entries
            .partition_point(|entry| entry.index < self.marker);
        let mut version: Option<usize> = None;
        loop {
            // Here `now` describes the version that entry `version` made.
            let seen = &mut sectors[..count];
            let whole = seen.iter().all(|sector| sector.now);
            let entries_done = version.map_or(0, |at| at + 1);
            if entries_done <= instant {
                if whole && (entries_done < instant || self.own) {
                    older = Some(version);
                }
                for sector in seen.iter_mut().filter(|sector| sector.now) {
                    sector.older |= entries_done < instant;
                    sector.at_instant |= entries_done == instant;
                }
            } else {
                let at = entries_done - 1;
                if whole && newer.is_none() {
                    newer = Some(at);
                }
                for sector in seen.iter_mut().filter(|sector| sector.now) {
                    sector.newer.get_or_insert(at);
                }
            }
            let Some(entry) = self.entries.get(entries_done) else {
                break;
            };
            self.step(entry, observed, seen);
            version = Some(entries_done);
        }
        Matches {
            sectors,
            count,
            newer,
            older,
        }
    }

    /// Updates `now` of the sectors that `entry` changes.
    fn step(&self, entry: &Entry<'a>, observed: &[u8], seen: &mut [SectorMatch]) {
        let Some(part) = entry.range().intersect(&self.range) else {
            return;
        };
        debug_assert!(
            self.discard.changes_content(entry),
            "the caller filters the entries"
        );
        for sector in part.start.0..part.end().0 {
            let at = (sector - self.range.start.0) as usize;
            let wanted = sector_of(observed, at);
            seen[at].now = match entry.kind {
                EntryKind::Write => {
                    sector_of(entry.data, (sector - entry.sector.0) as usize) == wanted
                }
                _ => is_zero(wanted),
            };
        }
    }

    fn culprit(&self, at: usize) -> Option<Culprit> {
        self.entries.get(at).map(Culprit::from)
    }

    fn future(&self, matches: &Matches, at: usize) -> Finding {
        let later = self.entries[at].index.0 - self.marker.0;
        let mut detail = format!("content written {later} entries after the snapshot instant");
        if matches.older.is_some() {
            detail += " (an older version has it, too)";
        }
        Finding::Explained {
            class: Class::Future,
            culprit: self.culprit(at),
            detail,
        }
    }

    fn zeroed(&self, matches: &Matches) -> Finding {
        let mut detail = String::from("all zeros");
        if let Some(version) = matches.older {
            detail += &format!(" (so was the content {})", self.origin_of(version));
        }
        Finding::Explained {
            class: Class::Zeroed,
            culprit: None,
            detail,
        }
    }

    fn stale(&self, older: Option<usize>) -> Finding {
        let next = older.map_or(0, |at| at + 1);
        let detail = match self
            .entries
            .get(next)
            .filter(|entry| entry.index < self.marker)
        {
            Some(lost) => {
                format!(
                    "content {}; entry {} is missing",
                    self.origin_of(older),
                    lost.index
                )
            }
            None => String::from("the COW file's own content, which must read as zeros"),
        };
        let culprit = older.and_then(|at| self.culprit(at));
        Finding::Explained {
            class: Class::Stale,
            culprit,
            detail,
        }
    }

    fn torn(&self, seen: &[SectorMatch], sectors: &str) -> Finding {
        // The sector that must not be there at all says most: newer before older.
        let newer = seen
            .iter()
            .filter(|sector| !sector.at_instant)
            .find_map(|sector| sector.newer);
        let detail = format!("mixed versions, sectors {sectors}");
        let culprit = newer.and_then(|at| self.culprit(at));
        Finding::Explained {
            class: Class::Torn,
            culprit,
            detail,
        }
    }

    fn origin_of(&self, version: Option<usize>) -> String {
        match version.and_then(|at| self.entries.get(at)) {
            Some(entry) => format!("of entry {}", entry.index),
            None => String::from("from before the log"),
        }
    }
}

/// Sector `at` of `bytes`.
fn sector_of(bytes: &[u8], at: usize) -> &[u8] {
    &bytes[at * SECTOR_BYTES..(at + 1) * SECTOR_BYTES]
}

/// One sign per sector: `=` right, `+` newer, `-` older, `0` zeros, `?` unknown.
fn sector_map(seen: &[SectorMatch], observed: &[u8]) -> String {
    let sign = |(at, sector): (usize, &SectorMatch)| match sector {
        SectorMatch {
            at_instant: true, ..
        } => '=',
        SectorMatch { newer: Some(_), .. } => '+',
        SectorMatch { older: true, .. } => '-',
        _ if is_zero(sector_of(observed, at)) => '0',
        _ => '?',
    };
    let signs: String = seen.iter().enumerate().map(sign).collect();
    format!("[{signs}] (= right, + newer, - older, 0 zeros, ? unknown)")
}
