//! Comparing an image with the truth, block by block, and naming what is wrong.
//!
//! # What is compared
//! All blocks of the origin, a short last one included. A block of the COW file must be zeros;
//! every other block must be what the disk held at the snapshot instant. There is no sampling and
//! no second legal content.
//!
//! # Classes and their precedence
//! The witness has every version that a block ever had, so a wrong block is explained by the
//! versions of that block first, the strongest evidence first:
//! 1. *future*: equals a version after the snapshot instant. It wins over every other class, and
//!    over zeros in particular when a later discard or write-zeroes made zeros: a reader that loses
//!    the race with a discard is the same fault as one that loses it with a write.
//! 2. *zeroed*: all zeros, and no later version is. It wins over *stale*, although the content
//!    before the log usually was zeros, because a copy that was never made is by far the likelier
//!    cause; the sentence says so when an older version was zeros, too.
//! 3. *stale*: equals a version before that of the instant.
//! 4. *torn*: every sector equals some version of that sector, no version fits as a whole. A read
//!    between two concurrent writes whose order in the log is not their order on the disk is torn
//!    by this rule as well; the culprit is then the newer write.
//! 5. *misplaced*: the whole content is what another place of the origin held at the instant, be it
//!    a whole number of blocks away or shifted by sectors. Whole blocks before shifts, then the
//!    nearest.
//! 6. *foreign*: the rest. When the log has the content elsewhere or at another time, the culprit
//!    says where.
//!
//! # What this does not check
//! - That the marker is the right instant: a module that writes its header late passes here. The
//!   journal of the workload, with the order of what it submitted and saw complete, checks that.
//! - A block that is wrong for a moment and right when the image is read: hot readers report what
//!   they saw to [`Oracle::classify_observations`].
//! - Content that happens to be equal: a skipped copy of a block that is rewritten with the same
//!   bytes is invisible. Workloads write self-describing sectors for that reason.
//! - Overlapping writes that were in flight together before the instant: see [`crate::witness`].
//! - The witness itself: see [`crate::self_check()`].

use thiserror::Error;

use crate::bytes::is_zero;
use crate::class::Class;
use crate::epoch::Marker;
use crate::history::{Finding, History};
use crate::holes::Holes;
use crate::report::{BadBlock, Gathering, Report};
use crate::search::{Found, Wanted, locate};
use crate::truth::{Content, DiscardModel, Segment, Truth, TruthError};
use crate::units::{
    BlockIndex, BlockRun, BlockSet, Epoch, Origin, SECTOR_BYTES, SECTORS_PER_BLOCK, SectorRange,
};
use crate::witness::{Entry, WitnessLog};

/// Wrong blocks that are named in one go, by one pass over the log.
const BATCH_BLOCKS: usize = 65_536;

/// What an image is compared with, and the image.
#[derive(Clone, Copy, Debug)]
pub struct VerifyInput<'a> {
    /// The whole disk before the log began.
    pub base: &'a [u8],
    /// The witness.
    pub log: &'a WitnessLog<'a>,
    /// The snapshot instant in it.
    pub marker: Marker,
    /// Where the origin lies on the disk.
    pub origin: SectorRange,
    /// The copy of the snapshot: as long as the origin.
    pub image: &'a [u8],
    /// The COW file's own blocks: they must read as zeros.
    pub zeroed: &'a BlockSet,
    /// What discards did to the disk.
    pub discard: DiscardModel,
}

/// An input that does not fit together. It says nothing about the module.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The log does not fit the disk.
    #[error(transparent)]
    Truth(#[from] TruthError),
    /// The origin reaches past the disk.
    #[error(
        "the origin is {origin} of a disk of {disk_sectors} sectors; check the partition table"
    )]
    OriginOutOfDisk {
        /// Where the origin is said to be.
        origin: SectorRange,
        /// Size of the disk.
        disk_sectors: u64,
    },
    /// The module snapshots something of another size.
    #[error(
        "epoch {epoch} is of an origin of {module} sectors, the harness expects {expected}; check which device was set up"
    )]
    OriginSize {
        /// The epoch.
        epoch: Epoch,
        /// Size in the epoch header.
        module: u64,
        /// Size given.
        expected: u64,
    },
    /// The marker is not of this log.
    #[error("the snapshot instant is witness entry {entry}, but the log has {entries} entries")]
    MarkerOutOfLog {
        /// Entry of the marker.
        entry: crate::EntryIndex,
        /// Entries in the log.
        entries: usize,
    },
    /// The image is of another size: it was cut off, or is of another device.
    #[error("the image has {image} bytes, the origin {origin}; the copy is not complete")]
    ImageSize {
        /// Bytes of the image.
        image: u64,
        /// Bytes of the origin.
        origin: u64,
    },
    /// An observation is of a block that does not exist, or of another length.
    #[error("an observation of block {block} has {observed} bytes, the block has {expected}")]
    ObservationSize {
        /// The block.
        block: BlockIndex,
        /// Bytes observed.
        observed: usize,
        /// Bytes of that block; 0 past the end of the origin.
        expected: u64,
    },
}

