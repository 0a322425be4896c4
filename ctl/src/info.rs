//! The module's report, `/proc/cowbird-info`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use crate::names;

/// What to say when the report is not what this tool expects.
pub const BAD_REPORT: &str =
    "cannot understand the module's report; install module and tool from one release";

/// The report, as far as this tool needs it.
pub struct Report {
    /// Version of the module.
    pub version: String,
    /// Name of the fault that a test build carries.
    pub mutant: Option<String>,
    /// The snapshots.
    entries: Vec<Entry>,
}

/// What the report has of one snapshot. One that cannot be understood hides no other.
struct Entry {
    minor: Option<u32>,
    device: Result<Device>,
}

/// The report's frame.
#[derive(Deserialize)]
struct Frame {
    version: String,
    mutant: Option<String>,
    devices: Vec<serde_json::Value>,
}

/// One snapshot.
#[derive(Clone, Deserialize)]
pub struct Device {
    /// Number of the snapshot device.
    pub minor: u32,
    /// Name of the COW file.
    #[serde(with = "names::as_text")]
    pub cow_file: PathBuf,
    /// Its inode number.
    pub cow_inode: u64,
    /// Name of the origin.
    #[serde(with = "names::as_text")]
    pub block_device: PathBuf,
    /// Epoch.
    pub seq_id: u64,
    /// Series.
    pub uuid: String,
    /// 0 or a negative errno.
    pub error: i32,
    /// Why the snapshot failed.
    pub error_text: String,
    /// Device number of the origin.
    pub origin_device: String,
    /// Device number of the COW file's filesystem.
    pub cow_device: String,
    /// Where the COW file's first slot lies on it.
    pub cow_sector: u64,
    /// Whether the module holds the COW file.
    pub cow_is_pinned: bool,
    /// Whether changes are tracked.
    pub tracks: bool,
    /// Where changes are known from; 0 when a full backup is needed.
    pub changes_from_epoch: u64,
    /// State in words.
    pub state_name: String,
    /// Size of the origin.
    pub origin_sectors: u64,
    /// Slots of the COW file.
    pub cow_slots: u64,
    /// Of these, in use.
    pub cow_slots_used: u64,
    /// How often the COW file was expanded for this snapshot.
    #[serde(default)]
    pub expansions: u32,
    /// Blocks preserved so far.
    pub preserved_blocks: u64,
    /// Of these, in memory now.
    pub memory_blocks: u64,
    /// Bound of them, bytes.
    pub max_cache: u64,
}

impl Device {
    /// What to do once its snapshot has failed.
    pub fn advice(&self) -> &'static str {
        if self.tracks {
            "change tracking continues; take the next one with transition-to-snapshot"
        } else {
            "a full backup is needed; destroy it and take a new snapshot"
        }
    }
}

impl Report {
    /// From the report's bytes. Those that are not UTF-8, which no module of this release writes, are replaced.
    ///
    /// # Errors
    /// When it is no report. What is wrong with one snapshot of it does not matter here.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let frame: Frame = serde_json::from_str(&text).context(BAD_REPORT)?;
        let entries = frame.devices.into_iter().map(|value| {
            let minor = value.get("minor").and_then(serde_json::Value::as_u64);
            Entry {
                minor: minor.and_then(|minor| minor.try_into().ok()),
                device: serde_json::from_value(value).context(BAD_REPORT),
            }
        });
        Ok(Self {
            version: frame.version,
            mutant: frame.mutant,
            entries: entries.collect(),
        })
    }

    /// A report of these snapshots.
    #[cfg(test)]
    pub fn of(devices: Vec<Device>) -> Self {
        let entries = devices.into_iter().map(|device| Entry {
            minor: Some(device.minor),
            device: Ok(device),
        });
        Self {
            version: String::new(),
            mutant: None,
            entries: entries.collect(),
        }
    }

    /// The snapshots that can be understood.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.entries
            .iter()
            .filter_map(|entry| entry.device.as_ref().ok())
    }

    /// Why a snapshot cannot be understood, if there is one.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        self.entries.iter().filter_map(|entry| {
            let error = entry.device.as_ref().err()?;
            let which = match entry.minor {
                Some(minor) => format!("snapshot {minor}"),
                None => "a snapshot without a number".to_owned(),
            };
            Some(format!("{which}: {error:#}"))
        })
    }

    /// One snapshot.
    ///
    /// # Errors
    /// When it is not there, or cannot be understood.
    pub fn find(self, minor: u32) -> Result<Device> {
        self.entries
            .into_iter()
            .find(|entry| entry.minor == Some(minor))
            .ok_or_else(|| anyhow!("there is no snapshot with minor {minor}"))?
            .device
    }
}

/// The report as the module wrote it.
pub fn read_bytes() -> Result<Vec<u8>> {
    let path = format!("/proc/{}", cowbird_abi::PROC_NAME);
    fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("{path} does not exist; load the module with: modprobe cowbird")
        }
        _ => anyhow!(error).context(format!("cannot read {path}")),
    })
}

/// Whether there is a report, and with it the module.
pub fn is_there() -> bool {
    Path::new("/proc").join(cowbird_abi::PROC_NAME).exists()
}

/// The report.
pub fn read() -> Result<Report> {
    Report::parse(&read_bytes()?)
}

/// One snapshot of the report.
pub fn find(minor: u32) -> Result<Device> {
    read()?.find(minor)
}

