//! What is done with all recorded series: one that cannot go on keeps no other from it, each failure is named, and the exit code
//! counts all of them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use crate::info::{Device, Report};
use crate::module::Module;
use crate::series::{Records, Series};
use crate::verify::{self, Verified};
use crate::{names, out, reload, remember};

/// Some of what was to be done was done, and some failed.
#[derive(Debug)]
pub struct Partly {
    /// What failed, for people.
    said: String,
}

impl fmt::Display for Partly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Partly {}

/// What is known of each series, by its UUID or, where that is not known, by its number.
#[derive(Default)]
struct Tally {
    well: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// What failed besides, for people.
    said: Vec<String>,
}

impl Tally {
    fn well(&mut self, series: &str) {
        self.well.insert(series.to_owned());
    }

    /// Whatever else is said of it.
    fn failed(&mut self, series: &str, minor: u32, why: impl fmt::Display) {
        out::complain(format_args!("minor {minor}: {why}"));
        self.failed.insert(series.to_owned());
    }

    /// Names the files that are no records.
    fn bad(&mut self, records: &Records, folder: &Path) {
        records.complain();
        if !records.bad.is_empty() {
            self.said.push(format!(
                "{} files in {} are not records that can be used",
                records.bad.len(),
                folder.display()
            ));
        }
    }

    fn verdict(mut self, failed: &str) -> Result<()> {
        if !self.failed.is_empty() {
            let count = self.failed.len();
            let said = format!("{count} series {failed}; see above what each needs");
            self.said.insert(0, said);
        }
        let said = self.said.join("; ");
        match self.well.difference(&self.failed).next() {
            _ if said.is_empty() => Ok(()),
            Some(_) => Err(Partly { said }.into()),
            None => bail!(said),
        }
    }
}

fn has(report: &Report, series: &Series) -> bool {
    report.devices().any(|it| it.uuid == series.series)
}

/// `cowbirdctl reload --all`: every recorded series that is not there yet. One that cannot go on, or a file that is no
/// record, does not keep the others from it.
pub fn reload(folder: &Path, module: &impl Module) -> Result<()> {
    let report = module.report()?;
    let records = Records::read(folder)?;
    let mut tally = Tally::default();
    tally.bad(&records, folder);
    for series in &records.series {
        if has(&report, series) {
            match remember::settle(series, folder, module) {
                Ok(()) => tally.well(&series.series),
                Err(error) => tally.failed(&series.series, series.minor, format_args!("{error:#}")),
            }
            continue;
        }
        // In an initramfs most devices come later, and with them their turn.
        let devices = [&series.origin, &series.cow_device];
        if let Some(missing) = devices.into_iter().find(|device| !device.exists()) {
            out::line(format_args!(
                "minor {}: {} is not there yet",
                series.minor,
                names::shown(missing)
            ));
            continue;
        }
        match reload::reload(series, true, folder, module) {
            Ok(state) => {
                tally.well(&series.series);
                let what = if reload::is_snapshot(state) {
                    "snapshot goes on"
                } else {
                    "change tracking continues"
                };
                out::line(format_args!("minor {}: {what}", series.minor));
            }
            Err(error) => {
                tally.failed(&series.series, series.minor, format_args!("{error:#}"));
                remember::untracked_if_absent(series, folder, module);
            }
        }
    }
    tally.verdict("failed")
}

