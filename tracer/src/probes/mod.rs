//! Loads the BPF programs, attaches them and reads their counters.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, ProgramError, ProgramFd, RawTracePoint};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader};
use rustix::process::{Resource, Rlimit, setrlimit};
use thiserror::Error;

use crate::devices::{BLOCK_SECTORS, BlockDevice};
use crate::kernel::{KernelError, KernelFacts, RAW_EVENT_BYTES};
use crate::prints::PrintKey;

mod layout;

/// Where the kernel shows its types.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The programs, compiled by the build script.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cowbird_trace.bpf.o"));

/// Programs of the module's events; each bears the name of its tracepoint.
pub const MODULE_TRACEPOINTS: [&str; 11] = [
    "cowbird_intercept",
    "cowbird_preserve_begin",
    "cowbird_preserve_complete",
    "cowbird_preserve_store",
    "cowbird_release",
    "cowbird_snapshot_read",
    "cowbird_epoch",
    "cowbird_state",
    "cowbird_overflow",
    "cowbird_error",
    "cowbird_change",
];

/// Each block event has programs 0 to this one; `LAST_CHANCE` in `bpf/cowbird_trace.bpf.c`.
const LAST_CHANCE: u32 = 3;

/// The program behind it, which only takes marks away.
const SWEEP: u32 = LAST_CHANCE + 1;

/// Places for marks: `MARK_KINDS` times `MARK_THREADS` in `bpf/marks.h`.
const MARK_PLACES: u32 = 32 * 8192;

/// Buffers for content: three programs with four chances each; `enum gatherer` in `bpf/prints.h`.
const GATHERINGS: u32 = 3 * (LAST_CHANCE + 1);

/// Events of a CPU between two wake-ups of the reader, at most.
const MAX_WAKE_EVENTS: u64 = 4096;

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Why the programs do not run.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// This process may not.
    #[error(
        "tracing needs the capabilities CAP_BPF and CAP_PERFMON; missing: {0}. Run as root, or \
         once `setcap cap_bpf,cap_perfmon+ep` on the program"
    )]
    Privileges(String),
    /// The kernel does not show its types.
    #[error(
        "cannot read {VMLINUX_BTF}: {0}; the kernel must be built with CONFIG_DEBUG_INFO_BTF and \
         sysfs be mounted"
    )]
    NoBtf(io::Error),
    /// The block layer is not as expected.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The object does not load.
    #[error("cannot load the BPF object: {}", chain(.0))]
    Object(Box<EbpfError>),
    /// A program is refused.
    #[error("cannot {operation} BPF program {program}: {}", chain(.reason))]
    Program {
        /// `load` or `attach`.
        operation: &'static str,
        /// Which one.
        program: String,
        /// Why.
        reason: Box<ProgramError>,
    },
    /// A map cannot be used.
    #[error("cannot use BPF map {map}: {}", chain(.reason))]
    Map {
        /// Which one.
        map: &'static str,
        /// Why.
        reason: Box<MapError>,
    },
    /// The kernel's types cannot be used by the loader.
    #[error("the kernel's BTF cannot be used: {}", chain(.0))]
    Btf(Box<BtfError>),
    /// Content cannot be read on this kernel.
    #[error("fingerprints do not work here: {0}; record without --fingerprints")]
    Fingerprints(String),
    /// The object lacks a part: a defect of this program.
    #[error("the BPF object has no {0}")]
    Missing(String),
}

/// The error and all its causes, which the loader keeps apart.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// The operating system's code at the root of an error.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// Capabilities that this process lacks for tracing; empty if it lacks none.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn missing_capabilities() -> io::Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective & 1 << bit != 0;
    let wanted = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
    // CAP_SYS_ADMIN includes both.
    Ok(wanted
        .into_iter()
        .filter(|(bit, _)| !has(*bit) && !has(CAP_SYS_ADMIN))
        .map(|(_, name)| name)
        .collect())
}

