//! Events without what they share. Most fields of an event are those of many others: the same
//! thread writes as much to the same device with the same flags. So they are in a table of
//! contexts, an event says which one is its own, and only what changes from event to event follows.
//!
//! ```text
//! payload = u32 contexts, context*, u16 index*, change*      little-endian; index and change for every event
//!
//! context     0  u32    opf                    28  u8[16] comm
//!             4  u32    disk                   44  u16    cpu
//!             8  u32    bdev                   46  u16    flags
//!            12  u32    amount                 48  u8     kind
//!            16  u32    tgid                   49  u8     marks
//!            20  u32    tid                    50  u8     op
//!            24  u32    status                 51  u8     1 if a `second` follows, 0 if it is zero
//!
//! change  = time, sector, io, parent [, second]
//! ```
//!
//! Time, sector and io are differences to the event before, the first's to zero; parent is the
//! difference to the event's own io. All four are modulo 2^64, zigzag and LEB128. A `second` is a u64 as it is: it
//! may be a hash, which no difference makes smaller. The sequence is implied.

use std::collections::hash_map::Entry;

use integer_encoding::VarInt;
use rustc_hash::FxHashMap;

use crate::event::{Flags, IoId, Kind, Marks, Op, Record};

const CONTEXT_BYTES: usize = 52;

/// Bytes of the longest LEB128 of 64 bits.
const MAX_VARINT_BYTES: usize = 10;

type Context = [u8; CONTEXT_BYTES];

fn context(record: &Record) -> Context {
    let mut bytes = [0; CONTEXT_BYTES];
    let words = [
        record.opf,
        record.disk,
        record.bdev,
        record.amount,
        record.tgid,
        record.tid,
        record.status.cast_unsigned(),
    ];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes[28..44].copy_from_slice(&record.comm);
    bytes[44..46].copy_from_slice(&record.cpu.to_le_bytes());
    bytes[46..48].copy_from_slice(&record.flags.0.to_le_bytes());
    bytes[48] = record.kind as u8;
    bytes[49] = record.marks.0;
    bytes[50] = record.op as u8;
    bytes[51] = u8::from(record.second != 0);
    bytes
}

/// What a context says, and whether its events have a `second`.
fn from_context(bytes: &Context) -> Result<(Record, bool), String> {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let mut comm = [0; 16];
    comm.copy_from_slice(&bytes[28..44]);
    let record = Record {
        opf: word(0),
        disk: word(4),
        bdev: word(8),
        amount: word(12),
        tgid: word(16),
        tid: word(20),
        status: word(24).cast_signed(),
        comm,
        cpu: half(44),
        flags: Flags(half(46)),
        kind: Kind::from_number(bytes[48]).ok_or_else(|| format!("unknown kind {}", bytes[48]))?,
        marks: Marks(bytes[49]),
        op: Op::from_number(bytes[50]).ok_or_else(|| format!("unknown operation {}", bytes[50]))?,
        ..Record::default()
    };
    Ok((record, bytes[51] != 0))
}

fn put_difference(out: &mut Vec<u8>, value: u64, from: u64) {
    let mut bytes = [0; MAX_VARINT_BYTES];
    let length = value
        .wrapping_sub(from)
        .cast_signed()
        .encode_var(&mut bytes);
    out.extend_from_slice(&bytes[..length]);
}

/// Lays out the events of a chunk, at most as many as a u16 can count.
#[must_use]
pub fn pack(records: &[Record]) -> Vec<u8> {
    let mut known = FxHashMap::<Context, u16>::default();
    let mut contexts = Vec::new();
    let mut indices = Vec::with_capacity(records.len() * 2);
    let mut changes = Vec::with_capacity(records.len() * 16);
    let (mut time_ns, mut sector, mut io) = (0, 0, 0);
    for record in records {
        let count = known.len() as u16;
        let index = match known.entry(context(record)) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                contexts.extend_from_slice(entry.key());
                *entry.insert(count)
            }
        };
        indices.extend_from_slice(&index.to_le_bytes());
        put_difference(&mut changes, record.time_ns, time_ns);
        put_difference(&mut changes, record.sector, sector);
        put_difference(&mut changes, record.io.0, io);
        put_difference(&mut changes, record.parent.0, record.io.0);
        if record.second != 0 {
            changes.extend_from_slice(&record.second.to_le_bytes());
        }
        (time_ns, sector, io) = (record.time_ns, record.sector, record.io.0);
    }
    let count = (known.len() as u32).to_le_bytes();
    [&count[..], &contexts, &indices, &changes].concat()
}

/// The bytes that have not been read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or("the events of a chunk end early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn difference(&mut self, from: u64) -> Result<u64, String> {
        let (difference, length) =
            i64::decode_var(self.0).ok_or("a number in a chunk has no end")?;
        self.take(length)?;
        Ok(from.wrapping_add_signed(difference))
    }
}

/// Reads `count` events of which the first has the given sequence.
///
/// # Errors
/// A sentence, when the length is wrong or a value has no meaning.
pub fn unpack(bytes: &[u8], count: usize, first_sequence: u64) -> Result<Vec<Record>, String> {
    let mut rest = Rest(bytes);
    let contexts = u32::from_le_bytes(rest.array()?) as usize;
    if contexts > count {
        return Err(format!("{count} events cannot have {contexts} contexts"));
    }
    let contexts = (0..contexts)
        .map(|_| from_context(&rest.array()?))
        .collect::<Result<Vec<_>, String>>()?;
    let indices = rest.take(count * 2)?;
    let mut records = Vec::with_capacity(count);
    let (mut time_ns, mut sector, mut io) = (0, 0, 0);
    for (at, index) in indices.chunks_exact(2).enumerate() {
        let index = u16::from_le_bytes([index[0], index[1]]);
        let (shared, has_second) = contexts
            .get(usize::from(index))
            .ok_or_else(|| format!("there is no context {index}"))?;
        time_ns = rest.difference(time_ns)?;
        sector = rest.difference(sector)?;
        io = rest.difference(io)?;
        let parent = rest.difference(io)?;
        let second = match has_second {
            true => u64::from_le_bytes(rest.array()?),
            false => 0,
        };
        records.push(Record {
            sequence: first_sequence.wrapping_add(at as u64),
            time_ns,
            sector,
            second,
            io: IoId(io),
            parent: IoId(parent),
            ..shared.clone()
        });
    }
    match rest.0.len() {
        0 => Ok(records),
        left => Err(format!("{left} bytes of a chunk belong to no event")),
    }
}
