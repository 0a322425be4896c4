//! How an event of one kernel becomes a [`Record`] that means the same on all.

use rustc_hash::FxHashMap;
use thiserror::Error;

use crate::event::{Flags, IoId, Kind, Marks, Op, Record, SECTOR_BYTES};
use crate::kernel::KernelFacts;
use crate::pairing::Pairing;

/// Bytes of `struct cbt_event` in `tracer/bpf/event.h`.
pub const RAW_EVENT_BYTES: usize = 88;

/// Bytes of `struct cbt_prints` in `tracer/bpf/event.h`.
const RAW_PRINTS_BYTES: usize = 40 + 8 * MAX_PRINTS;

/// `CBT_PRINTS` in `tracer/bpf/event.h`.
const MAX_PRINTS: usize = 16;

/// `CBT_PRINTED` in `tracer/bpf/event.h`: only on the way to here.
const PRINTED: u8 = 8;

/// In both structures.
const KIND_OFFSET: usize = 10;

/// Addresses that are remembered to join events. A kernel reuses the memory of bios and requests,
/// so this is far more than what is ever in flight.
const MAX_KNOWN_OBJECTS: usize = 1 << 20;

/// Errno of each `blk_status_t` from 0 on, as `blk_errors` in the kernel's `block/blk-core.c`.
const STATUS_ERRNO: [i32; 11] = [
    0,
    libc::EOPNOTSUPP,
    libc::ETIMEDOUT,
    libc::ENOSPC,
    libc::ENOLINK,
    libc::EREMOTEIO,
    libc::EBADE,
    libc::ENODATA,
    libc::EILSEQ,
    libc::ENOMEM,
    libc::EIO,
];

/// A `blk_status_t` as a negative errno; what has no errno of its own is an I/O error.
fn errno_of_status(status: i32) -> i32 {
    let errno = usize::try_from(status)
        .ok()
        .and_then(|at| STATUS_ERRNO.get(at));
    -errno.copied().unwrap_or(libc::EIO)
}

/// Turns the events of one kernel into records, in the order in which they come.
#[derive(Debug)]
pub struct Decoder {
    facts: KernelFacts,
    /// Earlier events are taken note of, and left out: while the programs were being attached, some
    /// tracepoints had theirs and others not.
    start_ns: u64,
    decoded: u64,
    sequence: u64,
    next_io: u64,
    objects: FxHashMap<u64, IoId>,
    /// Names of the threads that were seen: requests do not say theirs.
    names: FxHashMap<u32, [u8; 16]>,
    pairing: Pairing,
}

/// An event from the ring buffer was not of the agreed form: a defect of this program.
#[derive(Debug, Error)]
#[error("the BPF programs sent an event of {bytes} bytes and kind {kind}, which is unknown here")]
pub struct WireError {
    /// Its length.
    pub bytes: usize,
    /// Its kind, 0 if it is too short to have one.
    pub kind: u8,
}

/// Fields of an event by their place in it.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[offset..offset + N]);
        bytes
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(offset))
    }
}

impl Decoder {
    /// A decoder for events of the kernel that the facts describe.
    #[must_use]
    pub fn new(facts: KernelFacts) -> Self {
        Self {
            facts,
            start_ns: 0,
            decoded: 0,
            sequence: 0,
            next_io: 1,
            objects: FxHashMap::default(),
            names: FxHashMap::default(),
            pairing: Pairing::default(),
        }
    }

    /// Makes no records of events before a time of `CLOCK_MONOTONIC`.
    pub fn begin_at(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
    }

