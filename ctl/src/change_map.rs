//! The change map of one epoch, and its file format.
//!
//! ```text
//!  0  magic "COWBMAP\x01"      32  to_epoch      (u64, little endian throughout)
//!  8  uuid of the series       40  block_count
//! 24  from_epoch               48  words: bit n % 64 of word n / 64 is block n
//!                              end  crc32c of everything before (u32)
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::durable::{self, Links};
use crate::info::hex;

const MAGIC: &[u8; 8] = b"COWBMAP\x01";
const HEADER_BYTES: usize = 48;
const CRC_BYTES: usize = 4;

/// Words that are kept, read and written together: 64 KiB. Of a large volume most such pieces are empty.
pub const PIECE_WORDS: usize = 8192;
const PIECE_BYTES: usize = PIECE_WORDS * 8;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = cowbird_abi::COWBIRD_BLOCK_BYTES as u64;

/// Which blocks were written between two epochs of a series: a superset of
/// those that differ.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangeMap {
    /// The series.
    pub uuid: [u8; 16],
    /// The epoch that an image must have to be brought up to date with this map.
    pub from_epoch: u64,
    /// The epoch that it has afterwards.
    pub to_epoch: u64,
    /// Blocks of the origin.
    pub block_count: u64,
    /// One bit per block.
    pub words: Words,
}

/// The words of a map, of which only pieces with a bit in them take memory: the map of 64 TiB has 2 GiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    pieces: BTreeMap<usize, Vec<u64>>,
}

impl Words {
    /// Keeps a piece; `number` counts pieces of [`PIECE_WORDS`], of which only the last may be shorter.
    pub fn keep(&mut self, number: usize, words: &[u64]) {
        if words.iter().any(|&word| word != 0) {
            self.pieces.insert(number, words.to_vec());
        }
    }

    /// Sets a bit; `all` is how many words the map has.
    fn set(&mut self, block: u64, all: usize) {
        let word = (block / 64) as usize;
        let number = word / PIECE_WORDS;
        let piece = self
            .pieces
            .entry(number)
            .or_insert_with(|| vec![0; PIECE_WORDS.min(all - number * PIECE_WORDS)]);
        piece[word % PIECE_WORDS] |= 1 << (block % 64);
    }

    /// Pieces with a bit in them: the number of the first word, and the words.
    fn pieces(&self) -> impl Iterator<Item = (usize, &[u64])> {
        self.pieces
            .iter()
            .map(|(number, words)| (number * PIECE_WORDS, words.as_slice()))
    }
}

/// The map for machines.
#[derive(Serialize)]
struct Listing {
    uuid: String,
    from_epoch: u64,
    to_epoch: u64,
    block_count: u64,
    changed_blocks: u64,
    ranges: Vec<(u64, u64)>,
}

impl ChangeMap {
    /// Number of words for so many blocks.
    pub fn words_for(block_count: u64) -> Result<usize> {
        usize::try_from(block_count.div_ceil(64))
            .context("the volume is too large for this machine")
    }

    /// These blocks count as changed, too. What is behind the last block of the volume is left out.
    pub fn add(&mut self, blocks: Range<u64>) {
        let Ok(all) = Self::words_for(self.block_count) else {
            return;
        };
        for block in blocks.start..blocks.end.min(self.block_count) {
            self.words.set(block, all);
        }
    }

    /// Changed blocks.
    pub fn changed(&self) -> u64 {
        let in_word = |number: usize, word: u64| {
            // What a file says of blocks behind the last one is nothing.
            let left = self.block_count.saturating_sub(number as u64 * 64);
            let known = match left {
                64.. => u64::MAX,
                left => (1 << left) - 1,
            };
            u64::from((word & known).count_ones())
        };
        self.words
            .pieces()
            .flat_map(|(first, words)| (first..).zip(words))
            .map(|(number, word)| in_word(number, *word))
            .sum()
    }

