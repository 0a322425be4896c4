//! Why the programs do not run, and what the loader hides in its errors.

use std::io;

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::{BtfError, EbpfError};
use cowbird_events::kernel::KernelError;
use thiserror::Error;

/// Where the kernel shows its types.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

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
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// The error of a map that is not as its name says.
pub(super) fn map_error(map: &'static str) -> impl Fn(MapError) -> ProbeError {
    move |reason| ProbeError::Map {
        map,
        reason: Box::new(reason),
    }
}
