//! The module's control device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Result, anyhow, bail};
use cowbird_abi as abi;

use crate::change_map::{ChangeMap, PIECE_WORDS, Words};
use crate::topology::DeviceNumber;

/// An open `/dev/cowbird-control`. A COW file that was pinned through it is let
/// go when it is closed, unless a snapshot has taken it over.
pub struct Control {
    file: File,
}

/// Everything that a snapshot is made from; see `struct cowbird_ioc_setup`.
pub struct Setup {
    /// Number of the snapshot device.
    pub minor: u32,
    /// The origin.
    pub origin: DeviceNumber,
    /// Name of the origin for display.
    pub origin_path: Vec<u8>,
    /// Name of the COW file for display.
    pub cow_path: Vec<u8>,
    /// Bound of preserved blocks in memory.
    pub cache_bytes: u64,
    /// Physical pieces of the COW file.
    pub extents: Vec<abi::cowbird_extent>,
    /// One open file of each filesystem to freeze that can be seen.
    pub freeze_fds: Vec<i32>,
    /// Every device that may carry one, seen or not.
    pub freeze_devices: Vec<abi::cowbird_freeze_device>,
    /// Series that the snapshot belongs to.
    pub uuid: [u8; 16],
    /// Its number within the series.
    pub epoch: u64,
    /// Bound of the time in which writes are held.
    pub timeout_ms: u32,
    /// Identity of this boot.
    pub boot_id: [u8; 16],
    /// Whether a series that is tracking goes on; then extents, names, series
    /// and epoch come from there.
    pub continues: bool,
}

/// Why a set of snapshots was not taken.
pub struct Refusal {
    /// The one that was the reason, if it was one.
    pub member: Option<usize>,
    /// The reason.
    pub error: anyhow::Error,
}

impl Refusal {
    fn of_all(error: anyhow::Error) -> Self {
        Self {
            member: None,
            error,
        }
    }
}

impl Setup {
    /// Points to the lists of this setup, and is valid for as long as they are.
    fn request(&self) -> Result<abi::cowbird_ioc_setup> {
        let mut request = abi::cowbird_ioc_setup {
            abi_version: abi::COWBIRD_ABI_VERSION,
            minor: self.minor,
            origin_major: self.origin.major,
            origin_minor: self.origin.minor,
            cache_bytes: self.cache_bytes,
            extents: self.extents.as_ptr() as u64,
            extent_count: count(self.extents.len(), "extents")?,
            freeze_fd_count: count(self.freeze_fds.len(), "filesystems")?,
            freeze_fds: self.freeze_fds.as_ptr() as u64,
            freeze_devices: self.freeze_devices.as_ptr() as u64,
            freeze_device_count: count(self.freeze_devices.len(), "devices")?,
            reserved: 0,
            uuid: self.uuid,
            epoch: self.epoch,
            timeout_ms: self.timeout_ms,
            flags: if self.continues {
                abi::COWBIRD_SETUP_CONTINUE
            } else {
                0
            },
            boot_id: self.boot_id,
            origin_path: [0; abi::COWBIRD_PATH_BYTES as usize],
            cow_path: [0; abi::COWBIRD_PATH_BYTES as usize],
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        abi::put_path(&mut request.origin_path, &self.origin_path);
        abi::put_path(&mut request.cow_path, &self.cow_path);
        Ok(request)
    }
}

/// Everything by which a series is taken up again; see `struct cowbird_ioc_reload`.
pub struct Reload {
    /// Number of the snapshot device.
    pub minor: u32,
    /// The origin.
    pub origin: DeviceNumber,
    /// Name of the origin for display.
    pub origin_path: Vec<u8>,
    /// Device that the COW file's filesystem is on.
    pub cow: DeviceNumber,
    /// Where the COW file's first slot lies on it.
    pub cow_sector: u64,
    /// Name of the COW file for display.
    pub cow_path: Vec<u8>,
    /// Bound of preserved blocks in memory.
    pub cache_bytes: u64,
    /// Bound of the time in which writes are held.
    pub timeout_ms: u32,
    /// Identity of this boot.
    pub boot_id: [u8; 16],
    /// The series that it must be; zeros for any.
    pub uuid: [u8; 16],
    /// Whether a snapshot that was saved goes on.
    pub snapshot: bool,
    /// Whether the origin is known to be that of the series, so that a refusal holds for later boots, too.
    pub is_final: bool,
}

impl Control {
    /// Opens the control device.
    pub fn open() -> Result<Self> {
        let path = format!("/dev/{}", abi::CONTROL_NAME);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self { file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{path} does not exist; load the module with: modprobe cowbird")
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!("{path}: permission denied; run this as root")
            }
            Err(error) => Err(anyhow!(error).context(format!("cannot open {path}"))),
        }
    }