/// Reads what must be known of the running kernel.
///
/// # Errors
/// When it shows no BTF, or its block layer is not of a known form.
pub fn kernel_facts() -> Result<KernelFacts, ProbeError> {
    let btf = fs::read(VMLINUX_BTF).map_err(ProbeError::NoBtf)?;
    Ok(KernelFacts::from_btf(&btf)?)
}

/// What the programs count; `struct cbt_counters` in `bpf/event.h`, summed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    /// Events made.
    pub produced: u64,
    /// Events that found the ring buffer full.
    pub dropped: u64,
    /// Events with a field that could not be read.
    pub read_faults: u64,
    /// Events that a later program recorded because the first was skipped.
    pub rescued: u64,
    /// Events that may be there twice.
    pub mark_failures: u64,
    /// Events outside the filter that first programs saw.
    pub skipped_first: u64,
    /// Events outside the filter that second programs saw.
    pub skipped_second: u64,
    /// Events beyond the rate limit.
    pub limited: u64,
    /// When the second of the rate limit began.
    pub second_ns: u64,
    /// Events in it.
    pub second_events: u64,
}

// SAFETY: repr(C), only u64: every bit pattern is valid and there is no padding.
unsafe impl aya::Pod for Counters {}

impl Counters {
    /// Upper bound of the wanted events that no program saw, given the skipped runs of the first
    /// programs; the reasoning is in `bpf/cowbird_trace.bpf.c`.
    #[must_use]
    pub fn lost_to_recursion(&self, misses: u64) -> u64 {
        let unwanted = self.skipped_second.saturating_sub(self.skipped_first);
        misses.saturating_sub(self.rescued).saturating_sub(unwanted)
    }
}

/// What to attach.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// Bytes of the ring buffer, a power of two and at least a page.
    pub ring_bytes: u32,
    /// Only this device's block events.
    pub device: Option<BlockDevice>,
    /// Whether the content of reads and writes is fingerprinted.
    pub fingerprints: bool,
    /// What fingerprints are sealed with; plain ones are for tests.
    pub print_key: Option<PrintKey>,
    /// At most so many events in a second.
    pub rate_limit: Option<u64>,
}

impl ProbeOptions {
    /// Everything, without fingerprints or limits.
    #[must_use]
    pub fn plain(ring_bytes: u32) -> Self {
        Self {
            ring_bytes,
            device: None,
            fingerprints: false,
            print_key: None,
            rate_limit: None,
        }
    }

    /// Where on a disk the grid of blocks begins, in sectors modulo those of a block.
    #[must_use]
    pub fn grid_sectors(&self) -> u32 {
        let start = self.device.as_ref().map_or(0, |device| device.start_sector);
        (start % BLOCK_SECTORS) as u32
    }
}

enum Link {
    Typed(BtfTracePointLinkId),
    Raw(RawTracePointLinkId),
}

struct Attached {
    program: String,
    tracepoint: &'static str,
    chance: u32,
    link: Option<Link>,
}

/// The running programs.
pub struct Probes {
    ebpf: Ebpf,
    btf: Btf,
    attached: Vec<Attached>,
    module: bool,
}

/// How many programs record an event, so that one that the kernel skips is not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chances {
    /// One: it is never skipped, or so short that a bio which comes just then is not to be expected.
    One,
    /// A second one, for the interrupt that comes while the first is at work on the same tracepoint.
    Two,
    /// Some more, for the threads that come while others are preempted there.
    All,
}

impl Chances {
    fn of(options: &ProbeOptions, facts: &KernelFacts) -> Self {
        match (facts.preemptible_programs, facts.guards_recursion) {
            (true, _) => Self::All,
            // To fingerprint takes a hundred times as long as all else.
            (false, true) if options.fingerprints => Self::Two,
            (false, _) => Self::One,
        }
    }