/// `cowbirdctl verify --all`: whatever can be reached. A COW file whose filesystem is not mounted
/// yet is left for later; one that is missing from a filesystem that is mounted is not. Of each series that is not
/// there although its origin is, the record says from then on that this boot was missed.
pub fn verify(folder: &Path, module: &impl Module) -> Result<()> {
    let records = Records::read(folder)?;
    let mut tally = Tally::default();
    tally.bad(&records, folder);
    let report = match module.report() {
        Ok(report) => report,
        Err(error) => {
            // Without the module nothing is tracked.
            for series in &records.series {
                remember::untracked_if_absent(series, folder, module);
            }
            return Err(error);
        }
    };
    let mounted = verify::mounted()?;
    for device in report.devices() {
        match verify_one(device, |device| {
            verify::where_mounted(device, &mounted, module)
        }) {
            Ok(Verified::Later) => {}
            Ok(Verified::Now) => tally.well(&device.uuid),
            Err(error) => tally.failed(&device.uuid, device.minor, format_args!("{error:#}")),
        }
    }
    tally.said.extend(report.complaints());
    for device in report.devices().filter(|device| device.tracks) {
        if !records.series.iter().any(|it| it.series == device.uuid) {
            out::complain(format_args!(
                "minor {}: {} has no record of this series; if an initramfs with an older record took it up, destroy it and \
                 take a full backup",
                device.minor,
                folder.display()
            ));
        }
    }
    for series in &records.series {
        if !has(&report, series) {
            if remember::untracked_if_absent(series, folder, module) {
                let why = format!(
                    "nothing tracks {}; run reload --all before it is written to, or take a full backup",
                    names::shown(&series.origin)
                );
                tally.failed(&series.series, series.minor, why);
            }
        } else if let Err(error) = remember::settle(series, folder, module) {
            tally.failed(&series.series, series.minor, format_args!("{error:#}"));
        }
    }
    tally.verdict("cannot be trusted")
}

