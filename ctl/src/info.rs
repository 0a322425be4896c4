//! The module's report, `/proc/cowbird-info`.

use std::fmt::Write as _;
use std::{fs, io};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

/// What to say when the report is not what this tool expects.
pub const BAD_REPORT: &str =
    "cannot understand the module's report; install module and tool from one release";

/// The report, as far as this tool needs it.
#[derive(Deserialize)]
pub struct Report {
    /// Version of the module.
    pub version: String,
    /// Name of the fault that a test build carries.
    pub mutant: Option<String>,
    /// The snapshots.
    pub devices: Vec<Device>,
}

/// One snapshot.
#[derive(Deserialize)]
pub struct Device {
    /// Number of the snapshot device.
    pub minor: u32,
    /// Name of the COW file.
    pub cow_file: String,
    /// Its inode number.
    pub cow_inode: u64,
    /// Name of the origin.
    pub block_device: String,
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
    /// Blocks preserved so far.
    pub preserved_blocks: u64,
    /// Of these, in memory now.
    pub memory_blocks: u64,
    /// Bound of them, bytes.
    pub max_cache: u64,
}

/// The report as the module wrote it.
pub fn read_text() -> Result<String> {
    let path = format!("/proc/{}", cowbird_abi::PROC_NAME);
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("{path} does not exist; load the module with: modprobe cowbird")
        }
        _ => anyhow!(error).context(format!("cannot read {path}")),
    })
}

/// The report.
pub fn read() -> Result<Report> {
    serde_json::from_str(&read_text()?).context(BAD_REPORT)
}

/// One snapshot of the report.
pub fn find(minor: u32) -> Result<Device> {
    read()?
        .devices
        .into_iter()
        .find(|device| device.minor == minor)
        .ok_or_else(|| anyhow!("there is no snapshot with minor {minor}"))
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
    if report.devices.is_empty() {
        out.push_str("no snapshots\n");
    }
    for device in &report.devices {
        let _ = writeln!(out, "\n/dev/cowbird{}  {}", device.minor, device.state_name);
        let _ = writeln!(
            out,
            "  origin     {} ({} MiB)",
            device.block_device,
            device.origin_sectors / 2048
        );
        let _ = writeln!(
            out,
            "  COW file   {} ({} of {} blocks used)",
            device.cow_file, device.cow_slots_used, device.cow_slots
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
            let advice = if device.tracks {
                "changes go on to be tracked; take the next one with transition-to-snapshot"
            } else {
                "a full backup is needed; destroy it and take a new snapshot"
            };
            let _ = writeln!(
                out,
                "  FAILED     {} (error {}); {advice}",
                device.error_text, device.error
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_failed_snapshot_as_failed() {
        let report: Report = serde_json::from_str(
            r#"{"version": "0.1.0", "mutant": null, "devices": [{"minor": 3,
            "cow_file": "/mnt/.cow", "block_device": "/dev/vda1", "cow_inode": 12,
            "max_cache": 1, "fallocate": 1, "seq_id": 4, "uuid": "00ff", "error": -28, "state": 3,
            "version": 1, "state_name": "failed snapshot", "origin_sectors": 4096,
            "cow_slots": 10, "origin_device": "254:1", "changes_from_epoch": 3,
            "cow_slots_used": 10, "preserved_blocks": 9, "memory_blocks": 3, "cow_device": "254:1",
            "cow_sector": 2048, "cow_is_pinned": true, "tracks": true,
            "error_text": "the COW file is full (10 blocks)"}]}"#,
        )
        .unwrap();
        let text = render(&report);
        assert!(text.contains("FAILED     the COW file is full"), "{text}");
        assert!(text.contains("changes go on to be tracked"), "{text}");
        assert!(!text.contains("UNVERIFIED"), "{text}");
        assert!(text.contains("/dev/cowbird3  failed snapshot"), "{text}");
        let mut report = report;
        let mut changes = |from, epoch| {
            report.devices[0].changes_from_epoch = from;
            report.devices[0].seq_id = epoch;
            render(&report)
        };
        assert!(changes(0, 1).contains("unknown: first epoch of its series"));
        assert!(changes(0, 4).contains("unknown: those up to epoch 4 were not saved"));
        assert!(changes(3, 4).contains("known since epoch 3"));
    }
}
