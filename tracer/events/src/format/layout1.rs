//! Events as they were written at first, by column, and are only read now. In this order, each
//! column with one value for every event of the chunk: time (u64, less that of the event before, the first less 0), sector, second, io, parent (u64),
//! amount, opf, disk, bdev, tgid, tid, status (u32), cpu, flags (u16), kind, marks, op (u8),
//! comm (16 bytes). The sequence is implied.

use crate::event::{Flags, IoId, Kind, Marks, Op, Record};

/// Bytes of one event in all columns.
pub const EVENT_BYTES: usize = 5 * 8 + 7 * 4 + 2 * 2 + 3 + 16;

/// Columns of known width, taken one after the other.
struct Columns<'a> {
    rest: &'a [u8],
    count: usize,
}

impl Columns<'_> {
    fn take<const N: usize>(&mut self) -> Vec<[u8; N]> {
        let (column, rest) = self.rest.split_at(self.count * N);
        self.rest = rest;
        column
            .chunks_exact(N)
            .map(|value| {
                let mut bytes = [0; N];
                bytes.copy_from_slice(value);
                bytes
            })
            .collect()
    }

    fn u64s(&mut self) -> Vec<u64> {
        self.take().into_iter().map(u64::from_le_bytes).collect()
    }

    fn u32s(&mut self) -> Vec<u32> {
        self.take().into_iter().map(u32::from_le_bytes).collect()
    }

    fn u16s(&mut self) -> Vec<u16> {
        self.take().into_iter().map(u16::from_le_bytes).collect()
    }
}

/// Reads `count` events of which the first has the given sequence.
///
/// # Errors
/// A sentence, when the length is wrong or a value has no meaning.
pub fn unpack(bytes: &[u8], count: usize, first_sequence: u64) -> Result<Vec<Record>, String> {
    if count.checked_mul(EVENT_BYTES) != Some(bytes.len()) {
        return Err(format!("{} bytes cannot hold {count} events", bytes.len()));
    }
    let mut columns = Columns { rest: bytes, count };
    let (times, sectors, seconds) = (columns.u64s(), columns.u64s(), columns.u64s());
    let (ios, parents) = (columns.u64s(), columns.u64s());
    let (amounts, opfs, disks) = (columns.u32s(), columns.u32s(), columns.u32s());
    let (bdevs, tgids, tids) = (columns.u32s(), columns.u32s(), columns.u32s());
    let statuses = columns.u32s();
    let (cpus, flags) = (columns.u16s(), columns.u16s());
    let (kinds, marks, ops) = (
        columns.take::<1>(),
        columns.take::<1>(),
        columns.take::<1>(),
    );
    let comms = columns.take::<16>();
    let mut time_ns = 0_u64;
    (0..count)
        .map(|at| {
            time_ns = time_ns.wrapping_add(times[at]);
            let ([kind], [op], [marks]) = (kinds[at], ops[at], marks[at]);
            Ok(Record {
                sequence: first_sequence.wrapping_add(at as u64),
                time_ns,
                kind: Kind::from_number(kind).ok_or_else(|| format!("unknown kind {kind}"))?,
                cpu: cpus[at],
                marks: Marks(marks),
                op: Op::from_number(op).ok_or_else(|| format!("unknown operation {op}"))?,
                flags: Flags(flags[at]),
                opf: opfs[at],
                disk: disks[at],
                bdev: bdevs[at],
                sector: sectors[at],
                second: seconds[at],
                amount: amounts[at],
                status: statuses[at].cast_signed(),
                io: IoId(ios[at]),
                parent: IoId(parents[at]),
                tgid: tgids[at],
                tid: tids[at],
                comm: comms[at],
            })
        })
        .collect()
}