    /// Runs of changed blocks, ascending. One that goes on over the border of a piece is one run.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut runs = self
            .words
            .pieces()
            .flat_map(|(first, words)| runs_of(first as u64 * 64, words))
            .map(|run| run.start..run.end.min(self.block_count))
            .filter(|run| !run.is_empty())
            .peekable();
        std::iter::from_fn(move || {
            let mut run = runs.next()?;
            while let Some(next) = runs.next_if(|next| next.start == run.end) {
                run.end = next.end;
            }
            Some(run)
        })
    }

    /// One line per run.
    pub fn render(&self) -> String {
        let mut text = format!(
            "series {} epoch {} to {}: {} of {} blocks changed\n",
            hex(&self.uuid),
            self.from_epoch,
            self.to_epoch,
            self.changed(),
            self.block_count
        );
        for range in self.ranges() {
            text += &format!("{} + {}\n", range.start, range.end - range.start);
        }
        text
    }

    /// As JSON; ranges are pairs of first block and number of blocks.
    pub fn json(&self) -> Result<String> {
        let listing = Listing {
            uuid: hex(&self.uuid),
            from_epoch: self.from_epoch,
            to_epoch: self.to_epoch,
            block_count: self.block_count,
            changed_blocks: self.changed(),
            ranges: self
                .ranges()
                .map(|range| (range.start, range.end - range.start))
                .collect(),
        };
        serde_json::to_string(&listing).context("cannot write the change map as JSON")
    }

    /// Writes the file's bytes. Where no block has changed, the file has a hole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &mut (impl Write + Seek)) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&self.uuid);
        for number in [self.from_epoch, self.to_epoch, self.block_count] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        file.write_all(&header)?;
        let mut crc = crc32c::crc32c(&header);
        let all = usize::try_from(self.block_count.div_ceil(64)).map_err(io::Error::other)?;
        let zeros = vec![0; PIECE_BYTES];
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        for (number, first) in (0..all).step_by(PIECE_WORDS).enumerate() {
            let length = PIECE_WORDS.min(all - first) * 8;
            let Some(words) = self.words.pieces.get(&number) else {
                crc = crc32c::crc32c_append(crc, &zeros[..length]);
                file.seek(SeekFrom::Current(length as i64))?;
                continue;
            };
            bytes.clear();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            crc = crc32c::crc32c_append(crc, &bytes);
            file.write_all(&bytes)?;
        }
        file.write_all(&crc.to_le_bytes())
    }

    /// From a file of `length` bytes.
    ///
    /// # Errors
    /// When it cannot be read, or is no whole change map.
    pub fn parse(mut file: impl Read, length: u64) -> Result<Self> {
        let unread = "it cannot be read";
        if length < (HEADER_BYTES + CRC_BYTES) as u64 {
            bail!("it is too short for a change map");
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).context(unread)?;
        if !header.starts_with(MAGIC) {
            bail!(
                "it is no change map of this version; make one with `cowbirdctl changes --output`"
            );
        }
        let number = |at: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(raw)
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&header[8..24]);
        let mut map = Self {
            uuid,
            from_epoch: number(24),
            to_epoch: number(32),
            block_count: number(40),
            words: Words::default(),
        };
        let mut left = length - (HEADER_BYTES + CRC_BYTES) as u64;
        let fits = left.is_multiple_of(8) && left / 8 == map.block_count.div_ceil(64);
        let mut crc = crc32c::crc32c(&header);
        let mut bytes = vec![0; PIECE_BYTES];
        let mut piece = Vec::with_capacity(PIECE_WORDS);
        for number in 0.. {
            if left == 0 {
                break;
            }
            let bytes = &mut bytes[..left.min(PIECE_BYTES as u64) as usize];
            file.read_exact(bytes).context(unread)?;
            left -= bytes.len() as u64;
            crc = crc32c::crc32c_append(crc, bytes);
            piece.clear();
            let (words, _) = bytes.as_chunks::<8>();
            piece.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
            map.words.keep(number, &piece);
        }
        let mut found = [0; CRC_BYTES];
        file.read_exact(&mut found).context(unread)?;
        if u32::from_le_bytes(found) != crc {
            bail!("it is damaged or cut off (wrong checksum); make it again");
        }
        if !fits {
            bail!(
                "its length does not fit the {} blocks that it speaks of",
                map.block_count
            );
        }
        Ok(map)
    }

    /// Reads the file of a map of at most so many blocks.
    pub fn read(path: &Path, block_count: u64) -> Result<Self> {
        let limit = (HEADER_BYTES + Self::words_for(block_count)? * 8 + CRC_BYTES) as u64;
        let (file, length) = durable::open(path, limit, Links::Follow)
            .with_context(|| format!("cannot read the change map {}", path.display()))?;
        Self::parse(file, length)
            .with_context(|| format!("cannot use the change map {}", path.display()))
    }
}

