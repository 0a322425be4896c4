//! The workload file, version 1.
//!
//! ```text
//! file    = header body                                 integers little-endian
//!
//! header      0  u8[8]  magic "CBWORKL\n"
//!             8  u32    version, 1
//!            12  u32    crc32c of the body
//!            16  u64    bytes of the body
//!            24  u32    zero
//!            28  u32    crc32c of bytes 0..28
//!            32  body
//!
//! body    = source doubts* operations*
//! source  = text                                        what it was made from
//! doubts  = varint, the count; text*                    why operations may be missing
//! text    = varint, the bytes; UTF-8
//! operations = varint, the count; operation*
//!
//! operation:  u8      bits 0..2 action, bits 3..5 flags, bit 6 contents are known, bit 7 zero
//!             varint  nanoseconds since the operation before
//!             varint  zigzag: first sector less the end of the operation before   } not of a
//!             varint  sectors                                                     } flush
//!             varint* if contents are known, one for each block that is touched:
//!                     0 unknown, 1 zeros, otherwise 2 + zigzag: number less the one after the last
//! ```
//!
//! A varint has 7 bits a byte, the lowest first, and bit 7 set in all bytes but the last. Contents are
//! numbered in the order of their first appearance, so that new ones cost one byte: a write of 4 KiB takes
//! 7 to 10 bytes. The file is read as a whole or not at all: half a workload would be another one.
//! A later version keeps the header, so that an old reader can say what it has met.

use thiserror::Error;

use crate::operation::{Action, Content, Extent, Flags, MAX_SECTOR, Operation, Sector, Workload};

/// Version of files that are written.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const MAGIC: [u8; 8] = *b"CBWORKL\n";
const HEADER_BYTES: usize = 32;

const FLAGS_SHIFT: u8 = 3;
const ACTION_MASK: u8 = 7;
const HAS_CONTENTS: u8 = 1 << 6;
const RESERVED: u8 = 1 << 7;

/// Longest varint: 64 bits, 7 a byte.
const MAX_VARINT_BYTES: usize = 10;

const UNKNOWN: u64 = 0;
const ZEROES: u64 = 1;
const FIRST_NUMBER: u64 = 2;

/// What can be wrong with a workload file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The file is something else.
    #[error(
        "this is no workload: it does not begin with CBWORKL; make one with `cowbird-trace export --format workload`"
    )]
    NotAWorkload,
    /// The file ends too early.
    #[error(
        "the workload is cut off: {found} bytes of {expected}; copy it again, or export it again from its trace"
    )]
    Truncated {
        /// Bytes that it should have, as far as known.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The file goes on behind its end.
    #[error(
        "{0} bytes follow the end of the workload; copy it again, or export it again from its trace"
    )]
    Trailing(u64),
    /// A checksum is wrong.
    #[error(
        "the workload's {part} is damaged (checksum {found:#010x}, not {expected:#010x}); copy it again, or export it again from its trace"
    )]
    Damaged {
        /// Header or body.
        part: &'static str,
        /// What the file says.
        found: u32,
        /// What its bytes give.
        expected: u32,
    },
    /// A newer program wrote it.
    #[error(
        "the workload has version {0}, this program reads version {FORMAT_VERSION}; use the newer Cowbird that wrote it, or export it again with this one"
    )]
    FutureVersion(u32),
    /// The checksums are right and yet it makes no sense: whoever wrote it has a defect.
    #[error(
        "the workload was written wrongly: {0}; export it again from its trace, and report this"
    )]
    Malformed(String),
}