/// Bytes as the report writes a UUID.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The report for people.
pub fn render(report: &Report) -> String {
    let mut out = format!("cowbird {}", report.version);
    if let Some(mutant) = &report.mutant {
        let _ = write!(out, " MUTANT {mutant}: for tests only");
    }
    out.push('\n');
    if report.entries.is_empty() {
        out.push_str("no snapshots\n");
    }
    for device in report.devices() {
        let _ = writeln!(out, "\n/dev/cowbird{}  {}", device.minor, device.state_name);
        let _ = writeln!(
            out,
            "  origin     {} ({} MiB)",
            names::shown(&device.block_device),
            device.origin_sectors / 2048
        );
        let _ = writeln!(
            out,
            "  COW file   {} ({} of {} blocks used{})",
            names::shown(&device.cow_file),
            device.cow_slots_used,
            device.cow_slots,
            match device.expansions {
                0 => String::new(),
                1 => ", expanded once".to_owned(),
                times => format!(", expanded {times} times"),
            }
        );
        let _ = writeln!(
            out,
            "  preserved  {} blocks, {} of them in memory (at most {})",
            device.preserved_blocks,
            device.memory_blocks,
            device.max_cache / 4096
        );
        let _ = writeln!(out, "  series     {} epoch {}", device.uuid, device.seq_id);
        let changes = match (device.changes_from_epoch, device.seq_id) {
            (0, 1) => "unknown: first epoch of its series".to_owned(),
            (0, epoch) => format!("unknown: those up to epoch {epoch} were not saved"),
            (from, _) => format!("known since epoch {from}"),
        };
        let _ = writeln!(out, "  changes    {changes}");
        if !device.cow_is_pinned {
            let _ = writeln!(
                out,
                "  UNVERIFIED mount the COW file's filesystem, then: cowbirdctl verify {}",
                device.minor
            );
        }
        if device.error != 0 {
            let _ = writeln!(
                out,
                "  FAILED     {} (error {}); {}",
                names::printable(&device.error_text),
                device.error,
                device.advice()
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str = r#"{"minor": 3,
        "cow_file": "/mnt/.cow", "block_device": "/dev/vda1", "cow_inode": 12,
        "max_cache": 1, "fallocate": 1, "seq_id": 4, "uuid": "00ff", "error": -28, "state": 3,
        "version": 1, "state_name": "failed snapshot", "origin_sectors": 4096,
        "cow_slots": 10, "origin_device": "254:1", "changes_from_epoch": 3, "expansions": 2,
        "cow_slots_used": 10, "preserved_blocks": 9, "memory_blocks": 3, "cow_device": "254:1",
        "cow_sector": 2048, "cow_is_pinned": true, "tracks": true,
        "error_text": "the COW file is full (10 blocks)"}"#;

    fn report(devices: &str) -> Vec<u8> {
        format!(r#"{{"version": "0.1.0", "mutant": null, "devices": [{devices}]}}"#).into_bytes()
    }

    #[test]
    fn shows_a_failed_snapshot_as_failed() {
        let text = render(&Report::parse(&report(SNAPSHOT)).unwrap());
        assert!(text.contains("FAILED     the COW file is full"), "{text}");
        assert!(text.contains("change tracking continues"), "{text}");
        assert!(text.contains("blocks used, expanded 2 times)"), "{text}");
        assert!(!text.contains("UNVERIFIED"), "{text}");
        assert!(text.contains("/dev/cowbird3  failed snapshot"), "{text}");
        let changes = |from: u64, epoch: u64| {
            let snapshot = SNAPSHOT
                .replace(
                    r#""changes_from_epoch": 3"#,
                    &format!(r#""changes_from_epoch": {from}"#),
                )
                .replace(r#""seq_id": 4"#, &format!(r#""seq_id": {epoch}"#));
            render(&Report::parse(&report(&snapshot)).unwrap())
        };
        assert!(changes(0, 1).contains("unknown: first epoch of its series"));
        assert!(changes(0, 4).contains("unknown: those up to epoch 4 were not saved"));
        assert!(changes(3, 4).contains("known since epoch 3"));
    }

    /// Goal: a snapshot whose entry makes no sense keeps nobody from the others, and is not passed over in silence. Method:
    /// entries of another release, and bytes that are not UTF-8, as modules up to 0.1.0 wrote them.
    #[test]
    fn one_bad_entry_hides_no_other() {
        let devices = format!(r#"{{"minor": 1, "new": true}}, {SNAPSHOT}, {{"minor": "x"}}"#);
        let read = || Report::parse(&report(&devices)).unwrap();
        assert_eq!(read().find(3).unwrap().uuid, "00ff");
        assert_eq!(read().devices().count(), 1);
        let complaints: Vec<String> = read().complaints().collect();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].starts_with("snapshot 1: "), "{complaints:?}");
        assert!(read().find(1).is_err());
        assert!(read().find(2).is_err());

        let mut bytes = report(SNAPSHOT);
        let at = bytes.windows(4).position(|part| part == b".cow").unwrap();
        bytes[at] = 0xff;
        assert_eq!(Report::parse(&bytes).unwrap().find(3).unwrap().minor, 3);
    }

    #[test]
    fn names_are_what_they_were_and_shown_without_control_characters() {
        let devices = SNAPSHOT.replace("/mnt/.cow", r"/mnt/\\377/\u001b[2J\\134");
        let report = || Report::parse(&report(&devices)).unwrap();
        let device = report().find(3).unwrap();
        let name = std::os::unix::ffi::OsStrExt::as_bytes(device.cow_file.as_os_str());
        assert_eq!(name, b"/mnt/\xff/\x1b[2J\\");
        assert!(render(&report()).contains(r"/mnt/\377/\033[2J\134"));
    }
}
