//! Acceleration: what QEMU executes the guest with, found out by really booting.
//!
//! That `/dev/kvm` exists says little: inside another virtual machine it may open, accept a guest
//! and never run it past its first instructions. So a kernel is booted to the guest's Hello, and
//! the answer is kept for this QEMU, host kernel and CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::initramfs::{self, Contents};
use crate::limits::Limits;
use crate::plan::{DEFAULT_CPUS, DEFAULT_MEMORY_MIB};
use crate::vm::Vm;
use crate::vm::command::VmConfig;
use crate::vm::emulator::Emulator;

/// A kernel that boots at all under KVM is at its Hello within 2 s; beyond this it is no faster
/// than software emulation.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// The device that KVM is.
const KVM_DEVICE: &str = "/dev/kvm";

/// How QEMU executes the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's virtualisation.
    Kvm,
    /// Software emulation, one host thread per virtual CPU.
    Tcg,
}

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelRequest {
    /// KVM where it truly boots, else software emulation.
    Auto,
    /// KVM, or an error.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What was found out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccelChoice {
    /// What to use.
    pub accel: Accel,
    /// Why, for people.
    pub reason: String,
}

/// A kernel to probe with.
#[derive(Debug, Clone)]
pub struct ProbeKernel {
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// Its modules to load at boot; `virtio_pci` and `virtio_console` with what they depend on.
    pub boot_modules: Vec<(String, PathBuf)>,
    /// The guest's init: a static `cowbird-guest`.
    pub guest_init: PathBuf,
}

impl Accel {
    /// The arguments of QEMU for it. On a tape is how many instructions one thread executed.
    #[must_use]
    pub fn arguments(self, taped: bool) -> [&'static str; 4] {
        match self {
            Self::Tcg if taped => ["-accel", "tcg,thread=single", "-cpu", "max,-cx16"],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Without cmpxchg16b: with it, guests of 6.12 on two emulated CPUs double-fault now
            // and then under QEMU 7.2, with no module of ours loaded.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"],
        }
    }
}

/// Decides what to run guests with. Answers found by booting are kept below `cache_dir`.
///
/// # Errors
/// When QEMU is missing, or KVM was asked for by name and does not boot.
pub async fn probe_accel(
    request: AccelRequest,
    kernel: &ProbeKernel,
    cache_dir: &Path,
) -> HarnessResult<AccelChoice> {
    let version = Emulator::Host.version()?;
    if request == AccelRequest::Tcg {
        return Ok(AccelChoice {
            accel: Accel::Tcg,
            reason: "asked for".into(),
        });
    }
    let choice = match kvm_is_there() {
        Err(reason) => AccelChoice {
            accel: Accel::Tcg,
            reason,
        },
        Ok(()) => remembered_probe(kernel, cache_dir, &version).await?,
    };
    if request == AccelRequest::Kvm && choice.accel != Accel::Kvm {
        let detail = format!(
            "KVM does not work here: {}; leave --accel at auto",
            choice.reason
        );
        return Err(HarnessError::Plan { detail });
    }
    Ok(choice)
}

fn kvm_is_there() -> Result<(), String> {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(KVM_DEVICE)
        .map(|_| ())
        .map_err(|error| format!("{KVM_DEVICE}: {error}"))
}

async fn remembered_probe(
    kernel: &ProbeKernel,
    cache_dir: &Path,
    qemu_version: &str,
) -> HarnessResult<AccelChoice> {
    let path = cache_dir.join(format!("accel-{}.json", host_key(qemu_version)));
    // An answer that cannot be read is found again.
    let known = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(choice) = known {
        return Ok(choice);
    }
    let choice = probe(kernel).await?;
    let text = serde_json::to_vec_pretty(&choice).map_err(|error| HarnessError::Plan {
        detail: error.to_string(),
    })?;
    fs::create_dir_all(cache_dir).on("create", cache_dir)?;
    fs::write(&path, text).on("write", &path)?;
    Ok(choice)
}

/// What the answer depends on: QEMU, the host's kernel, its CPU.
fn host_key(qemu_version: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu: Vec<&str> = cpu
        .lines()
        .filter(|line| line.starts_with("model name") || line.starts_with("flags"))
        .take(2)
        .collect();
    let facts = [qemu_version, &read("/proc/version"), &cpu.join("\n")].join("\n");
    Sha256::digest(facts)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Boots the kernel under KVM. Only what has nothing to do with KVM is an error.
async fn probe(kernel: &ProbeKernel) -> HarnessResult<AccelChoice> {
    let temp = std::env::temp_dir();
    let folder = tempfile::Builder::new()
        .prefix("cowbird-probe-")
        .tempdir()
        .on("make a folder in", &temp)?;
    let initramfs = folder.path().join("initramfs.cpio");
    let contents = Contents {
        guest_init: &kernel.guest_init,
        boot_modules: &kernel.boot_modules,
        files: &[],
    };
    fs::write(&initramfs, initramfs::build(&contents)?).on("write", &initramfs)?;
    let config = VmConfig {
        kernel: kernel.vmlinuz.clone(),
        initramfs,
        kernel_parameters: String::new(),
        disks: Vec::new(),
        cpus: DEFAULT_CPUS,
        memory_mib: DEFAULT_MEMORY_MIB,
        accel: Accel::Kvm,
        work_dir: folder.path().to_owned(),
        emulator: Emulator::Host,
        tape: None,
    };
    let limits = Limits {
        boot: PROBE_LIMIT,
        ..Limits::default()
    };
    Ok(match Vm::boot(config, limits).await {
        Ok((mut vm, hello)) => {
            vm.stop().await;
            let reason = format!("booted {} under KVM", hello.kernel_release);
            AccelChoice {
                accel: Accel::Kvm,
                reason,
            }
        }
        Err(end) => {
            let reason = format!("KVM is there but does not boot a kernel: {end}");
            AccelChoice {
                accel: Accel::Tcg,
                reason,
            }
        }
    })
}
