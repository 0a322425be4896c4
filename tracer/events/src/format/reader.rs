//! Reads a trace, whatever has happened to it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{
    CHUNK_EVENTS, CHUNK_FOOTER, CHUNK_HEADER_BYTES, CHUNK_MAGIC, CHUNK_META, CODEC_STORED,
    CODEC_ZSTD, CONTAINER_VERSION, FILE_HEADER_BYTES, FILE_MAGIC, Footer, FormatError, LAYOUT_1,
    LAYOUT_2, MAX_CHUNK_EVENTS, MAX_PAYLOAD_BYTES, Meta, layout1, layout2,
};
use crate::event::Record;

/// Bytes that are looked through at once for the next chunk.
const SEARCH_BYTES: usize = 1 << 20;

/// Damages that are kept one by one; more are only counted.
const MAX_DAMAGES: usize = 100;

/// Where a trace is read from.
pub trait Source {
    /// Bytes that there are.
    ///
    /// # Errors
    /// When the length cannot be found out.
    fn length(&self) -> std::io::Result<u64>;

    /// Fills the buffer from a place that lies within the length.
    ///
    /// # Errors
    /// When not all of it can be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl Source for File {
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Source for &File {
    fn length(&self) -> std::io::Result<u64> {
        <File as Source>::length(self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        <File as Source>::read_at(self, buffer, offset)
    }
}

impl Source for &[u8] {
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// A part of the file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// One intact chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// What was known at the start.
    Meta(Box<Meta>),
    /// Events, in order.
    Events(Vec<Record>),
    /// What was known at the end.
    Footer(Box<Footer>),
}

/// A trace that is being read, front to back.
#[derive(Debug)]
pub struct TraceReader<S: Source> {
    source: S,
    length: u64,
    offset: u64,
    next_sequence: u64,
    missing_events: u64,
    damages: Vec<Damage>,
    more_damages: u64,
    footer_seen: bool,
}

/// The fields of a chunk header whose checksum is right.
struct Header {
    kind: u8,
    codec: u8,
    layout: u16,
    stored: usize,
    unpacked: usize,
    events: usize,
    checksum: u32,
    first_sequence: u64,
}

impl Header {
    fn parse(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| {
            bytes[at..at + 4]
                .iter()
                .rfold(0, |n, b| n << 8 | u32::from(*b))
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let header = Self {
            kind: bytes[4],
            codec: bytes[5],
            layout: u16::from_le_bytes([bytes[6], bytes[7]]),
            stored: u32_at(8) as usize,
            unpacked: u32_at(12) as usize,
            events: u32_at(16) as usize,
            checksum: u32_at(20),
            first_sequence: u64_at(24),
        };
        let sane = bytes[..4] == CHUNK_MAGIC
            && crc32c::crc32c(&bytes[..44]) == u32_at(44)
            && header.stored <= MAX_PAYLOAD_BYTES
            && header.unpacked <= MAX_PAYLOAD_BYTES
            && header.events <= MAX_CHUNK_EVENTS;
        sane.then_some(header)
    }

    /// Bytes of the whole chunk.
    fn span(&self) -> u64 {
        (CHUNK_HEADER_BYTES + self.stored) as u64
    }

    fn unpack(&self, stored: &[u8]) -> Result<Vec<u8>, String> {
        if crc32c::crc32c(stored) != self.checksum {
            return Err("the checksum of a chunk is wrong".to_owned());
        }
        let bytes = match self.codec {
            CODEC_STORED => stored.to_vec(),
            CODEC_ZSTD => zstd::bulk::decompress(stored, self.unpacked)
                .map_err(|error| format!("a chunk cannot be unpacked: {error}"))?,
            other => return Err(format!("a chunk is packed in unknown way {other}")),
        };
        if bytes.len() != self.unpacked {
            return Err("a chunk unpacks to another length than it says".to_owned());
        }
        Ok(bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Chunk, String> {
        let json = |error: serde_json::Error| format!("a chunk's JSON is wrong: {error}");
        match (self.kind, self.layout) {
            (CHUNK_META, LAYOUT_1) => serde_json::from_slice(bytes).map(Chunk::Meta).map_err(json),
            (CHUNK_FOOTER, LAYOUT_1) => serde_json::from_slice(bytes)
                .map(Chunk::Footer)
                .map_err(json),
            (CHUNK_EVENTS, LAYOUT_1) => {
                layout1::unpack(bytes, self.events, self.first_sequence).map(Chunk::Events)
            }
            (CHUNK_EVENTS, LAYOUT_2) => {
                layout2::unpack(bytes, self.events, self.first_sequence).map(Chunk::Events)
            }
            (CHUNK_META | CHUNK_FOOTER | CHUNK_EVENTS, newer) => Err(format!(
                "a chunk has layout {newer}, this program reads layouts {LAYOUT_1} and {LAYOUT_2}; a newer \
                 cowbird-trace reads it"
            )),
            (other, _) => Err(format!("a chunk is of unknown kind {other}")),
        }
    }
}

impl<S: Source> TraceReader<S> {
    /// Begins to read.
    ///
    /// # Errors
    /// When this is no trace, its header is damaged or of a future version, or reading fails.
    pub fn new(source: S) -> Result<Self, FormatError> {
        let length = source.length().map_err(read_error)?;
        if length < FILE_HEADER_BYTES as u64 {
            return Err(FormatError::NotATrace);
        }
        let mut header = [0; FILE_HEADER_BYTES];
        source.read_at(&mut header, 0).map_err(read_error)?;
        if header[..8] != FILE_MAGIC {
            return Err(FormatError::NotATrace);
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let expected = crc32c::crc32c(&header[..28]);
        if word(28) != expected {
            let found = word(28);
            return Err(FormatError::DamagedHeader { found, expected });
        }
        if word(8) != CONTAINER_VERSION {
            return Err(FormatError::FutureVersion(word(8)));
        }
        Ok(Self {
            source,
            length,
            offset: FILE_HEADER_BYTES as u64,
            next_sequence: 0,
            missing_events: 0,
            damages: Vec::new(),
            more_damages: 0,
            footer_seen: false,
        })
    }

    /// The next intact chunk; `None` at the end.
    ///
    /// # Errors
    /// When the file itself cannot be read. Damage is not an error; see [`Self::damages`].
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, FormatError> {
        while self.offset < self.length {
            let Some(header) = self.header_at(self.offset)? else {
                let next = self.search(self.offset + 1)?;
                self.damage(next - self.offset, "no chunk begins here".to_owned());
                continue;
            };
            if header.span() > self.length - self.offset {
                // Behind a cut there can be nothing, but a wrong length may hide whole chunks.
                let next = self.search(self.offset + 1)?;
                self.damage(
                    next - self.offset,
                    "the file ends inside a chunk".to_owned(),
                );
                continue;
            }
            match self.chunk_at(&header)? {
                Ok(chunk) => {
                    self.offset += header.span();
                    self.account(&chunk);
                    return Ok(Some(chunk));
                }
                Err(reason) => self.damage(header.span(), reason),
            }
        }
        Ok(None)
    }

    /// Parts that were passed over so far.
    #[must_use]
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// Every reason, known so far, why the file does not hold what was recorded. Does not look at
    /// what the footer itself says; see [`Footer::losses`].
    #[must_use]
    pub fn defects(&self) -> Vec<String> {
        let mut defects: Vec<String> = self
            .damages
            .iter()
            .map(|damage| {
                let Damage {
                    offset,
                    bytes,
                    reason,
                } = damage;
                format!("{bytes} bytes at offset {offset} passed over: {reason}")
            })
            .collect();
        if self.more_damages > 0 {
            defects.push(format!("{} more places passed over", self.more_damages));
        }
        if self.missing_events > 0 {
            defects.push(format!(
                "{} events missing between chunks",
                self.missing_events
            ));
        }
        if !self.footer_seen {
            defects.push("no footer: recording was cut short, losses are unknown".to_owned());
        }
        defects
    }

    fn account(&mut self, chunk: &Chunk) {
        match chunk {
            Chunk::Meta(_) => {}
            Chunk::Footer(footer) => {
                self.footer_seen = true;
                let records = footer.records.unwrap_or(footer.received);
                let missing = records.saturating_sub(self.next_sequence);
                self.missing_events = self.missing_events.saturating_add(missing);
            }
            Chunk::Events(records) => {
                if let (Some(first), Some(last)) = (records.first(), records.last()) {
                    let missing = first.sequence.saturating_sub(self.next_sequence);
                    self.missing_events = self.missing_events.saturating_add(missing);
                    self.next_sequence = last.sequence.saturating_add(1);
                }
            }
        }
    }

    fn damage(&mut self, bytes: u64, reason: String) {
        if self.damages.len() < MAX_DAMAGES {
            self.damages.push(Damage {
                offset: self.offset,
                bytes,
                reason,
            });
        } else {
            self.more_damages += 1;
        }
        self.offset += bytes;
    }

    fn header_at(&self, offset: u64) -> Result<Option<Header>, FormatError> {
        if self.length - offset < CHUNK_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        self.source
            .read_at(&mut bytes, offset)
            .map_err(read_error)?;
        Ok(Header::parse(&bytes))
    }

    /// The outer error is the file's, the inner one the chunk's.
    fn chunk_at(&self, header: &Header) -> Result<Result<Chunk, String>, FormatError> {
        let mut stored = vec![0; header.stored];
        let payload = self.offset + CHUNK_HEADER_BYTES as u64;
        self.source
            .read_at(&mut stored, payload)
            .map_err(read_error)?;
        Ok(header
            .unpack(&stored)
            .and_then(|bytes| header.decode(&bytes)))
    }

    /// The next place from `start` on where a chunk with a right header begins, or the end.
    fn search(&self, start: u64) -> Result<u64, FormatError> {
        let mut window = start;
        while window < self.length {
            let span = (self.length - window).min(SEARCH_BYTES as u64);
            let mut bytes = vec![0; usize::try_from(span).unwrap_or(SEARCH_BYTES)];
            self.source
                .read_at(&mut bytes, window)
                .map_err(read_error)?;
            for (at, candidate) in bytes.windows(CHUNK_MAGIC.len()).enumerate() {
                let place = window + at as u64;
                if candidate == CHUNK_MAGIC && self.header_at(place)?.is_some() {
                    return Ok(place);
                }
            }
            if window + span >= self.length {
                break;
            }
            window += span - (CHUNK_MAGIC.len() as u64 - 1);
        }
        Ok(self.length)
    }
}

fn read_error(reason: std::io::Error) -> FormatError {
    FormatError::Io {
        operation: "read",
        reason,
    }
}