/// Compares an image with the truth.
///
/// # Errors
/// An input that does not fit together; a wrong block is never an error.
pub fn verify(input: &VerifyInput<'_>) -> Result<Report, VerifyError> {
    Oracle::new(
        input.base,
        input.log,
        input.marker,
        input.origin,
        input.zeroed,
        input.discard,
    )?
    .verify(input.image)
}

/// The truth of one snapshot, ready to judge images and observations.
#[derive(Clone, Debug)]
pub struct Oracle<'a> {
    base: &'a [u8],
    log: &'a WitnessLog<'a>,
    marker: Marker,
    origin: Origin,
    zeroed: &'a BlockSet,
    discard: DiscardModel,
    truth: Truth<'a>,
}

impl<'a> Oracle<'a> {
    /// Folds the log to the snapshot instant `marker`. The arguments are those of [`VerifyInput`].
    ///
    /// # Errors
    /// An input that does not fit together.
    pub fn new(
        base: &'a [u8],
        log: &'a WitnessLog<'a>,
        marker: Marker,
        origin: SectorRange,
        zeroed: &'a BlockSet,
        discard: DiscardModel,
    ) -> Result<Self, VerifyError> {
        // Folding all of it once proves that every entry lies on the disk, those after the instant
        // included: classification may then index without checks.
        Truth::at(base, log, log.end(), discard)?;
        let truth = Truth::at(base, log, marker.entry, discard)?;
        if origin.end().0 > truth.disk_sectors() {
            return Err(VerifyError::OriginOutOfDisk {
                origin,
                disk_sectors: truth.disk_sectors(),
            });
        }
        if marker.header.origin_sectors != origin.sectors {
            return Err(VerifyError::OriginSize {
                epoch: marker.header.epoch,
                module: marker.header.origin_sectors,
                expected: origin.sectors,
            });
        }
        if marker.entry >= log.end() {
            let entries = log.entries().len();
            return Err(VerifyError::MarkerOutOfLog {
                entry: marker.entry,
                entries,
            });
        }
        let origin = Origin::new(origin);
        Ok(Self {
            base,
            log,
            marker,
            origin,
            zeroed,
            discard,
            truth,
        })
    }

