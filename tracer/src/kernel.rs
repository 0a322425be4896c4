//! What differs between kernels, and how an event of one becomes a [`Record`] that means the same
//! on all.

use std::collections::HashMap;

use thiserror::Error;

use crate::btf::{Btf, BtfError, Parameter};
use crate::event::{Flags, IoId, Kind, Marks, Op, Record};

/// Bytes of `struct cbt_event` in `bpf/event.h`.
pub const RAW_EVENT_BYTES: usize = 88;

const KIND_OFFSET: usize = 70;

/// Bits of an opf that hold the operation, on every kernel since 4.10.
const OP_MASK: u32 = 0xff;

/// Addresses that are remembered to join events. A kernel reuses the memory of bios and requests,
/// so this is far more than what is ever in flight.
const MAX_KNOWN_OBJECTS: usize = 1 << 20;

/// Why a kernel's block layer could not be understood.
#[derive(Debug, Error)]
pub enum KernelError {
    /// BTF is damaged or too new.
    #[error("the kernel's BTF cannot be used: {0}")]
    Btf(BtfError),
    /// A tracepoint is not there, or is not declared in a known way.
    #[error(
        "tracepoint {name} of this kernel {problem}; cowbird-trace knows Linux 5.10 to 7.3 built \
         with CONFIG_BLOCK"
    )]
    Tracepoint {
        /// Which one.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A constant is not there.
    #[error("this kernel's BTF has no {0}, so operations cannot be told apart")]
    Constants(&'static str),
}

/// What the loader and the decoder must know of the recorded kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// Which argument of `block_bio_queue` is the bio: 0 or 1.
    pub bio_queue_argument: usize,
    /// Which argument of `block_rq_issue` is the request: 0 or 1.
    pub rq_issue_argument: usize,
    /// Whether `block_rq_complete` carries an errno (up to 5.15) and not a `blk_status_t`.
    pub rq_status_is_errno: bool,
    ops: HashMap<u32, Op>,
    flags: Vec<(u32, u16)>,
}

impl KernelFacts {
    /// Asks BTF.
    ///
    /// # Errors
    /// When BTF is unusable, or lacks a tracepoint or an enumeration.
    pub fn from_btf(bytes: &[u8]) -> Result<Self, KernelError> {
        let btf = Btf::parse(bytes).map_err(KernelError::Btf)?;
        let status = parameters(&btf, "block_rq_complete")?;
        if argument(&status, "request") != Some(0) || status.len() < 3 {
            return Err(unknown_form("block_rq_complete", &status));
        }
        let complete = parameters(&btf, "block_bio_complete")?;
        if argument(&complete, "bio") != Some(1) {
            return Err(unknown_form("block_bio_complete", &complete));
        }
        let ops = btf
            .constants("req_op")
            .or_else(|| btf.constants("req_opf"))
            .ok_or(KernelError::Constants("enum req_op or req_opf"))?;
        let bits = btf
            .constants("req_flag_bits")
            .ok_or(KernelError::Constants("enum req_flag_bits"))?;
        Ok(Self {
            bio_queue_argument: first_or_second(&btf, "block_bio_queue", "bio")?,
            rq_issue_argument: first_or_second(&btf, "block_rq_issue", "request")?,
            rq_status_is_errno: status[1].type_name == "int",
            ops: ops
                .into_iter()
                .filter_map(|(name, value)| Some((value, op_by_name(&name)?)))
                .collect(),
            flags: known_flags(&bits),
        })
    }

    /// The operation of an opf.
    #[must_use]
    pub fn op(&self, opf: u32) -> Op {
        self.ops.get(&(opf & OP_MASK)).copied().unwrap_or(Op::Other)
    }

    /// The known flags of an opf.
    #[must_use]
    pub fn flags(&self, opf: u32) -> Flags {
        let set = self.flags.iter().filter(|(from, _)| opf & from != 0);
        Flags(set.fold(0, |flags, (_, to)| flags | to))
    }
}

fn parameters(btf: &Btf<'_>, name: &'static str) -> Result<Vec<Parameter>, KernelError> {
    btf.tracepoint(name).ok_or_else(|| KernelError::Tracepoint {
        name,
        problem: "is not in its BTF".to_owned(),
    })
}

fn argument(parameters: &[Parameter], structure: &str) -> Option<usize> {
    parameters
        .iter()
        .position(|parameter| parameter.points_to.as_deref() == Some(structure))
}

fn unknown_form(name: &'static str, parameters: &[Parameter]) -> KernelError {
    KernelError::Tracepoint {
        name,
        problem: format!("is declared with {parameters:?}, in no known way"),
    }
}

fn first_or_second(
    btf: &Btf<'_>,
    name: &'static str,
    structure: &str,
) -> Result<usize, KernelError> {
    let parameters = parameters(btf, name)?;
    argument(&parameters, structure)
        .filter(|index| *index < 2)
        .ok_or_else(|| unknown_form(name, &parameters))
}

fn op_by_name(name: &str) -> Option<Op> {
    Some(match name.strip_prefix("REQ_OP_")? {
        "READ" => Op::Read,
        "WRITE" => Op::Write,
        "FLUSH" => Op::Flush,
        "DISCARD" => Op::Discard,
        "SECURE_ERASE" => Op::SecureErase,
        "WRITE_SAME" => Op::WriteSame,
        "WRITE_ZEROES" => Op::WriteZeroes,
        "DRV_IN" | "DRV_OUT" | "SCSI_IN" | "SCSI_OUT" => Op::Driver,
        zone if zone.starts_with("ZONE_") => Op::Zone,
        _ => return None,
    })
}