    /// Refuses when one of these filesystems is frozen: a file made there would wait for the thaw.
    pub fn check_frozen(
        &self,
        files: &[i32],
        devices: &[abi::cowbird_freeze_device],
    ) -> Result<()> {
        let mut request = abi::cowbird_ioc_check_frozen {
            abi_version: abi::COWBIRD_ABI_VERSION,
            freeze_fd_count: count(files.len(), "filesystems")?,
            freeze_fds: files.as_ptr() as u64,
            freeze_devices: devices.as_ptr() as u64,
            freeze_device_count: count(devices.len(), "devices")?,
            reserved: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_CHECK_FROZEN, &mut request);
        explain(result, &request.reason)
    }

    /// Fixes the extents of a COW file.
    pub fn pin(&self, cow: &File) -> Result<()> {
        let mut request = abi::cowbird_ioc_pin {
            cow_fd: cow.as_raw_fd(),
            reserved: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_PIN, &mut request);
        explain(result, &request.reason)
    }

    /// Takes the snapshots, all at one instant or none.
    pub fn setup(&self, setups: &[&Setup]) -> Result<(), Refusal> {
        let requests: Result<Vec<_>> = setups.iter().map(|setup| setup.request()).collect();
        let mut requests = requests.map_err(Refusal::of_all)?;
        if let [request] = requests.as_mut_slice() {
            let result = self.ioctl(abi::IOC_SETUP, request);
            return explain(result, &request.reason).map_err(Refusal::of_all);
        }
        let mut set = abi::cowbird_ioc_setup_set {
            abi_version: abi::COWBIRD_ABI_VERSION,
            count: count(requests.len(), "snapshots").map_err(Refusal::of_all)?,
            setups: requests.as_ptr() as u64,
            timeout_ms: setups.first().map_or(0, |setup| setup.timeout_ms),
            blamed: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_SETUP_SET, &mut set);
        explain(result, &set.reason).map_err(|error| Refusal {
            member: Some(set.blamed as usize).filter(|&index| index < requests.len()),
            error,
        })
    }