/// Runs of set bits in words of which the first has this block.
fn runs_of(first: u64, words: &[u64]) -> impl Iterator<Item = Range<u64>> + '_ {
    let end = words.len() as u64 * 64;
    let is_set = move |bit: u64| bit < end && words[(bit / 64) as usize] >> (bit % 64) & 1 != 0;
    let mut next = 0;
    std::iter::from_fn(move || {
        while next < end && !is_set(next) {
            // Untouched words are skipped whole.
            let skip = next % 64 == 0 && words[(next / 64) as usize] == 0;
            next += if skip { 64 } else { 1 };
        }
        if next >= end {
            return None;
        }
        let start = next;
        while is_set(next) {
            next += 1;
        }
        Some(first + start..first + next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(block_count: u64, blocks: &[u64]) -> ChangeMap {
        let mut all = vec![0; ChangeMap::words_for(block_count).unwrap()];
        for block in blocks {
            all[(block / 64) as usize] |= 1 << (block % 64);
        }
        let mut words = Words::default();
        for (number, piece) in all.chunks(PIECE_WORDS).enumerate() {
            words.keep(number, piece);
        }
        ChangeMap {
            uuid: [3; 16],
            from_epoch: 4,
            to_epoch: 5,
            block_count,
            words,
        }
    }

    fn bytes_of(map: &ChangeMap) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        map.write(&mut file).unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn parsed(bytes: &[u8]) -> Result<ChangeMap> {
        ChangeMap::parse(bytes, bytes.len() as u64)
    }

    /// Goal: blocks that are added count as changed, at the ends of the volume and of a piece as well.
    #[test]
    fn blocks_can_be_added() {
        let mut small = map(300, &[5]);
        small.add(4..7);
        small.add(299..400);
        let ranges: Vec<_> = small.ranges().collect();
        assert_eq!(ranges, [4..7, 299..300]);
        assert_eq!(parsed(&bytes_of(&small)).unwrap(), small);

        let border = PIECE_WORDS as u64 * 64;
        let mut large = map(border + 70, &[]);
        large.add(border - 1..border + 2);
        assert_eq!(large.ranges().next(), Some(border - 1..border + 2));
        assert_eq!(large.changed(), 3);
        assert_eq!(parsed(&bytes_of(&large)).unwrap(), large);
    }

    #[test]
    fn ranges_are_the_runs_of_set_bits() {
        let map = map(300, &[0, 1, 63, 64, 65, 200, 299]);
        let ranges: Vec<_> = map.ranges().collect();
        assert_eq!(ranges, [0..2, 63..66, 200..201, 299..300]);
        assert_eq!(map.changed(), 7);
        assert_eq!(super::tests::map(64, &[]).ranges().count(), 0);
    }

    /// Goal: a file that has bits behind the last block says no more blocks than there are. Found by `cowbird-fuzz`.
    #[test]
    fn blocks_behind_the_last_one_do_not_count() {
        let mut map = map(70, &[0, 69]);
        map.words.keep(0, &[1, 0xFF << 5]);
        let map = parsed(&bytes_of(&map)).unwrap();
        assert_eq!(map.ranges().collect::<Vec<_>>(), [0..1, 69..70]);
        assert_eq!(map.changed(), 2);
        assert!(map.render().contains("2 of 70 blocks changed"));
    }

    /// Goal: what lies on both sides of a border between two pieces is one run.
    #[test]
    fn ranges_go_on_over_the_border_of_a_piece() {
        let border = PIECE_WORDS as u64 * 64;
        let map = map(
            3 * border,
            &[border - 1, border, border + 1, 3 * border - 1],
        );
        let ranges: Vec<_> = map.ranges().collect();
        assert_eq!(ranges, [border - 1..border + 2, 3 * border - 1..3 * border]);
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let border = PIECE_WORDS as u64 * 64;
        for map in [
            map(1000, &[5, 999]),
            map(1000, &[]),
            map(3 * border + 77, &[7, 2 * border, 3 * border + 76]),
        ] {
            let bytes = bytes_of(&map);
            assert_eq!(parsed(&bytes).unwrap(), map);
            assert_eq!(
                bytes.len(),
                HEADER_BYTES + ChangeMap::words_for(map.block_count).unwrap() * 8 + CRC_BYTES
            );
        }
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let good = bytes_of(&map(130, &[1, 129]));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(parsed(&bad).is_err(), "byte {at}");
            assert!(parsed(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