    /// Events decoded so far, as the programs count them.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Records made so far: fingerprints come several in one event, or with another one.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.sequence
    }

    /// What the order of requests says of missing events.
    #[must_use]
    pub fn pairing(&self) -> &Pairing {
        &self.pairing
    }

    /// Reads one event and passes its records on.
    ///
    /// # Errors
    /// When its length or kind is not one of `tracer/bpf/event.h`; and what `take` refuses.
    pub fn decode<E: From<WireError>>(
        &mut self,
        raw: &[u8],
        mut take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let number = raw.get(KIND_OFFSET).copied().unwrap_or(0);
        let unknown = || {
            E::from(WireError {
                bytes: raw.len(),
                kind: number,
            })
        };
        let kind = Kind::from_number(number).ok_or_else(unknown)?;
        let expected = match kind {
            Kind::Fingerprint => RAW_PRINTS_BYTES,
            _ => RAW_EVENT_BYTES,
        };
        if raw.len() != expected {
            return Err(unknown());
        }
        self.decoded += 1;
        let fields = Fields(raw);
        if fields.u64(0) < self.start_ns {
            if kind != Kind::Fingerprint {
                self.event(kind, &fields);
            }
            return Ok(());
        }
        if kind == Kind::Fingerprint {
            return self.fingerprints(&fields, take);
        }
        let printed = fields.bytes::<1>(11)[0] & PRINTED != 0;
        let record = self.event(kind, &fields);
        match kind {
            Kind::RqIssue => self
                .pairing
                .issued(fields.u64(16), record.parent, record.amount),
            Kind::RqComplete => self.pairing.completed(fields.u64(16), record.amount),
            _ => {}
        }
        let print = printed.then(|| Record {
            sequence: record.sequence + 1,
            kind: Kind::Fingerprint,
            second: fields.u64(32),
            ..record.clone()
        });
        self.sequence += 1 + u64::from(printed);
        take(record)?;
        print.map_or(Ok(()), take)
    }

    fn event(&mut self, kind: Kind, fields: &Fields<'_>) -> Record {
        let opf = fields.u32(52);
        let has_opf = kind.is_block_layer() || matches!(kind, Kind::Intercept | Kind::Release);
        let (op, flags) = match has_opf {
            true => (self.facts.op(opf), self.facts.flags(opf)),
            false => (Op::None, Flags(0)),
        };
        let (io, parent) = self.identify(kind, fields.u64(16), fields.u64(40));
        let second = match kind.is_block_layer() {
            true => 0,
            false => fields.u64(32),
        };
        Record {
            sequence: self.sequence,
            time_ns: fields.u64(0),
            kind,
            cpu: fields.u16(8),
            marks: Marks(fields.bytes::<1>(11)[0] & !PRINTED),
            op,
            flags,
            opf,
            disk: fields.u32(12),
            bdev: fields.u32(56),
            sector: fields.u64(24),
            second,
            amount: fields.u32(48),
            status: self.errno(kind, fields.u32(60).cast_signed()),
            io,
            parent,
            tgid: fields.u32(64),
            tid: fields.u32(68),
            comm: self.name(kind, fields.u32(68), fields.bytes(72)),
        }
    }

    fn name(&mut self, kind: Kind, tid: u32, name: [u8; 16]) -> [u8; 16] {
        if kind == Kind::RqIssue {
            return self.names.get(&tid).copied().unwrap_or(name);
        }
        if tid != 0 {
            if self.names.len() >= MAX_KNOWN_OBJECTS {
                self.names.clear();
            }
            self.names.insert(tid, name);
        }
        name
    }

    /// Fingerprints of blocks that follow each other.
    fn fingerprints<E>(
        &mut self,
        fields: &Fields<'_>,
        mut take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = u32::from(fields.u16(32));
        let opf = fields.u32(36);
        let io = self.objects.get(&fields.u64(16)).copied();
        let mut record = Record {
            sequence: self.sequence,
            time_ns: fields.u64(0),
            kind: Kind::Fingerprint,
            cpu: fields.u16(8),
            marks: Marks(fields.bytes::<1>(11)[0]),
            op: self.facts.op(opf),
            flags: self.facts.flags(opf),
            opf,
            disk: fields.u32(12),
            sector: fields.u64(24),
            amount: bytes,
            io: io.unwrap_or_default(),
            ..Record::default()
        };
        for at in 0..usize::from(fields.u16(34)).min(MAX_PRINTS) {
            record.second = fields.u64(40 + 8 * at);
            record.sequence = self.sequence;
            self.sequence += 1;
            take(record.clone())?;
            record.sector += u64::from(bytes) / SECTOR_BYTES;
        }
        Ok(())
    }

    fn errno(&self, kind: Kind, status: i32) -> i32 {
        match kind {
            Kind::BioComplete => errno_of_status(status),
            // Only the low byte of the register is the argument.
            Kind::RqComplete if !self.facts.rq_status_is_errno => errno_of_status(status & 0xff),
            _ => status,
        }
    }

    /// A bio lives from its queueing and a request from its issue to their completion. Addresses
    /// of the kernel never leave this function.
    fn identify(&mut self, kind: Kind, object: u64, parent: u64) -> (IoId, IoId) {
        if !kind.is_block_layer() {
            return (IoId(0), IoId(0));
        }
        let parent = self.objects.get(&parent).copied().unwrap_or_default();
        let begins = matches!(kind, Kind::BioQueue | Kind::RqIssue);
        if !begins {
            return (
                self.objects.get(&object).copied().unwrap_or_default(),
                parent,
            );
        }
        if self.objects.len() >= MAX_KNOWN_OBJECTS {
            self.objects.clear();
        }
        let io = IoId(self.next_io);
        self.next_io += 1;
        self.objects.insert(object, io);
        (io, parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::facts;

    fn raw(kind: Kind, object: u64, parent: u64) -> [u8; RAW_EVENT_BYTES] {
        let mut event = [0; RAW_EVENT_BYTES];
        event[KIND_OFFSET] = kind as u8;
        event[16..24].copy_from_slice(&object.to_ne_bytes());
        event[24..32].copy_from_slice(&77_u64.to_ne_bytes());
        event[32..40].copy_from_slice(&0xfeed_u64.to_ne_bytes());
        event[40..48].copy_from_slice(&parent.to_ne_bytes());
        event[48..52].copy_from_slice(&4096_u32.to_ne_bytes());
        event[52..56].copy_from_slice(&(1_u32 | 1 << 17).to_ne_bytes());
        event[60..64].copy_from_slice(&(-5_i32).to_ne_bytes());
        event[72..77].copy_from_slice(b"fio\0x");
        event
    }

    fn decode(decoder: &mut Decoder, event: &[u8]) -> Result<Vec<Record>, WireError> {
        let mut records = Vec::new();
        decoder.decode(event, |record| {
            records.push(record);
            Ok::<(), WireError>(())
        })?;
        Ok(records)
    }

    fn only(decoder: &mut Decoder, event: &[u8]) -> Record {
        let records = decode(decoder, event).unwrap();
        assert_eq!(records.len(), 1);
        records[0].clone()
    }

    #[test]
    fn joins_a_bio_with_its_request_and_completion() {
        let mut decoder = Decoder::new(facts(true));
        let mut next = |kind, object, parent| only(&mut decoder, &raw(kind, object, parent));
        let bio = next(Kind::BioQueue, 0x1000, 0);
        let issue = next(Kind::RqIssue, 0x2000, 0x1000);
        let done = next(Kind::RqComplete, 0x2000, 0x1000);
        let reused = next(Kind::BioQueue, 0x1000, 0);
        assert_eq!(
            (issue.parent, done.parent, done.io),
            (bio.io, bio.io, issue.io)
        );
        assert_ne!(reused.io, bio.io);
        assert_eq!(
            (bio.op, bio.flags, bio.comm()),
            (Op::Write, Flags(8), "fio".to_owned())
        );
        assert_eq!((done.status, done.sequence), (-libc::EIO, 2));
    }

    #[test]
    fn what_came_before_the_start_only_names_its_objects() {
        let mut decoder = Decoder::new(facts(true));
        decoder.begin_at(10);
        let early = raw(Kind::RqIssue, 0x2000, 0);
        assert_eq!(decode(&mut decoder, &early).unwrap(), []);
        let mut done = raw(Kind::RqComplete, 0x2000, 0);
        done[0] = 10;
        let record = only(&mut decoder, &done);
        assert_eq!((record.io, record.sequence), (IoId(1), 0));
        assert_eq!((decoder.decoded(), decoder.records()), (2, 1));
    }

    #[test]
    fn status_codes_become_errnos() {
        let mut decoder = Decoder::new(facts(false));
        let mut event = raw(Kind::RqComplete, 1, 0);
        for (status, errno) in [
            (0_i32, 0),
            (7, -libc::ENODATA),
            (10, -libc::EIO),
            (99, -libc::EIO),
        ] {
            event[60..64].copy_from_slice(&status.to_ne_bytes());
            assert_eq!(only(&mut decoder, &event).status, errno);
        }
    }

    #[test]
    fn fingerprints_become_records_of_their_own() {
        let mut decoder = Decoder::new(facts(true));
        let mut event = raw(Kind::BioQueue, 0x1000, 0);
        event[11] = PRINTED;
        let records = decode(&mut decoder, &event).unwrap();
        assert_eq!((records[0].second, records[0].marks), (0, Marks(0)));
        assert_eq!(records[1].kind, Kind::Fingerprint);
        assert_eq!((records[1].second, records[1].sector), (0xfeed, 77));
        let mut prints = [0; RAW_PRINTS_BYTES];
        prints[KIND_OFFSET] = Kind::Fingerprint as u8;
        prints[16..24].copy_from_slice(&0x1000_u64.to_ne_bytes());
        prints[24..32].copy_from_slice(&80_u64.to_ne_bytes());
        prints[32..34].copy_from_slice(&4096_u16.to_ne_bytes());
        prints[34..36].copy_from_slice(&2_u16.to_ne_bytes());
        prints[48..56].copy_from_slice(&9_u64.to_ne_bytes());
        let more = decode(&mut decoder, &prints).unwrap();
        let seen: Vec<_> = more.iter().map(|r| (r.sector, r.second, r.io)).collect();
        assert_eq!(seen, [(80, 0, records[0].io), (88, 9, records[0].io)]);
        assert_eq!((more[1].sequence, decoder.decoded()), (3, 2));
        assert_eq!(decoder.records(), 4);
    }

    #[test]
    fn refuses_what_the_programs_do_not_send() {
        let mut decoder = Decoder::new(facts(true));
        assert!(decode(&mut decoder, &[0; RAW_EVENT_BYTES]).is_err());
        assert!(decode(&mut decoder, &raw(Kind::Epoch, 0, 0)[..80]).is_err());
        assert!(decode(&mut decoder, &raw(Kind::Fingerprint, 0, 0)).is_err());
        assert_eq!(decoder.decoded(), 0);
    }
}
