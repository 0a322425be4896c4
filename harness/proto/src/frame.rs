//! Frames: where one message starts and ends, and whether it arrived whole.
//!
//! ```text
//!  0       3         11        15        19                   19 + length
//!  +-------+---------+---------+---------+--------------------+
//!  | "CWB" | version | length  | crc32c  | payload (postcard) |
//!  +-------+---------+---------+---------+--------------------+
//! ```
//! `version` (u64) is [`PROTOCOL_VERSION`], `length` (u32) counts the payload only and is at most
//! [`MAX_PAYLOAD_BYTES`], `crc32c` (u32) covers version, length and payload. All are little endian.
//!
//! A virtio-serial port neither loses nor reorders bytes, so a bad frame means a bug or a guest
//! that scribbles over its memory. [`Decoder`] reports it once, with the offset in the stream, and
//! then continues at the next magic: the host wants to read what a dying guest still says.

use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::PROTOCOL_VERSION;

/// Start of every frame.
pub const MAGIC: [u8; 3] = *b"CWB";

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 19;

/// Where the fields of the header are.
const VERSION: Range<usize> = 3..11;
/// Where the length of the payload is, bytes, 32 bits little endian.
pub const LENGTH: Range<usize> = 11..15;
/// Where the checksum is, CRC-32C of [`COVERED`] and of the payload.
pub const CHECKSUM: Range<usize> = 15..19;
/// What the checksum covers of the header.
pub const COVERED: Range<usize> = 3..15;

/// Largest payload. Bulk replies (kernel log, extents) are paged to stay below it.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Why a frame could not be written or read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The message is larger than a frame may be.
    #[error(
        "message of {length} bytes exceeds the frame limit of {MAX_PAYLOAD_BYTES}; page the reply"
    )]
    TooLarge {
        /// Encoded size of the message, bytes.
        length: usize,
    },
    /// Bytes that belong to no frame.
    #[error(
        "protocol stream at byte {offset}: {skipped} bytes belong to no frame; the stream is corrupt"
    )]
    Garbage {
        /// Offset in the stream where the garbage starts.
        offset: u64,
        /// Garbage bytes skipped so far.
        skipped: usize,
    },
    /// The peer speaks another version.
    #[error(
        "protocol stream at byte {offset}: frame of version {theirs:#x}, this build speaks \
         {PROTOCOL_VERSION:#x}; rebuild cowbird-guest from the same checkout"
    )]
    Version {
        /// Offset of the frame in the stream.
        offset: u64,
        /// Version in the frame.
        theirs: u64,
    },
    /// The header announces more than a frame may hold.
    #[error(
        "protocol stream at byte {offset}: frame announces {length} bytes, the limit is \
         {MAX_PAYLOAD_BYTES}; the stream is corrupt"
    )]
    Length {
        /// Offset of the frame in the stream.
        offset: u64,
        /// Announced payload length, bytes.
        length: usize,
    },
    /// The checksum does not fit the payload.
    #[error("protocol stream at byte {offset}: checksum mismatch; the stream is corrupt")]
    Checksum {
        /// Offset of the frame in the stream.
        offset: u64,
    },
    /// The payload is whole but is not a message of the expected type.
    #[error("protocol stream at byte {offset}: payload does not decode: {reason}")]
    Payload {
        /// Offset of the frame in the stream.
        offset: u64,
        /// What postcard says.
        reason: String,
    },
    /// The message cannot be encoded.
    #[error("message does not encode: {reason}")]
    Encode {
        /// What postcard says.
        reason: String,
    },
}

/// Encodes one message as one frame.
///
/// # Errors
/// [`FrameError::TooLarge`] when the message exceeds [`MAX_PAYLOAD_BYTES`].
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0_u8; HEADER_BYTES];
    frame = postcard::to_extend(message, frame).map_err(|error| FrameError::Encode {
        reason: error.to_string(),
    })?;
    let length = frame.len() - HEADER_BYTES;
    let wire_length = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_PAYLOAD_BYTES);
    let Some(wire_length) = wire_length else {
        return Err(FrameError::TooLarge { length });
    };
    frame[..3].copy_from_slice(&MAGIC);
    frame[VERSION].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    frame[LENGTH].copy_from_slice(&wire_length.to_le_bytes());
    let checksum = checksum(&frame[COVERED], &frame[HEADER_BYTES..]);
    frame[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    Ok(frame)
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

/// Takes bytes as they arrive and gives messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were already given out.
    consumed: usize,
    /// Stream offset of `buffer[0]`.
    base_offset: u64,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.base_offset += self.consumed as u64;
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` when more bytes are needed.
    ///
    /// # Errors
    /// One error per corrupt stretch; calling again continues at the next magic behind it.
    pub fn next_message<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let offset = self.stream_offset();
        let pending = &self.buffer[self.consumed..];
        let skipped = garbage_before_magic(pending);
        if skipped > 0 {
            self.consumed += skipped;
            return Err(FrameError::Garbage { offset, skipped });
        }
        if pending.len() < HEADER_BYTES {
            return Ok(None);
        }
        let length = number_at(pending, LENGTH) as usize;
        let theirs = number_at(pending, VERSION);
        if theirs != PROTOCOL_VERSION {
            self.consumed += MAGIC.len();
            return Err(FrameError::Version { offset, theirs });
        }
        if length > MAX_PAYLOAD_BYTES {
            self.consumed += MAGIC.len();
            return Err(FrameError::Length { offset, length });
        }
        if pending.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let payload = &pending[HEADER_BYTES..HEADER_BYTES + length];
        if u64::from(checksum(&pending[COVERED], payload)) != number_at(pending, CHECKSUM) {
            self.consumed += MAGIC.len();
            return Err(FrameError::Checksum { offset });
        }
        let message = postcard::from_bytes(payload).map_err(|error| FrameError::Payload {
            offset,
            reason: error.to_string(),
        });
        self.consumed += HEADER_BYTES + length;
        message.map(Some)
    }

    /// Bytes of the stream that messages and errors given out so far account for.
    #[must_use]
    pub fn stream_offset(&self) -> u64 {
        self.base_offset + self.consumed as u64
    }
}

/// Bytes before the first (possibly still incomplete) magic.
fn garbage_before_magic(pending: &[u8]) -> usize {
    (0..pending.len())
        .find(|&start| {
            let candidate = &pending[start..pending.len().min(start + MAGIC.len())];
            MAGIC.starts_with(candidate)
        })
        .unwrap_or(pending.len())
}

/// A little-endian number of at most 8 bytes.
fn number_at(bytes: &[u8], at: Range<usize>) -> u64 {
    let number = bytes[at].iter().rev();
    number.fold(0, |number, byte| (number << 8) | u64::from(*byte))
}
