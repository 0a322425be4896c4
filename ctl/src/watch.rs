//! `watch`: a process that writes into the record of a series that its tracking is lost.
//!
//! The module writes that into the COW file. It cannot where the COW file's disk does not answer, and a
//! machine that is reset then takes the series up again, as if nothing had been missed. The record lies on
//! another disk, as a rule, and only a process can write to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::info::{self, Device, Report};
use crate::series::Records;
use crate::{names, out, reload};

/// Between two looks at the module's report. A write that waits for a COW file which does not answer waits far longer.
const LOOK: Duration = Duration::from_millis(250);

/// `cowbirdctl watch`; returns only when it cannot go on.
pub fn command(folder: &Path) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut complained = BTreeSet::new();
    out::line(format_args!("watching the series in {}", folder.display()));
    loop {
        // Without the module there is nothing that could be lost; it may be loaded yet.
        if let Ok(report) = info::read() {
            look(&report, folder, Records::read, &mut told, &mut complained)?;
        }
        thread::sleep(LOOK);
    }
}

/// Changes were tracked, and are not any more.
fn is_lost(device: &Device) -> bool {
    device.error != 0 && !device.tracks
}

/// Tells the records of series that are lost and were not told yet. One that cannot be written is tried again each time, and
/// complained of once.
fn look(
    report: &Report,
    folder: &Path,
    read: impl FnOnce(&Path) -> Result<Records>,
    told: &mut BTreeSet<String>,
    complained: &mut BTreeSet<String>,
) -> Result<()> {
    let lost: Vec<&Device> = report
        .devices()
        .filter(|device| is_lost(device) && !told.contains(&device.uuid))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let records = read(folder)?;
    for device in lost {
        let series = records.series.iter().find(|it| it.series == device.uuid);
        let Some(series) = series else {
            // Without a record no boot takes it up.
            told.insert(device.uuid.clone());
            continue;
        };
        match reload::remember_untracked(series, folder) {
            Ok(()) => {
                told.insert(device.uuid.clone());
                out::line(format_args!(
                    "minor {}: the record says that tracking is lost",
                    device.minor
                ));
            }
            Err(error) if complained.insert(device.uuid.clone()) => out::complain(format_args!(
                "minor {}: tracking of {} is lost, and its record cannot say so yet: {error:#}",
                device.minor,
                names::shown(&device.block_device)
            )),
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Series;

    fn report(devices: &[(u32, &str, i32, bool)]) -> Report {
        let devices: Vec<String> = devices
            .iter()
            .map(|(minor, uuid, error, tracks)| {
                format!(
                    r#"{{"minor": {minor}, "cow_file": "/c", "cow_inode": 1, "block_device": "/dev/a", "seq_id": 1,
                        "uuid": "{uuid}", "error": {error}, "error_text": "", "origin_device": "8:1", "cow_device": "8:2",
                        "cow_sector": 8, "cow_is_pinned": true, "tracks": {tracks}, "changes_from_epoch": 0,
                        "state_name": "", "origin_sectors": 8, "cow_slots": 8, "cow_slots_used": 1,
                        "preserved_blocks": 0, "memory_blocks": 0, "max_cache": 1}}"#
                )
            })
            .collect();
        let text = format!(r#"{{"version": "0", "devices": [{}]}}"#, devices.join(", "));
        Report::parse(text.as_bytes()).unwrap()
    }

    fn write_record(folder: &Path, uuid: &str, minor: u32) {
        let text = format!(
            r#"{{"series": "{uuid}", "minor": {minor}, "origin": "/dev/a", "cow_device": "/dev/b", "cow_sector": 8,
                "cow_file": "/c", "cache_mb": 1}}"#
        );
        let series = Series::parse(text.as_bytes()).unwrap();
        series.write(folder).unwrap();
    }

    /// Goal: the record of a series that is lost says so, once, and no other record does.
    #[test]
    fn only_what_is_lost_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        ["aa", "bb", "cc"]
            .iter()
            .zip(0..)
            .for_each(|(uuid, minor)| write_record(folder, uuid, minor));
        // One goes on, one has lost only its snapshot, one its tracking, and one has no record.
        let report = report(&[
            (0, "aa", 0, true),
            (1, "bb", -28, true),
            (2, "cc", -5, false),
            (3, "dd", -5, false),
        ]);
        let (mut told, mut complained) = (BTreeSet::new(), BTreeSet::new());
        look(&report, folder, Records::read, &mut told, &mut complained).unwrap();
        let boot = info::hex(&reload::boot_id().unwrap());
        let untracked: Vec<Option<String>> = Records::read(folder)
            .unwrap()
            .series
            .into_iter()
            .map(|series| series.untracked_in_boot)
            .collect();
        assert_eq!(untracked, [None, None, Some(boot)]);
        assert_eq!(told, BTreeSet::from(["cc", "dd"].map(str::to_owned)));
        assert!(complained.is_empty());
    }

    /// Goal: what cannot be written is tried again, and complained of once.
    #[test]
    fn a_record_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        write_record(dir.path(), "aa", 1);
        let lost = report(&[(1, "aa", -5, false)]);
        let (mut told, mut complained) = (BTreeSet::new(), BTreeSet::new());
        let read = |_: &Path| Records::read(dir.path());
        for _ in 0..2 {
            // Nobody makes a folder there.
            let nowhere = Path::new("/proc/cowbird-none");
            look(&lost, nowhere, read, &mut told, &mut complained).unwrap();
        }
        assert!(told.is_empty());
        assert_eq!(complained.len(), 1);
        look(&lost, dir.path(), read, &mut told, &mut complained).unwrap();
        assert_eq!(told.len(), 1);
    }
}
