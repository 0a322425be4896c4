//! Writes a trace, chunk by chunk.

use std::io::Write;

use serde::Serialize;
use zstd::bulk::Compressor;

use super::{
    CHUNK_EVENTS, CHUNK_FOOTER, CHUNK_HEADER_BYTES, CHUNK_MAGIC, CHUNK_META, CODEC_STORED,
    CODEC_ZSTD, CONTAINER_VERSION, FILE_HEADER_BYTES, FILE_MAGIC, Footer, FormatError, LAYOUT_1,
    LAYOUT_2, MAX_CHUNK_EVENTS, MAX_PAYLOAD_BYTES, Meta, layout2,
};
use crate::event::Record;

/// Cheap enough to keep up with the ring buffer; little is left that a higher level finds.
const ZSTD_LEVEL: i32 = 1;

/// A trace that is being written. Events are gathered; [`TraceWriter::flush`] makes a chunk of
/// what there is, so that a crash costs no more than what came since.
pub struct TraceWriter<W: Write> {
    out: W,
    compressor: Compressor<'static>,
    written: u64,
    chunks: u64,
    pending: Vec<Record>,
}

impl<W: Write> TraceWriter<W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// When writing fails.
    pub fn new(out: W, meta: &Meta) -> Result<Self, FormatError> {
        let mut header = [0; FILE_HEADER_BYTES];
        header[..8].copy_from_slice(&FILE_MAGIC);
        header[8..12].copy_from_slice(&CONTAINER_VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(FILE_HEADER_BYTES as u32).to_le_bytes());
        let checksum = crc32c::crc32c(&header[..28]);
        header[28..].copy_from_slice(&checksum.to_le_bytes());
        let mut writer = Self {
            out,
            compressor: Compressor::new(ZSTD_LEVEL).map_err(cannot_compress)?,
            written: 0,
            chunks: 0,
            pending: Vec::with_capacity(MAX_CHUNK_EVENTS),
        };
        writer.put(&header)?;
        writer.json(CHUNK_META, meta)?;
        Ok(writer)
    }

    /// Bytes written so far, without events that are still gathered.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Events that no chunk holds yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Adds the next event; its sequence must follow that of the one before.
    ///
    /// # Errors
    /// When writing fails.
    pub fn push(&mut self, record: Record) -> Result<(), FormatError> {
        self.pending.push(record);
        if self.pending.len() >= MAX_CHUNK_EVENTS {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the gathered events as one chunk.
    ///
    /// # Errors
    /// When writing fails.
    pub fn flush(&mut self) -> Result<(), FormatError> {
        let Some(first) = self.pending.first().map(|record| record.sequence) else {
            return Ok(());
        };
        let payload = layout2::pack(&self.pending);
        self.chunk(CHUNK_EVENTS, LAYOUT_2, &payload, self.pending.len(), first)?;
        self.pending.clear();
        Ok(())
    }

    /// Ends the trace and gives back what it was written to, and how many bytes that were.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self, footer: &Footer) -> Result<(W, u64), FormatError> {
        self.flush()?;
        self.json(CHUNK_FOOTER, footer)?;
        Ok((self.out, self.written))
    }

    fn json(&mut self, kind: u8, value: &impl Serialize) -> Result<(), FormatError> {
        let payload = serde_json::to_vec(value).map_err(|error| FormatError::Io {
            operation: "encode a part of",
            reason: error.into(),
        })?;
        self.chunk(kind, LAYOUT_1, &payload, 0, 0)
    }

    fn chunk(
        &mut self,
        kind: u8,
        layout: u16,
        payload: &[u8],
        events: usize,
        first_sequence: u64,
    ) -> Result<(), FormatError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(FormatError::TooLarge(payload.len()));
        }
        let packed = self.compressor.compress(payload).map_err(cannot_compress)?;
        let (codec, stored) = match packed.len() < payload.len() {
            true => (CODEC_ZSTD, packed.as_slice()),
            false => (CODEC_STORED, payload),
        };
        let mut header = [0; CHUNK_HEADER_BYTES];
        header[..4].copy_from_slice(&CHUNK_MAGIC);
        header[4] = kind;
        header[5] = codec;
        header[6..8].copy_from_slice(&layout.to_le_bytes());
        header[8..12].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[16..20].copy_from_slice(&(events as u32).to_le_bytes());
        header[20..24].copy_from_slice(&crc32c::crc32c(stored).to_le_bytes());
        header[24..32].copy_from_slice(&first_sequence.to_le_bytes());
        header[32..40].copy_from_slice(&self.chunks.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..44]);
        header[44..].copy_from_slice(&checksum.to_le_bytes());
        // One write: a chunk is cut by a crash of the machine only, not by one of this program.
        let whole = [header.as_slice(), stored].concat();
        self.put(&whole)?;
        self.chunks += 1;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.out
            .write_all(bytes)
            .map_err(|reason| FormatError::Io {
                operation: "write",
                reason,
            })?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn cannot_compress(reason: std::io::Error) -> FormatError {
    FormatError::Io {
        operation: "compress a part of",
        reason,
    }
}