fn known_flags(bits: &[(String, u32)]) -> Vec<(u32, u16)> {
    let value = |name| bits.iter().find(|(known, _)| known == name);
    Flags::NAMES
        .iter()
        .enumerate()
        .filter_map(|(to, (_, name))| {
            let (_, from) = value(name)?;
            Some((1_u32.checked_shl(*from)?, 1_u16 << to))
        })
        .collect()
}

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
    sequence: u64,
    next_io: u64,
    objects: HashMap<u64, IoId>,
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

fn bytes_at<const N: usize>(event: &[u8; RAW_EVENT_BYTES], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&event[offset..offset + N]);
    bytes
}

impl Decoder {
    /// A decoder for events of the kernel that the facts describe.
    #[must_use]
    pub fn new(facts: KernelFacts) -> Self {
        Self {
            facts,
            sequence: 0,
            next_io: 1,
            objects: HashMap::new(),
        }
    }

    /// Events decoded so far.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.sequence
    }

    /// Reads one `struct cbt_event`.
    ///
    /// # Errors
    /// When its length or kind is not one of `bpf/event.h`.
    pub fn decode(&mut self, raw: &[u8]) -> Result<Record, WireError> {
        let kind_number = raw.get(KIND_OFFSET).copied().unwrap_or(0);
        let unknown = || WireError {
            bytes: raw.len(),
            kind: kind_number,
        };
        let event: &[u8; RAW_EVENT_BYTES] = raw.try_into().map_err(|_| unknown())?;
        let kind = Kind::from_number(kind_number).ok_or_else(unknown)?;
        let u32_at = |offset| u32::from_ne_bytes(bytes_at(event, offset));
        let u64_at = |offset| u64::from_ne_bytes(bytes_at(event, offset));
        let opf = u32_at(44);
        let has_opf = kind.is_block_layer() || matches!(kind, Kind::Intercept | Kind::Release);
        let (op, flags) = match has_opf {
            true => (self.facts.op(opf), self.facts.flags(opf)),
            false => (Op::None, Flags(0)),
        };
        let (io, parent) = self.identify(kind, u64_at(8), u64_at(16));
        let record = Record {
            sequence: self.sequence,
            time_ns: u64_at(0),
            kind,
            cpu: u16::from_ne_bytes(bytes_at(event, 68)),
            marks: Marks(event[71]),
            op,
            flags,
            opf,
            disk: u32_at(48),
            bdev: u32_at(52),
            sector: u64_at(24),
            second: u64_at(32),
            amount: u32_at(40),
            status: self.errno(kind, i32::from_ne_bytes(bytes_at(event, 64))),
            io,
            parent,
            tgid: u32_at(56),
            tid: u32_at(60),
            comm: bytes_at(event, 72),
        };
        self.sequence += 1;
        Ok(record)
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

    fn facts(rq_status_is_errno: bool) -> KernelFacts {
        KernelFacts {
            bio_queue_argument: 0,
            rq_issue_argument: 0,
            rq_status_is_errno,
            ops: HashMap::from([(0, Op::Read), (1, Op::Write)]),
            flags: vec![(1 << 17, 1 << 3)],
        }
    }

    fn raw(kind: Kind, object: u64, parent: u64) -> [u8; RAW_EVENT_BYTES] {
        let mut event = [0; RAW_EVENT_BYTES];
        event[8..16].copy_from_slice(&object.to_ne_bytes());
        event[16..24].copy_from_slice(&parent.to_ne_bytes());
        event[24..32].copy_from_slice(&77_u64.to_ne_bytes());
        event[40..44].copy_from_slice(&4096_u32.to_ne_bytes());
        event[44..48].copy_from_slice(&(1_u32 | 1 << 17).to_ne_bytes());
        event[64..68].copy_from_slice(&(-5_i32).to_ne_bytes());
        event[KIND_OFFSET] = kind as u8;
        event[72..77].copy_from_slice(b"fio\0x");
        event
    }

    #[test]
    fn joins_a_bio_with_its_request_and_completion() {
        let mut decoder = Decoder::new(facts(true));
        let mut next = |kind, object, parent| decoder.decode(&raw(kind, object, parent)).unwrap();
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
    fn status_codes_become_errnos() {
        let mut decoder = Decoder::new(facts(false));
        let mut event = raw(Kind::RqComplete, 1, 0);
        for (status, errno) in [
            (0_i32, 0),
            (7, -libc::ENODATA),
            (10, -libc::EIO),
            (99, -libc::EIO),
        ] {
            event[64..68].copy_from_slice(&status.to_ne_bytes());
            assert_eq!(decoder.decode(&event).unwrap().status, errno);
        }
    }

    #[test]
    fn refuses_what_the_programs_do_not_send() {
        let mut decoder = Decoder::new(facts(true));
        assert!(decoder.decode(&[0; RAW_EVENT_BYTES]).is_err());
        assert!(decoder.decode(&raw(Kind::Epoch, 0, 0)[..80]).is_err());
        assert_eq!(decoder.decoded(), 0);
    }
}