    /// Those programs of an event of the block layer that are attached, in order.
    fn of_block_layer(self) -> &'static [u32] {
        match self {
            Self::One => &[0],
            Self::Two => &[0, 1],
            Self::All => &[0, 1, 2, LAST_CHANCE, SWEEP],
        }
    }

    /// Those of an event of the module.
    fn of_module(self) -> &'static [u32] {
        match self {
            Self::One | Self::Two => &[0],
            Self::All => &[0, LAST_CHANCE, SWEEP],
        }
    }
}

impl Probes {
    /// Loads and attaches everything that this kernel has.
    ///
    /// # Errors
    /// When privileges, BTF or one of the block layer's programs fail, or content was asked for and
    /// cannot be read. The module's tracepoints may be absent.
    pub fn start(options: &ProbeOptions, facts: &KernelFacts) -> Result<Self, ProbeError> {
        let missing = missing_capabilities().unwrap_or_default();
        if !missing.is_empty() {
            return Err(ProbeError::Privileges(missing.join(", ")));
        }
        // Up to 5.10 maps count as locked memory. Without the right to raise the limit the
        // loading below fails and says so.
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        let _ = setrlimit(Resource::Memlock, unlimited);
        let btf = Btf::from_sys_fs().map_err(|error| ProbeError::Btf(Box::new(error)))?;
        let mut ebpf = load_object(options, facts, &btf)?;
        if options.fingerprints {
            layout::find(&mut ebpf, facts)?;
        }
        let mut probes = Self {
            ebpf,
            btf,
            attached: Vec::new(),
            module: false,
        };
        let chances = Chances::of(options, facts);
        probes.attach_block_layer(facts, chances)?;
        probes.attach_module(chances)?;
        Ok(probes)
    }

    fn attach_block_layer(
        &mut self,
        facts: &KernelFacts,
        chances: Chances,
    ) -> Result<(), ProbeError> {
        let programs = [
            ("bio_queue_arg", facts.bio_queue_argument, "block_bio_queue"),
            ("rq_issue_arg", facts.rq_issue_argument, "block_rq_issue"),
            ("rq_complete_arg", 0, "block_rq_complete"),
            ("bio_complete_arg", 1, "block_bio_complete"),
        ];
        for (stem, argument, tracepoint) in programs {
            // The first must be there before those that act for it.
            for chance in chances.of_block_layer() {
                let program = format!("{stem}{argument}_{chance}");
                self.attach(program, tracepoint, *chance, Self::link_typed)?;
            }
        }
        Ok(())
    }

