//! What differs between kernels, as their own types tell it.

use std::collections::HashMap;

use thiserror::Error;

use crate::btf::{Btf, BtfError, Parameter};
use crate::event::{Flags, Op};

/// What the programs know of `struct page` and `struct bio_vec`.
const PAGE_STRUCT_BYTES: u32 = 64;
const BIO_VEC_BYTES: u32 = 16;
const BIO_VEC_MEMBERS: [(&str, u32); 3] = [("bv_page", 0), ("bv_len", 8), ("bv_offset", 12)];

/// The guard of tracepoints since they no longer disable preemption (7.x).
const PREEMPTIBLE_GUARD: &str = "class_srcu_fast_notrace_t";

/// Bits of an opf that hold the operation, on every kernel since 4.10.
const OP_MASK: u32 = 0xff;

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
    /// The programs would stop the machine.
    #[error(
        "this real-time kernel guards the ring buffer of BPF with a lock that sleeps, and BPF programs must not \
         sleep: recording would stop the machine. Use a kernel without PREEMPT_RT, or a newer one"
    )]
    SleepingRing,
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
    /// Whether programs on tracepoints can be preempted, and then be skipped for another task.
    pub preemptible_programs: bool,
    /// Whether a program is skipped while it runs on the same CPU already (since 5.12).
    pub guards_recursion: bool,
    /// Why content cannot be fingerprinted, if so.
    pub fingerprint_obstacle: Option<String>,
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
        if ring_sleeps(&btf) {
            return Err(KernelError::SleepingRing);
        }
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
            preemptible_programs: btf.has_typedef(PREEMPTIBLE_GUARD),
            guards_recursion: btf.member_offset("bpf_prog", "active").is_some(),
            fingerprint_obstacle: fingerprint_obstacle(&btf),
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

/// Whether an event may have to wait for its place in the ring with preemption off: where `spinlock_t` is a lock that
/// sleeps (`PREEMPT_RT`) and guards the ring, as it did before it was made a `raw_spinlock_t`.
fn ring_sleeps(btf: &Btf<'_>) -> bool {
    let guard = btf.member_type("bpf_ringbuf", "spinlock");
    // Else this member is in a union without a name, and called differently.
    let sleeping = btf.member_offset("spinlock", "lock").is_some();
    sleeping && guard.as_deref() == Some("spinlock_t")
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

fn fingerprint_obstacle(btf: &Btf<'_>) -> Option<String> {
    let sizes = [("page", PAGE_STRUCT_BYTES), ("bio_vec", BIO_VEC_BYTES)];
    for (structure, known) in sizes {
        let found = btf.size_of(structure);
        if found != Some(known) {
            return Some(format!(
                "struct {structure} has {found:?} bytes, not {known}"
            ));
        }
    }
    BIO_VEC_MEMBERS.iter().find_map(|(member, known)| {
        let found = btf.member_offset("bio_vec", member);
        (found != Some(*known)).then(|| format!("{member} is at {found:?}, not at byte {known}"))
    })
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::btf::tests::btf_of;

    /// A kernel with two operations and one flag.
    pub(crate) fn facts(rq_status_is_errno: bool) -> KernelFacts {
        KernelFacts {
            bio_queue_argument: 0,
            rq_issue_argument: 0,
            rq_status_is_errno,
            preemptible_programs: false,
            guards_recursion: false,
            fingerprint_obstacle: None,
            ops: HashMap::from([(0, Op::Read), (1, Op::Write)]),
            flags: vec![(1 << 17, 1 << 3)],
        }
    }

    /// Goal: a ring whose lock sleeps is known by the kernel's types, and no other is.
    /// Method: `struct bpf_ringbuf { spinlock_t spinlock; }` with each kind of `struct spinlock`, and a ring with a
    /// `raw_spinlock_t`.
    #[test]
    fn a_ring_that_sleeps_is_known() {
        const STRINGS: &[u8] = b"\0bpf_ringbuf\0spinlock\0spinlock_t\0raw_spinlock_t\0lock\0";
        let at = |name: &str| {
            let name = format!("\0{name}\0");
            let found = STRINGS
                .windows(name.len())
                .position(|window| window == name.as_bytes());
            1 + found.expect("a known name") as u32
        };
        let kernel = |lock: u32, guard: &str| {
            let structure = (4 << 24) | 1;
            let types = [
                [at("spinlock"), structure, 4].as_slice(),
                &[lock, 0, 0],
                &[at(guard), 8 << 24, 1],
                &[at("bpf_ringbuf"), structure, 4],
                &[at("spinlock"), 2, 0],
            ]
            .concat();
            btf_of(&types, STRINGS)
        };
        let sleeps = |bytes: &[u8]| ring_sleeps(&Btf::parse(bytes).unwrap());
        assert!(sleeps(&kernel(at("lock"), "spinlock_t")));
        assert!(!sleeps(&kernel(0, "spinlock_t")));
        assert!(!sleeps(&kernel(at("lock"), "raw_spinlock_t")));
        assert!(matches!(
            KernelFacts::from_btf(&kernel(at("lock"), "spinlock_t")),
            Err(KernelError::SleepingRing)
        ));
    }
}
