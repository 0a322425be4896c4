//! Acceleration: what QEMU executes the guest with, found out by really booting.
//!
//! That `/dev/kvm` exists says little: inside another virtual machine it may open, accept a guest
//! and never run it past its first instructions. So a kernel is booted to the guest's Hello, and
//! the answer is kept for this QEMU, host kernel and CPU. A host that is busy for a moment refuses too, so
//! that an answer counts for a limited time only, and not at all for who asks for KVM by name.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::initramfs::{self, Contents};
use cowbird_host::limits::Limits;
use cowbird_host::scratch::Scratch;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Vm;
use crate::accel::Accel;
use crate::command::{DEFAULT_CPUS, DEFAULT_MEMORY_MIB, VmConfig};
use crate::emulator::Emulator;
use crate::end::End;
use crate::socket::CONNECT;

/// A kernel that boots at all under KVM is at its Hello within 2 s; beyond this it is no faster
/// than software emulation.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// How long it counts that KVM booted a kernel.
const YES_COUNTS: Duration = Duration::from_secs(24 * 60 * 60);

/// How long it counts that it did not: another program may have had all of it, or the host was too busy.
const NO_COUNTS: Duration = Duration::from_secs(10 * 60);

/// The device that KVM is.
const KVM_DEVICE: &str = "/dev/kvm";

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

/// An answer that is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    choice: AccelChoice,
    /// Seconds since 1970.
    found_at: u64,
}

impl Remembered {
    /// What it still says at this time, and that it is not new.
    fn still_says(&self, now: u64, path: &Path) -> Option<AccelChoice> {
        let age = Duration::from_secs(now.checked_sub(self.found_at)?);
        let counts = match self.choice.accel {
            Accel::Kvm => YES_COUNTS,
            Accel::Tcg => NO_COUNTS,
        };
        let left = counts.checked_sub(age).filter(|left| !left.is_zero())?;
        let mut choice = self.choice.clone();
        choice.reason += &format!("; found out {} minutes ago", age.as_secs() / 60);
        if choice.accel == Accel::Tcg {
            choice.reason += &format!(
                ", tried again in {} minutes; at once with --accel kvm, or without {}",
                left.as_secs().div_ceil(60),
                path.display()
            );
        }
        Some(choice)
    }
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
        Ok(()) => {
            let path = cache_dir.join(format!("accel-{}.json", host_key(&version)));
            answer(request, &path, async || probe(kernel).await).await?
        }
    };
    if request == AccelRequest::Kvm && choice.accel != Accel::Kvm {
        let detail = format!(
            "KVM does not work here: {}; try again if the host was busy, or leave --accel at auto",
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

/// What is remembered, if that counts; otherwise what a probe finds out.
async fn answer(
    request: AccelRequest,
    path: &Path,
    probe: impl AsyncFnOnce() -> HarnessResult<AccelChoice>,
) -> HarnessResult<AccelChoice> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // An answer that cannot be read is found again.
    let known: Option<Remembered> = fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let known = known.and_then(|known| known.still_says(now, path));
    if request == AccelRequest::Auto
        && let Some(choice) = known
    {
        return Ok(choice);
    }
    let choice = probe().await?;
    remember(&choice, now, path)?;
    Ok(choice)
}

fn remember(choice: &AccelChoice, now: u64, path: &Path) -> HarnessResult<()> {
    let remembered = Remembered {
        choice: choice.clone(),
        found_at: now,
    };
    let text = serde_json::to_vec_pretty(&remembered).map_err(|error| HarnessError::Plan {
        detail: error.to_string(),
    })?;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).on("create", folder)?;
    // Whole or not at all: another run may be reading it.
    let mut file = tempfile::NamedTempFile::new_in(folder).on("create a file in", folder)?;
    file.write_all(&text).on("write", path)?;
    file.persist(path)
        .map_err(|error| error.error)
        .on("create", path)?;
    Ok(())
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
    let folder = Scratch::temporary()?;
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
        terminal: false,
    };
    let limits = Limits {
        boot: PROBE_LIMIT,
        ..Limits::default()
    };
    let booted = match Vm::boot(config, limits).await {
        Ok((mut vm, hello)) => {
            vm.stop().await;
            Ok(hello.kernel_release)
        }
        Err(end) => Err(end),
    };
    concluded(booted)
}