impl Workload {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_text(&mut body, &self.source);
        put(&mut body, self.doubts.len() as u64);
        for doubt in &self.doubts {
            put_text(&mut body, doubt);
        }
        put(&mut body, self.operations.len() as u64);
        let mut before = Before::default();
        for operation in &self.operations {
            before.put(&mut body, operation);
        }
        let mut file = Vec::with_capacity(HEADER_BYTES + body.len());
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        file.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        file.extend_from_slice(&(body.len() as u64).to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        let checksum = crc32c::crc32c(&file);
        file.extend_from_slice(&checksum.to_le_bytes());
        file.append(&mut body);
        file
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// When they are not exactly a workload of this version.
    pub fn decode(file: &[u8]) -> Result<Self, FormatError> {
        let body = body_of(file)?;
        let mut reader = Reader { rest: body };
        let workload = reader.workload().map_err(FormatError::Malformed)?;
        if !reader.rest.is_empty() {
            let rest = reader.rest.len();
            let problem = format!("{rest} bytes follow the last operation");
            return Err(FormatError::Malformed(problem));
        }
        Ok(workload)
    }
}

/// The body of a file whose header and checksums are right.
fn body_of(file: &[u8]) -> Result<&[u8], FormatError> {
    let found = file.len() as u64;
    let known = file.len().min(MAGIC.len());
    if known == 0 || file[..known] != MAGIC[..known] {
        return Err(FormatError::NotAWorkload);
    }
    let Some((header, body)) = file.split_at_checked(HEADER_BYTES) else {
        let expected = HEADER_BYTES as u64;
        return Err(FormatError::Truncated { expected, found });
    };
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    check("header", &header[..28], word(28))?;
    if word(8) != FORMAT_VERSION {
        return Err(FormatError::FutureVersion(word(8)));
    }
    let length = u64::from(word(16)) | u64::from(word(20)) << 32;
    let expected = length.saturating_add(HEADER_BYTES as u64);
    if found < expected {
        return Err(FormatError::Truncated { expected, found });
    }
    if found > expected {
        return Err(FormatError::Trailing(found - expected));
    }
    check("body", body, word(12))?;
    Ok(body)
}

fn check(part: &'static str, bytes: &[u8], found: u32) -> Result<(), FormatError> {
    let expected = crc32c::crc32c(bytes);
    if found == expected {
        return Ok(());
    }
    Err(FormatError::Damaged {
        part,
        found,
        expected,
    })
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Small numbers of either sign become small ones without.
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// What the next operation is told relative to.
#[derive(Default)]
struct Before {
    at_ns: u64,
    end: u64,
    /// The number of a content that is new, if they are numbered in order.
    next_number: i64,
}

impl Before {
    fn put(&mut self, out: &mut Vec<u8>, operation: &Operation) {
        let contents = if operation.contents.is_empty() {
            0
        } else {
            HAS_CONTENTS
        };
        out.push(operation.action as u8 | operation.flags.0 << FLAGS_SHIFT | contents);
        put(out, operation.at_ns.saturating_sub(self.at_ns));
        self.at_ns = operation.at_ns;
        if operation.action == Action::Flush {
            return;
        }
        let extent = operation.extent;
        put(
            out,
            zigzag(extent.start.0.cast_signed() - self.end.cast_signed()),
        );
        put(out, extent.sectors);
        self.end = extent.end().0;
        for content in &operation.contents {
            put(out, self.code(*content));
        }
    }

    fn code(&mut self, content: Content) -> u64 {
        match content {
            Content::Unknown => UNKNOWN,
            Content::Zeroes => ZEROES,
            Content::Known(number) => {
                let step = i64::from(number) - self.next_number;
                self.next_number = i64::from(number) + 1;
                FIRST_NUMBER + zigzag(step)
            }
        }
    }

    fn content(&mut self, code: u64) -> Result<Content, String> {
        Ok(match code {
            UNKNOWN => Content::Unknown,
            ZEROES => Content::Zeroes,
            code => {
                let number = self.next_number.checked_add(unzigzag(code - FIRST_NUMBER));
                let number = number.and_then(|number| u32::try_from(number).ok());
                let number = number.ok_or("a content has no number")?;
                self.next_number = i64::from(number) + 1;
                Content::Known(number)
            }
        })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.rest.split_first().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for at in 0..MAX_VARINT_BYTES {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            let shift = 7 * at as u32;
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too large".to_owned())
    }

    /// A count of things of which each takes at least a byte: a wrong one must not cost memory.
    fn count(&mut self) -> Result<usize, String> {
        let count = self.number()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or_else(|| format!("it cannot hold {count} of anything"))
    }

    fn text(&mut self) -> Result<String, String> {
        let count = self.count()?;
        let (text, rest) = self.rest.split_at(count);
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|error| format!("a text is none: {error}"))
    }

    fn workload(&mut self) -> Result<Workload, String> {
        let source = self.text()?;
        let mut doubts = Vec::new();
        for _ in 0..self.count()? {
            doubts.push(self.text()?);
        }
        let count = self.count()?;
        let mut operations = Vec::new();
        let mut before = Before::default();
        for at in 0..count {
            let operation = self.operation(&mut before);
            operations.push(operation.map_err(|error| format!("operation {at}: {error}"))?);
        }
        Ok(Workload {
            source,
            doubts,
            operations,
        })
    }

    fn operation(&mut self, before: &mut Before) -> Result<Operation, String> {
        let head = self.byte()?;
        let action = Action::ALL.get(usize::from(head & ACTION_MASK));
        let action = *action.ok_or("its action is unknown")?;
        let flags = Flags(head >> FLAGS_SHIFT & Flags::ALL.0);
        let has_contents = head & HAS_CONTENTS != 0;
        if head & RESERVED != 0 || has_contents && action != Action::Write {
            return Err("it has parts that this version does not know".to_owned());
        }
        let at_ns = before.at_ns.checked_add(self.number()?);
        before.at_ns = at_ns.ok_or("its time is too large")?;
        let mut operation = Operation {
            at_ns: before.at_ns,
            action,
            flags,
            extent: Extent::default(),
            contents: Box::default(),
        };
        if action == Action::Flush {
            return Ok(operation);
        }
        operation.extent = self.extent(before)?;
        if has_contents {
            operation.contents = self.contents(operation.extent, before)?;
        }
        Ok(operation)
    }

    fn extent(&mut self, before: &mut Before) -> Result<Extent, String> {
        let start = before.end.checked_add_signed(unzigzag(self.number()?));
        let extent = Extent {
            start: Sector(start.ok_or("its place is below 0")?),
            sectors: self.number()?,
        };
        if extent.is_empty() || extent.end().0 > MAX_SECTOR {
            return Err(format!("it cannot be at {extent:?}"));
        }
        before.end = extent.end().0;
        Ok(extent)
    }

    fn contents(&mut self, extent: Extent, before: &mut Before) -> Result<Box<[Content]>, String> {
        let count = extent.piece_count();
        if count > self.rest.len() as u64 {
            return Err(format!("it cannot have {count} contents"));
        }
        (0..count)
            .map(|_| self.number().and_then(|code| before.content(code)))
            .collect()
    }
}