    /// The disk at the snapshot instant.
    #[must_use]
    pub fn truth(&self) -> &Truth<'a> {
        &self.truth
    }

    /// The one legal content of `block` in an image; empty past the end of the origin.
    #[must_use]
    pub fn expected(&self, block: BlockIndex) -> Vec<u8> {
        let range = self.origin.block_range(block);
        if self.zeroed.contains(block) {
            return vec![0; range.bytes() as usize];
        }
        self.truth.read(range)
    }

    /// Compares all blocks of `image`.
    ///
    /// # Errors
    /// An image of another length than the origin.
    pub fn verify(&self, image: &[u8]) -> Result<Report, VerifyError> {
        self.verify_sparse(image, &Holes::default(), &mut || {})
    }

    /// The same where image and disk are mapped files, larger than memory and mostly holes: what is a hole in
    /// both is not looked at, and `after_piece` is called whenever [`PIECE_SECTORS`](crate::PIECE_SECTORS) were, so that the caller
    /// can let go of the pages that they lay in.
    ///
    /// # Errors
    /// An image of another length than the origin.
    pub fn verify_sparse(
        &self,
        image: &[u8],
        holes: &Holes,
        after_piece: &mut dyn FnMut(),
    ) -> Result<Report, VerifyError> {
        if image.len() as u64 != self.origin.range.bytes() {
            return Err(VerifyError::ImageSize {
                image: image.len() as u64,
                origin: self.origin.range.bytes(),
            });
        }
        let wrong = self.wrong_blocks(image, holes, after_piece);
        let blocks = |run: &BlockRun| (run.first.0..run.first.0 + run.blocks).map(BlockIndex);
        let mut blocks = wrong.runs().iter().flat_map(blocks).peekable();
        let mut report = Gathering::new(self.origin.blocks());
        // In batches: of 500 GB, all may be wrong.
        while blocks.peek().is_some() {
            let batch: Vec<Observation<'_>> = blocks
                .by_ref()
                .take(BATCH_BLOCKS)
                .map(|block| Observation {
                    block,
                    content: self.block_of(image, block),
                })
                .collect();
            self.classify(&batch, holes, after_piece)
                .into_iter()
                .for_each(|bad| report.add(bad));
            after_piece();
        }
        Ok(report.finish())
    }

    /// Judges what a reader saw of one block: `None` when it is right.
    ///
    /// # Errors
    /// A block outside the origin, or a content of another length than the block.
    pub fn classify_observation(
        &self,
        block: BlockIndex,
        content: &[u8],
    ) -> Result<Option<BadBlock>, VerifyError> {
        Ok(self
            .classify_observations(&[(block, content)])?
            .pop()
            .flatten())
    }

    /// Judges what readers saw, in one go: where content is looked for elsewhere, that costs one
    /// pass over disk and log for all of them instead of one for each. A block may be there any
    /// number of times; the answers are in the order given.
    ///
    /// # Errors
    /// A block outside the origin, or a content of another length than its block.
    pub fn classify_observations(
        &self,
        seen: &[(BlockIndex, &[u8])],
    ) -> Result<Vec<Option<BadBlock>>, VerifyError> {
        let mut wrong = Vec::new();
        for (at, &(block, content)) in seen.iter().enumerate() {
            let expected = self.origin.block_range(block).bytes();
            if content.is_empty() || content.len() as u64 != expected {
                let observed = content.len();
                return Err(VerifyError::ObservationSize {
                    block,
                    observed,
                    expected,
                });
            }
            if self.expected(block) != content {
                wrong.push((at, Observation { block, content }));
            }
        }
        wrong.sort_by_key(|(_, observation)| observation.block);
        let (places, observations): (Vec<usize>, Vec<Observation<'_>>) = wrong.into_iter().unzip();
        let mut answers = vec![None; seen.len()];
        for (at, bad) in
            places
                .into_iter()
                .zip(self.classify(&observations, Holes::NONE, &mut || {}))
        {
            answers[at] = Some(bad);
        }
        Ok(answers)
    }

    fn block_of<'i>(&self, image: &'i [u8], block: BlockIndex) -> &'i [u8] {
        let range = self.origin.block_range(block);
        let from = (range.start.0 - self.origin.range.start.0) as usize * SECTOR_BYTES;
        &image[from..from + range.bytes() as usize]
    }

    /// The blocks of `image` that are wrong. Memory is proportional to the number of their runs.
    fn wrong_blocks(&self, image: &[u8], holes: &Holes, after_piece: &mut dyn FnMut()) -> BlockSet {
        let mut wrong = BlockSet::new();
        for segment in self.truth.segments(self.origin.range) {
            for piece in holes.pieces_of(&segment) {
                self.compare_segment(image, &segment.part(piece), &mut wrong);
                after_piece();
            }
        }
        for run in self.zeroed.runs() {
            let end = run
                .first
                .0
                .saturating_add(run.blocks)
                .min(self.origin.blocks());
            for block in (run.first.0..end).map(BlockIndex) {
                if !is_zero(self.block_of(image, block)) {
                    wrong.insert(block, 1);
                }
            }
        }
        wrong
    }

    /// Adds the blocks that differ within one segment, the COW file's own left out.
    fn compare_segment(&self, image: &[u8], segment: &Segment<'_>, wrong: &mut BlockSet) {
        let first = segment.range.start.0 - self.origin.range.start.0;
        let bytes_of = |from: u64, to: u64| {
            &image[from as usize * SECTOR_BYTES..][..(to - from) as usize * SECTOR_BYTES]
        };
        let same = |from: u64, to: u64| match segment.content {
            Content::Zeros => is_zero(bytes_of(from, to)),
            Content::Bytes(expected) => {
                let at = (from - first) as usize * SECTOR_BYTES;
                let seen = bytes_of(from, to);
                *seen == expected[at..at + seen.len()]
            }
        };
        let end = first + segment.range.sectors;
        // Nearly all segments of nearly all images are equal: one `memcmp`.
        if same(first, end) {
            return;
        }
        for block in first / SECTORS_PER_BLOCK..end.div_ceil(SECTORS_PER_BLOCK) {
            let from = first.max(block * SECTORS_PER_BLOCK);
            let to = end.min((block + 1) * SECTORS_PER_BLOCK);
            let block = BlockIndex(block);
            if !self.zeroed.contains(block) && !same(from, to) {
                wrong.insert(block, 1);
            }
        }
    }

    /// Names what is wrong with each of `observations`, which are in order of blocks.
    fn classify(
        &self,
        observations: &[Observation<'_>],
        holes: &Holes,
        after_piece: &mut dyn FnMut(),
    ) -> Vec<BadBlock> {
        let mut entries: Vec<Vec<Entry<'a>>> = vec![Vec::new(); observations.len()];
        for entry in self
            .log
            .entries()
            .iter()
            .filter(|entry| self.discard.changes_content(entry))
        {
            let touched = self.origin.blocks_of(&entry.range());
            let from = observations.partition_point(|seen| seen.block.0 < touched.start);
            let to = observations.partition_point(|seen| seen.block.0 < touched.end);
            for list in &mut entries[from..to.max(from)] {
                list.push(*entry);
            }
        }
        let findings: Vec<Finding> = observations
            .iter()
            .zip(&entries)
            .map(|(seen, entries)| self.history(seen.block, entries).classify(seen.content))
            .collect();
        self.name(observations, findings, holes, after_piece)
    }

    fn history<'h>(&self, block: BlockIndex, entries: &'h [Entry<'a>]) -> History<'h, 'a> {
        let range = self.origin.block_range(block);
        let from = range.start.0 as usize * SECTOR_BYTES;
        History {
            range,
            base: &self.base[from..from + range.bytes() as usize],
            entries,
            marker: self.marker.entry,
            discard: self.discard,
            own: self.zeroed.contains(block),
        }
    }

    /// Turns findings into bad blocks; what is unexplained is looked for elsewhere.
    fn name(
        &self,
        observations: &[Observation<'_>],
        findings: Vec<Finding>,
        holes: &Holes,
        after_piece: &mut dyn FnMut(),
    ) -> Vec<BadBlock> {
        let wanted: Vec<Wanted<'_>> = observations
            .iter()
            .zip(&findings)
            .filter(|(_, finding)| matches!(finding, Finding::Unexplained { .. }))
            .map(|(seen, _)| Wanted {
                block: seen.block,
                observed: seen.content,
            })
            .collect();
        let mut found = if wanted.is_empty() {
            Vec::new().into_iter()
        } else {
            locate(
                &self.truth,
                self.log,
                &self.origin,
                &wanted,
                holes,
                after_piece,
            )
            .into_iter()
        };
        observations
            .iter()
            .zip(findings)
            .map(|(seen, finding)| match finding {
                Finding::Explained {
                    class,
                    culprit,
                    detail,
                } => BadBlock {
                    block: seen.block,
                    class,
                    culprit,
                    distance_sectors: None,
                    detail,
                },
                Finding::Unexplained { sectors } => {
                    self.elsewhere(seen.block, found.next().flatten(), &sectors)
                }
            })
            .collect()
    }

    /// The bad block for content that no version of `block` explains.
    fn elsewhere(&self, block: BlockIndex, found: Option<Found>, sectors: &str) -> BadBlock {
        let home = self.origin.block_range(block).start.0;
        match found {
            Some(Found::AtInstant(place)) => {
                let distance = place.0.cast_signed() - home.cast_signed();
                let culprit = self
                    .truth
                    .writer(place)
                    .and_then(|entry| self.log.entries().get(entry.0 as usize))
                    .map(Into::into);
                let detail = if distance % SECTORS_PER_BLOCK.cast_signed() == 0 {
                    let blocks = distance / SECTORS_PER_BLOCK.cast_signed();
                    let from = block.0.cast_signed() + blocks;
                    format!("content of block {from} ({blocks:+} blocks)")
                } else {
                    format!("content from {distance:+} sectors away")
                };
                let distance_sectors = Some(distance);
                BadBlock {
                    block,
                    class: Class::Misplaced,
                    culprit,
                    distance_sectors,
                    detail,
                }
            }
            Some(Found::InLog(culprit, place)) => BadBlock {
                block,
                class: Class::Foreign,
                culprit: Some(culprit),
                distance_sectors: None,
                detail: format!(
                    "content that entry {} wrote at sector {place}",
                    culprit.entry
                ),
            },
            None => BadBlock {
                block,
                class: Class::Foreign,
                culprit: None,
                distance_sectors: None,
                detail: format!("content seen nowhere, sectors {sectors}"),
            },
        }
    }
}

/// One wrong content of one block.
struct Observation<'i> {
    block: BlockIndex,
    content: &'i [u8],
}