/// One that is in use is as well as one that was verified just now.
fn verify_one(
    device: &Device,
    hand_over: impl FnOnce(&Device) -> Result<Verified>,
) -> Result<Verified> {
    if !device.tracks {
        bail!(
            "changes are not tracked any more ({}); destroy it, and take a full backup",
            names::printable(&device.error_text)
        );
    }
    if device.cow_is_pinned {
        return Ok(Verified::Now);
    }
    hand_over(device)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::module::fake::{self, Fake};
    use crate::topology::DeviceNumber;

    fn uuid(minor: u32) -> String {
        format!("{minor:032x}")
    }

    /// A record whose devices are `device`.
    fn record(folder: &Path, minor: u32, device: &str) -> Series {
        let text = format!(
            r#"{{"series": "{}", "minor": {minor}, "origin": "{device}", "cow_device": "{device}", "cow_sector": 8,
                "cow_file": "/none/cow", "cache_mb": 1}}"#,
            uuid(minor)
        );
        let series = Series::parse(text.as_bytes()).unwrap();
        series.write(folder).unwrap();
        series
    }

    /// What an exit code is made of.
    fn exit(result: Result<()>) -> (i32, String) {
        match result {
            Ok(()) => (0, String::new()),
            Err(error) => match error.downcast_ref::<Partly>() {
                Some(partly) => (3, partly.to_string()),
                None => (1, error.to_string()),
            },
        }
    }

    /// Goal: all recorded series are tried, and all count. Method: one that the module has, one whose devices come later, one whose
    /// origin is none, and a file that is no record.
    #[test]
    fn of_all_that_are_recorded_each_counts() {
        let dir = tempfile::tempdir().unwrap();
        let module = Fake::with(vec![fake::device(1, &uuid(1))]);
        let reload = || exit(reload(dir.path(), &module));
        assert_eq!(reload().0, 0, "nothing is recorded");
        record(dir.path(), 2, "/dev/none");
        assert_eq!(reload().0, 0, "it comes later");
        let none = record(dir.path(), 3, "/dev/null");
        let (code, said) = reload();
        assert_eq!(code, 1, "none is tracked");
        assert!(said.starts_with("1 series failed"), "{said}");
        record(dir.path(), 1, "/dev/none");
        assert_eq!(reload().0, 3);
        Series::forget(dir.path(), &none.series).unwrap();
        assert_eq!(reload().0, 0);
        fs::write(dir.path().join("bad.json"), "{}").unwrap();
        let (code, said) = reload();
        assert_eq!(code, 3);
        assert!(said.contains("1 files in"), "{said}");
        assert!(module.asked.borrow().is_empty());
        assert_eq!(exit(super::reload(dir.path(), &Fake::default())).0, 1);
    }

    /// Goal: what `verify --all` says counts all series: those whose COW files are in use as those that were handed over just now.
    /// Method: one of each, one that is refused, one that has lost its changes, one whose filesystem is not mounted, and a
    /// file that is no record.
    #[test]
    fn whether_all_can_be_trusted_counts_all() {
        let dir = tempfile::tempdir().unwrap();
        let cow_file = dir.path().join("cow");
        fs::write(&cow_file, "").unwrap();
        let on = DeviceNumber::from_raw(fs::metadata(&cow_file).unwrap().dev());
        let loose = |minor| Device {
            cow_file: cow_file.clone(),
            cow_device: on.to_string(),
            cow_is_pinned: false,
            ..fake::device(minor, &uuid(minor))
        };
        let in_use = || fake::device(1, &uuid(1));
        let later = || Device {
            cow_is_pinned: false,
            ..fake::device(5, &uuid(5))
        };
        let lost = || Device {
            error: -5,
            tracks: false,
            ..fake::device(4, &uuid(4))
        };
        let records = dir.path().join("records");
        let verify = |devices: Vec<Device>| {
            let module = Fake {
                refuses: vec![3],
                ..Fake::with(devices)
            };
            let (code, said) = exit(verify(&records, &module));
            (code, said, module.asked.take())
        };
        assert_eq!(verify(vec![]).0, 0);
        assert_eq!(verify(vec![in_use(), later()]).0, 0);
        let (code, _, asked) = verify(vec![loose(2), in_use()]);
        assert_eq!((code, asked), (0, vec!["verify 2".to_owned()]));
        assert_eq!(verify(vec![loose(3)]).0, 1);
        assert_eq!(verify(vec![loose(3), later()]).0, 1, "of one nobody knows");
        let (code, said, _) = verify(vec![loose(3), lost(), in_use()]);
        assert_eq!(code, 3, "one is in use");
        assert!(said.starts_with("2 series cannot be trusted"), "{said}");
        assert_eq!(verify(vec![lost()]).0, 1);
        fs::create_dir(&records).unwrap();
        fs::write(records.join("bad.json"), "{}").unwrap();
        let (code, said, _) = verify(vec![in_use()]);
        assert_eq!(code, 3);
        assert!(said.contains("1 files in"), "{said}");
        assert_eq!(verify(vec![]).0, 1);
        assert_eq!(exit(super::verify(&records, &Fake::default())).0, 1);
    }

    /// Goal: a record that somebody else wrote has nothing written, removed or asked for that it names. Method: records of which
    /// each has one name that leads elsewhere; all files beside them are looked at before and after both commands.
    #[test]
    fn a_foreign_record_decides_nothing_about_files() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("records");
        let victim = dir.path().join("victim.json");
        fs::create_dir(&records).unwrap();
        fs::write(&victim, "somebody's data").unwrap();
        let number = uuid(1);
        let own = |series: &str, origin: &Path, cow_device: &Path, cow_file: &Path| {
            serde_json::json!({
                "series": series, "minor": 1, "origin": origin, "cow_device": cow_device, "cow_sector": 8,
                "cow_file": cow_file, "cache_mb": 1
            })
            .to_string()
        };
        let none = Path::new("/dev/none");
        let hostile = [
            (number.as_str(), own("../victim", none, none, none)),
            (
                number.as_str(),
                own(victim.to_str().unwrap(), none, none, none),
            ),
            (number.as_str(), own(&number, &victim, &victim, &victim)),
            (
                number.as_str(),
                own(&number, Path::new("/dev/null"), dir.path(), none),
            ),
            (
                number.as_str(),
                own(&number, Path::new("/proc/self/mem"), &victim, &victim),
            ),
            ("no-uuid", own("no-uuid", &victim, &victim, &victim)),
            (
                "\u{1b}[2J",
                own("\u{1b}[2J", Path::new("/dev/\u{1b}[2J"), none, &victim),
            ),
        ];
        for (name, text) in hostile {
            let path = records.join(format!("{name}.json"));
            fs::write(&path, &text).unwrap();
            // Such a COW file as the module has it, by a report that names the victim, too.
            let loose = Device {
                cow_file: victim.clone(),
                cow_is_pinned: false,
                ..fake::device(2, &uuid(2))
            };
            for module in [Fake::with(vec![]), Fake::with(vec![loose])] {
                let results = [reload(&records, &module), super::verify(&records, &module)];
                assert!(
                    results.iter().any(Result::is_err) || text.contains("/dev/"),
                    "{text}"
                );
                assert!(module.asked.borrow().is_empty(), "{text}");
            }
            assert_eq!(fs::read(&victim).unwrap(), b"somebody's data", "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            fs::remove_file(&path).unwrap();
            assert_eq!(fs::read_dir(&records).unwrap().count(), 0, "{text}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{text}");
        }
    }
}