    fn attach_module(&mut self, chances: Chances) -> Result<(), ProbeError> {
        for tracepoint in MODULE_TRACEPOINTS {
            for chance in chances.of_module() {
                let program = format!("{tracepoint}_{chance}");
                match self.attach(program, tracepoint, *chance, Self::link_raw) {
                    Ok(()) => self.module = true,
                    Err(ProbeError::Program { reason, .. })
                        if !self.module && os_error(&*reason) == Some(libc::ENOENT) =>
                    {
                        return Ok(()); // not loaded
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn link_typed(&mut self, name: &str, tracepoint: &str) -> Result<Link, LinkError> {
        let Self { ebpf, btf, .. } = self;
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        program.load(tracepoint, btf).map_err(LinkError::Load)?;
        program.attach().map(Link::Typed).map_err(LinkError::Attach)
    }

    fn link_raw(&mut self, name: &str, tracepoint: &str) -> Result<Link, LinkError> {
        let program: &mut RawTracePoint = program(&mut self.ebpf, name)?;
        program.load().map_err(LinkError::Load)?;
        let link = program.attach(tracepoint);
        link.map(Link::Raw).map_err(LinkError::Attach)
    }

    fn attach(
        &mut self,
        program: String,
        tracepoint: &'static str,
        chance: u32,
        link: impl Fn(&mut Self, &str, &str) -> Result<Link, LinkError>,
    ) -> Result<(), ProbeError> {
        let (operation, reason) = match link(self, &program, tracepoint) {
            Ok(link) => {
                self.attached.push(Attached {
                    program,
                    tracepoint,
                    chance,
                    link: Some(link),
                });
                return Ok(());
            }
            Err(LinkError::Missing(error)) => return Err(error),
            Err(LinkError::Load(reason)) => ("load", reason),
            Err(LinkError::Attach(reason)) => ("attach", reason),
        };
        Err(ProbeError::Program {
            operation,
            program,
            reason: Box::new(reason),
        })
    }

    /// Whether the module's events are attached.
    #[must_use]
    pub fn has_module(&self) -> bool {
        self.module
    }

    /// What is attached, each as `program on tracepoint`.
    #[must_use]
    pub fn programs(&self) -> Vec<String> {
        self.attached
            .iter()
            .map(|attached| format!("{} on {}", attached.program, attached.tracepoint))
            .collect()
    }

    /// Takes the events; may be called once.
    ///
    /// # Errors
    /// When the buffer cannot be mapped.
    pub fn ring(&mut self) -> Result<RingBuf<MapData>, ProbeError> {
        let map = self
            .ebpf
            .take_map("events")
            .ok_or_else(|| ProbeError::Missing("map events, or it is taken".to_owned()))?;
        RingBuf::try_from(map).map_err(map_error("events"))
    }

    /// Counters of each CPU.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<Counters>, ProbeError> {
        let map = self
            .ebpf
            .map("counters")
            .ok_or_else(|| ProbeError::Missing("map counters".to_owned()))?;
        let array: PerCpuArray<_, Counters> =
            PerCpuArray::try_from(map).map_err(map_error("counters"))?;
        let values = array.get(&0, 0).map_err(map_error("counters"))?;
        Ok(values.iter().copied().collect())
    }

    /// Stops new events, first programs last: without the one before it a program would take every
    /// event for a missed one. Events under way may still come for a moment.
    ///
    /// # Errors
    /// When a program cannot be detached.
    pub fn detach(&mut self) -> Result<(), ProbeError> {
        for chance in (0..=SWEEP).rev() {
            for at in 0..self.attached.len() {
                if self.attached[at].chance != chance {
                    continue;
                }
                let name = self.attached[at].program.clone();
                if let Some(link) = self.attached[at].link.take() {
                    self.unlink(&name, link)?
                        .map_err(|reason| ProbeError::Program {
                            operation: "detach",
                            program: name,
                            reason: Box::new(reason),
                        })?;
                }
            }
        }
        Ok(())
    }

    fn unlink(&mut self, name: &str, link: Link) -> Result<Result<(), ProgramError>, ProbeError> {
        Ok(match link {
            Link::Typed(link) => program::<BtfTracePoint>(&mut self.ebpf, name)?.detach(link),
            Link::Raw(link) => program::<RawTracePoint>(&mut self.ebpf, name)?.detach(link),
        })
    }

    /// Runs of first programs, and of the module's, that the kernel skipped; `None` if this kernel
    /// neither skips nor counts.
    #[must_use]
    pub fn recursion_misses(&mut self) -> Option<u64> {
        let firsts: Vec<String> = self
            .attached
            .iter()
            .filter(|attached| attached.chance == 0)
            .map(|attached| attached.program.clone())
            .collect();
        firsts
            .iter()
            .map(|name| {
                let fd: &ProgramFd = self.ebpf.program(name)?.fd().ok()?;
                recursion_misses(fd.as_fd())
            })
            .sum()
    }
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> ProbeError {
    move |reason| ProbeError::Map {
        map,
        reason: Box::new(reason),
    }
}

/// Why a program does not run.
enum LinkError {
    Missing(ProbeError),
    Load(ProgramError),
    Attach(ProgramError),
}

impl From<ProbeError> for LinkError {
    fn from(error: ProbeError) -> Self {
        Self::Missing(error)
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProbeError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| ProbeError::Missing(format!("program {name}")))
}

/// How many events of one CPU come between two wake-ups, less one: half of the ring buffer would be
/// in use if all CPUs were about to wake the reader.
fn wake_mask(ring_bytes: u32, cpus: u64) -> u64 {
    let events = u64::from(ring_bytes) / (2 * RAW_EVENT_BYTES as u64 * cpus.max(1));
    let events = events.clamp(1, MAX_WAKE_EVENTS);
    (events + 1).next_power_of_two() / 2 - 1
}

fn load_object(options: &ProbeOptions, facts: &KernelFacts, btf: &Btf) -> Result<Ebpf, ProbeError> {
    let device = options.device.as_ref();
    let disk = device.and_then(BlockDevice::disk).map_or(0, |disk| disk.0);
    let (first, end) = device.map_or((0, u64::MAX), |device| {
        let (first, end) = device.range();
        (first.0, end.0)
    });
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u64);
    let wake = wake_mask(options.ring_bytes, cpus);
    let rate = options.rate_limit.map_or(0, |rate| rate.div_ceil(cpus));
    let chances = Chances::of(options, facts);
    let rescue = u32::from(chances == Chances::All);
    let nested = u32::from(chances == Chances::Two);
    let fingerprints = u32::from(options.fingerprints);
    let grid = options.grid_sectors();
    let sealed = u32::from(options.print_key.is_some());
    let [key_low, key_high] = options.print_key.as_ref().map_or([0; 2], PrintKey::halves);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global("filter_disk", &disk, true)
        .override_global("filter_first_sector", &first, true)
        .override_global("filter_end_sector", &end, true)
        .override_global("rescue", &rescue, true)
        .override_global("nested", &nested, true)
        .override_global("fingerprints", &fingerprints, true)
        .override_global("wake_mask", &wake, true)
        .override_global("cpu_rate", &rate, true)
        .override_global("grid_sectors", &grid, true)
        .override_global("sealed", &sealed, true)
        .override_global("key_low", &key_low, true)
        .override_global("key_high", &key_high, true)
        .map_max_entries("events", options.ring_bytes);
    if chances == Chances::All {
        loader.map_max_entries("marks", MARK_PLACES);
    }
    if fingerprints != 0 {
        loader.map_max_entries("gatherings", GATHERINGS);
    }
    loader
        .load(OBJECT)
        .map_err(|error| ProbeError::Object(Box::new(error)))
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Place of `recursion_misses` in `struct bpf_prog_info`, where it is since 5.12.
const RECURSION_MISSES_OFFSET: usize = 208;

/// More than `struct bpf_prog_info` has in any kernel so far.
const PROG_INFO_BYTES: usize = 512;

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoRequest {
    fd: u32,
    info_bytes: u32,
    info: u64,
}

/// Runs of a program that the kernel skipped; `None` if it does not count them.
fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let mut info = [0_u8; PROG_INFO_BYTES];
    let mut request = InfoRequest {
        fd: program.as_raw_fd().cast_unsigned(),
        info_bytes: PROG_INFO_BYTES as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the request is valid for its length, and `info` for the length that it states; the
    // kernel writes no further than that.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut request,
            size_of::<InfoRequest>(),
        )
    };
    let field = RECURSION_MISSES_OFFSET..RECURSION_MISSES_OFFSET + 8;
    if result != 0 || (request.info_bytes as usize) < field.end {
        return None;
    }
    info[field].try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_woken_before_the_ring_buffer_is_full() {
        assert_eq!(wake_mask(8 << 20, 2), 4095);
        assert_eq!(wake_mask(8 << 20, 64), 511);
        assert_eq!(wake_mask(4096, 2), 7);
        assert_eq!(wake_mask(4096, 256), 0);
    }

    #[test]
    fn loss_counts_neither_rescued_nor_unwanted_events() {
        let counters = Counters {
            rescued: 6,
            skipped_first: 100,
            skipped_second: 103,
            ..Counters::default()
        };
        assert_eq!(counters.lost_to_recursion(10), 1);
        assert_eq!(counters.lost_to_recursion(9), 0);
        assert_eq!(counters.lost_to_recursion(0), 0);
    }
}
