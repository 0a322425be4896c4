//! `watch`: a process that writes into the record of a series that its tracking is lost.
//!
//! The module writes that into the COW file. It cannot where the COW file's disk does not answer, and a
//! machine that is reset then takes the series up again, as if nothing had been missed. The record lies on
//! another disk, as a rule, and only a process can write to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result};

use crate::info::{self, Device, Report};
use crate::remember;
use crate::series::{Records, Series};
use crate::{names, out};

/// Between two looks at the module's report. A write that waits for a COW file which does not answer waits far longer.
const LOOK: Duration = Duration::from_millis(250);

/// `cowbirdctl watch`; never returns by itself.
pub fn command(folder: &Path) -> Result<()> {
    let mut said = Said::default();
    out::line(format_args!("watching the series in {}", folder.display()));
    loop {
        match info::read() {
            Ok(report) => {
                let tell = |series: &Series, device: &Device| {
                    remember::untracked(series, remember::origin_of_device(device)?, folder)
                };
                look(&report, || Records::read(folder), tell, &mut said);
            }
            // Without the module there is nothing that could be lost; it may be loaded yet.
            Err(_) if !info::is_there() => {}
            Err(error) => said.once("cannot use the module's report", &error),
        }
        thread::sleep(LOOK);
    }
}

/// What was complained of, so that it is not said four times a second.
#[derive(Default)]
struct Said(BTreeSet<String>);

impl Said {
    fn once(&mut self, what: &str, error: &Error) {
        let text = format!("{what}: {error:#}");
        if !self.0.contains(&text) {
            out::complain(format_args!("{text}"));
            self.0.insert(text);
        }
    }
}

/// Changes were tracked, and are not any more.
fn is_lost(device: &Device) -> bool {
    device.error != 0 && !device.tracks
}

/// Has the records of series that are lost say so. One that cannot be written is tried again each time.
fn look(
    report: &Report,
    read: impl FnOnce() -> Result<Records>,
    tell: impl Fn(&Series, &Device) -> Result<bool>,
    said: &mut Said,
) {
    for complaint in report.complaints() {
        said.once("cannot use the module's report", &Error::msg(complaint));
    }
    let lost: Vec<&Device> = report.devices().filter(|device| is_lost(device)).collect();
    if lost.is_empty() {
        return;
    }
    let records = match read() {
        Ok(records) => records,
        Err(error) => return said.once("cannot use the records", &error),
    };
    for bad in &records.bad {
        said.once(&names::shown(&bad.path).to_string(), &bad.error);
    }
    for device in lost {
        // Without a record no boot takes it up.
        let Some(series) = records.series.iter().find(|it| it.series == device.uuid) else {
            continue;
        };
        if series.untracked.is_some() {
            continue;
        }
        match tell(series, device) {
            Ok(true) => out::line(format_args!(
                "minor {}: the record says that tracking is lost",
                device.minor
            )),
            Ok(false) => {}
            Err(error) => said.once(
                &format!(
                    "minor {}: tracking of {} is lost, and its record cannot say so yet",
                    device.minor,
                    names::shown(&device.block_device)
                ),
                &error,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

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

    fn records(of: &[&str]) -> Records {
        let series = of.iter().map(|uuid| {
            let text = format!(
                r#"{{"series": "{uuid}", "minor": 1, "origin": "/dev/a", "cow_device": "/dev/b", "cow_sector": 8,
                    "cow_file": "/c", "cache_mb": 1}}"#
            );
            Series::parse(text.as_bytes()).unwrap()
        });
        Records {
            series: series.collect(),
            bad: Vec::new(),
        }
    }

    /// Goal: the record of a series that is lost says so, and no other record does; what cannot be written is tried
    /// again, and complained of once.
    #[test]
    fn only_what_is_lost_is_told() {
        // One goes on, one has lost only its snapshot, one its tracking, and one has no record.
        let report = report(&[
            (0, "aa", 0, true),
            (1, "bb", -28, true),
            (2, "cc", -5, false),
            (3, "dd", -5, false),
        ]);
        let told = RefCell::new(Vec::new());
        let mut said = Said::default();
        let mut look = |fails: bool| {
            let tell = |series: &Series, _: &Device| {
                told.borrow_mut().push(series.series.clone());
                if fails { bail!("read-only") } else { Ok(true) }
            };
            look(
                &report,
                || Ok(records(&["aa", "bb", "cc"])),
                tell,
                &mut said,
            );
            said.0.len()
        };
        assert_eq!(look(true), 1);
        assert_eq!(look(true), 1);
        assert_eq!(look(false), 1);
        assert_eq!(*told.borrow(), ["cc", "cc", "cc"]);
    }
}