    /// Takes a series up again; the answer is its state, `COWBIRD_STATE_*`.
    pub fn reload(&self, reload: &Reload) -> Result<u32> {
        let mut request = abi::cowbird_ioc_reload {
            abi_version: abi::COWBIRD_ABI_VERSION,
            minor: reload.minor,
            origin_major: reload.origin.major,
            origin_minor: reload.origin.minor,
            cow_major: reload.cow.major,
            cow_minor: reload.cow.minor,
            cow_sector: reload.cow_sector,
            cache_bytes: reload.cache_bytes,
            timeout_ms: reload.timeout_ms,
            flags: [
                (reload.snapshot, abi::COWBIRD_RELOAD_SNAPSHOT),
                (reload.is_final, abi::COWBIRD_RELOAD_FINAL),
            ]
            .into_iter()
            .filter_map(|(is_set, flag)| is_set.then_some(flag))
            .sum(),
            boot_id: reload.boot_id,
            uuid: reload.uuid,
            state: 0,
            reserved: 0,
            origin_path: [0; abi::COWBIRD_PATH_BYTES as usize],
            cow_path: [0; abi::COWBIRD_PATH_BYTES as usize],
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        abi::put_path(&mut request.origin_path, &reload.origin_path);
        abi::put_path(&mut request.cow_path, &reload.cow_path);
        let result = self.ioctl(abi::IOC_RELOAD, &mut request);
        explain(result, &request.reason)?;
        Ok(request.state)
    }

    /// Hands over the COW file of a series that was taken up again. It must be pinned.
    pub fn verify(&self, minor: u32, extents: &[abi::cowbird_extent]) -> Result<()> {
        let mut request = abi::cowbird_ioc_verify {
            minor,
            extent_count: count(extents.len(), "extents")?,
            extents: extents.as_ptr() as u64,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_VERIFY, &mut request);
        explain(result, &request.reason)
    }

    /// Makes a file that is pinned more room for the preserved blocks of a snapshot.
    pub fn expand(&self, minor: u32, extents: &[abi::cowbird_extent]) -> Result<()> {
        let mut request = abi::cowbird_ioc_expand {
            minor,
            extent_count: count(extents.len(), "extents")?,
            extents: extents.as_ptr() as u64,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_EXPAND, &mut request);
        explain(result, &request.reason)
    }

    /// Saves a series and removes it from memory.
    pub fn suspend(&self, minor: u32) -> Result<()> {
        let mut request = abi::cowbird_ioc_suspend {
            minor,
            reserved: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_SUSPEND, &mut request);
        explain(result, &request.reason)
    }

    /// Changes the bound of preserved blocks in memory.
    pub fn reconfigure(&self, minor: u32, cache_bytes: u64) -> Result<()> {
        let mut request = abi::cowbird_ioc_reconfigure {
            minor,
            reserved: 0,
            cache_bytes,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_RECONFIGURE, &mut request);
        explain(result, &request.reason)
    }

    /// Ends a snapshot.
    pub fn destroy(&self, minor: u32) -> Result<()> {
        let mut request = abi::cowbird_ioc_destroy {
            minor,
            reserved: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_DESTROY, &mut request);
        explain(result, &request.reason)
    }

    /// Gives a snapshot up and goes on to note changes.
    pub fn track(&self, minor: u32) -> Result<()> {
        let mut request = abi::cowbird_ioc_track {
            minor,
            reserved: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_TRACK, &mut request);
        explain(result, &request.reason)
    }

    /// What changed between the epoch before and that of a snapshot.
    pub fn changes(&self, minor: u32) -> Result<ChangeMap> {
        let mut map = self.changes_piece(minor, 0, &mut [])?;
        let all = ChangeMap::words_for(map.block_count)?;
        let mut words = vec![0; PIECE_WORDS];
        for (number, first) in (0..all).step_by(PIECE_WORDS).enumerate() {
            let words = &mut words[..PIECE_WORDS.min(all - first)];
            let piece = self.changes_piece(minor, first as u64, words)?;
            if (piece.to_epoch, piece.uuid) != (map.to_epoch, map.uuid) {
                bail!("minor {minor} became another snapshot while its changes were read");
            }
            map.words.keep(number, words);
        }
        Ok(map)
    }

    /// Fills `words` from the given word on; the result carries no words.
    fn changes_piece(&self, minor: u32, first_word: u64, words: &mut [u64]) -> Result<ChangeMap> {
        let mut request = abi::cowbird_ioc_changes {
            minor,
            reserved: 0,
            first_word,
            word_count: words.len() as u64,
            words: words.as_mut_ptr() as u64,
            uuid: [0; 16],
            from_epoch: 0,
            to_epoch: 0,
            block_count: 0,
            reason: [0; abi::COWBIRD_REASON_BYTES as usize],
        };
        let result = self.ioctl(abi::IOC_CHANGES, &mut request);
        explain(result, &request.reason)?;
        if request.word_count != words.len() as u64 {
            bail!(
                "the module gave {} of {} words of its change map",
                request.word_count,
                words.len()
            );
        }
        Ok(ChangeMap {
            uuid: request.uuid,
            from_epoch: request.from_epoch,
            to_epoch: request.to_epoch,
            block_count: request.block_count,
            words: Words::default(),
        })
    }

    fn ioctl<T>(&self, number: u32, request: &mut T) -> io::Result<()> {
        // SAFETY: the descriptor is open for the call; `number` encodes the size
        // of T, which the module reads and writes at this address and no further.
        // Lists that the request points to belong to the caller's borrow and
        // outlive the call, which does not keep them.
        let result = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::c_ulong::from(number),
                std::ptr::from_mut(request),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn count(length: usize, what: &str) -> Result<u32> {
    u32::try_from(length).map_err(|_| anyhow!("{length} {what} are too many"))
}

/// The module's own words where it has given any.
fn explain(result: io::Result<()>, reason: &[core::ffi::c_char]) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    let reason = abi::reason(reason);
    if reason.is_empty() {
        Err(error.into())
    } else {
        Err(anyhow!(error).context(reason))
    }
}

/// Whether the module gave up because writes would have been held for too long.
pub fn is_timed_out(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Whether the module refused because something is in use.
pub fn is_busy(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
}