/// What the boot of a kernel, whose release it gives, says of KVM. A host on which no file can be made says nothing of it. That QEMU
/// ends, or never opens its socket, does: so it looks where KVM is there but refuses a machine.
fn concluded(booted: Result<String, End>) -> HarnessResult<AccelChoice> {
    match booted {
        Ok(release) => Ok(AccelChoice {
            accel: Accel::Kvm,
            reason: format!("booted {release} under KVM"),
        }),
        Err(End::Infrastructure(
            error @ (HarnessError::File { .. }
            | HarnessError::Tool { .. }
            | HarnessError::Plan { .. }),
        )) if !is_of_the_socket(&error) => Err(error),
        Err(end) => Ok(AccelChoice {
            accel: Accel::Tcg,
            reason: format!("KVM is there but does not boot a kernel: {end}"),
        }),
    }
}

/// Whether QEMU could not be reached.
fn is_of_the_socket(error: &HarnessError) -> bool {
    matches!(error, HarnessError::File { operation, .. } if *operation == CONNECT)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn choice(accel: Accel) -> AccelChoice {
        AccelChoice {
            accel,
            reason: "because".to_owned(),
        }
    }

    /// Goal: only what speaks of KVM becomes an answer that is remembered. Method: the ends of a probe, one of each kind.
    #[test]
    fn a_full_host_is_no_answer() {
        let file = |operation| {
            let path = Path::new("/tmp/x");
            End::from(
                Err::<(), _>(std::io::Error::from_raw_os_error(28))
                    .on(operation, path)
                    .unwrap_err(),
            )
        };
        let error = concluded(Err(file("create"))).unwrap_err();
        assert!(
            error.to_string().contains("cannot create /tmp/x"),
            "{error}"
        );
        let refused = End::from(HarnessError::Qemu {
            detail: "it ended at once".into(),
        });
        let reason = "it hangs".to_owned();
        for end in [file(CONNECT), refused, End::Hang { reason }] {
            assert_eq!(concluded(Err(end)).unwrap().accel, Accel::Tcg);
        }
        assert_eq!(concluded(Ok("6.1".into())).unwrap().accel, Accel::Kvm);
    }

    /// Goal: a host that was busy once has KVM again soon, at once for who asks for it, and whoever gets a remembered
    /// answer is told so. Method: answers of known ages, and a probe that counts.
    #[tokio::test]
    async fn a_refusal_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accel/answer.json");
        let probes = Cell::new(0);
        let ask = async |request, found| {
            let probe = async || {
                probes.set(probes.get() + 1);
                Ok(choice(found))
            };
            answer(request, &path, probe).await.unwrap()
        };
        assert_eq!(
            ask(AccelRequest::Auto, Accel::Tcg).await,
            choice(Accel::Tcg)
        );
        let again = ask(AccelRequest::Auto, Accel::Kvm).await;
        assert_eq!((again.accel, probes.get()), (Accel::Tcg, 1));
        for said in [
            "because; found out 0 minutes ago",
            "in 10 minutes",
            "answer.json",
        ] {
            assert!(again.reason.contains(said), "{}", again.reason);
        }
        assert_eq!(ask(AccelRequest::Kvm, Accel::Kvm).await, choice(Accel::Kvm));
        assert_eq!(ask(AccelRequest::Auto, Accel::Tcg).await.accel, Accel::Kvm);
        assert_eq!(probes.get(), 2);

        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        remember(&choice(Accel::Tcg), now - NO_COUNTS.as_secs(), &path).unwrap();
        assert_eq!(
            ask(AccelRequest::Auto, Accel::Kvm).await,
            choice(Accel::Kvm)
        );
        // What an older program kept for ever, and what a clock that was wrong left.
        fs::write(&path, r#"{"accel": "tcg", "reason": "busy"}"#).unwrap();
        assert_eq!(
            ask(AccelRequest::Auto, Accel::Kvm).await,
            choice(Accel::Kvm)
        );
        remember(&choice(Accel::Tcg), now + 1000, &path).unwrap();
        assert_eq!(
            ask(AccelRequest::Auto, Accel::Kvm).await,
            choice(Accel::Kvm)
        );
        assert_eq!(probes.get(), 5);
    }
}
