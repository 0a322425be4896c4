//! Loads the BPF programs, attaches them and reads their counters.

mod capabilities;
mod chances;
mod counters;
mod error;
mod layout;
mod object;
mod options;
mod programs;

use std::fs;
use std::os::fd::AsFd;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, ProgramError, ProgramFd, RawTracePoint};
use aya::{Btf, Ebpf};
use cowbird_events::kernel::KernelFacts;
use rustix::process::{Resource, Rlimit, setrlimit};

pub use self::capabilities::missing_capabilities;
pub use self::counters::Counters;
pub use self::error::{ProbeError, VMLINUX_BTF};
pub use self::options::ProbeOptions;

use self::chances::{Chances, SWEEP};
use self::counters::recursion_misses;
use self::error::{map_error, os_error};
use self::object::load_object;
use self::programs::program;

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

/// Reads what must be known of the running kernel.
///
/// # Errors
/// When it shows no BTF, or its block layer is not of a known form.
pub fn kernel_facts() -> Result<KernelFacts, ProbeError> {
    let btf = fs::read(VMLINUX_BTF).map_err(ProbeError::NoBtf)?;
    Ok(KernelFacts::from_btf(&btf)?)
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
