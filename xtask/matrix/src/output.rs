//! The output folder: whether it can be written, and `results.json` in it.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cowbird_model::RunResults;

use crate::judge::Judgement;
use crate::report;

/// The results of a run from the text of their file, with the names that its cases have now.
///
/// # Errors
/// When the text is something else.
pub fn results_of(text: &str) -> serde_json::Result<RunResults> {
    let mut results: RunResults = serde_json::from_str(text)?;
    for cell in &mut results.cells {
        cell.case = cowbird_cases::former::current(&cell.case).to_owned();
    }
    Ok(results)
}

/// Name of the file with the results.
pub const RESULTS: &str = "results.json";

/// Results for CI engines.
const JUNIT: &str = "junit.xml";

/// Results for people.
const HTML: &str = "report.html";

/// Files of a caught mutant's bundle that are larger go.
const KEPT_FILE_BYTES: u64 = 8 << 20;

/// Held by the run that writes to the folder; the system releases it however the run ends.
const LOCK: &str = ".lock";

/// How the folders of running cells begin, and how the file beside each ends by which a later run knows that it is one.
const RUNNING: &str = "running-";
const MARK: &str = "cowbird-cells";

/// A folder for what running cells need; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    // In this order: the mark goes last.
    folder: tempfile::TempDir,
    _mark: tempfile::TempPath,
}

impl Scratch {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The folder of one run, which no other run can use meanwhile.
#[derive(Clone, Debug)]
pub struct OutDir {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl OutDir {
    /// Creates the folder where it is missing, and proves that it can be written.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir)
            .with_context(|| format!("cannot use the output folder {}", dir.display()))?;
        let unusable = || format!("cannot write to the output folder {}", dir.display());
        std::fs::create_dir_all(&dir).with_context(unusable)?;
        tempfile::tempfile_in(&dir).with_context(unusable)?;
        let lock = File::create(dir.join(LOCK)).with_context(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir,
                _lock: Arc::new(lock),
            }),
            Err(TryLockError::WouldBlock) => bail!(
                "another run writes to {}; wait for it or choose another folder with --out",
                dir.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(unusable),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the evidence of a cell goes.
    pub fn bundle(&self, name: &str) -> PathBuf {
        self.dir.join("bundles").join(name)
    }

    /// A folder for what running cells need; removed when dropped. What killed runs left of theirs
    /// goes first: it is 500 MB each, and no other run can be using it.
    pub fn scratch(&self) -> Result<Scratch> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries {
            let named = entry.file_name().to_string_lossy().starts_with(RUNNING);
            // Somebody's own folder may have such a name.
            let mark = entry.path().with_extension(MARK);
            if named && mark.is_file() {
                // What cannot be removed only costs space, and keeps its mark.
                if std::fs::remove_dir_all(entry.path()).is_ok() {
                    let _ = std::fs::remove_file(mark);
                }
            }
        }
        let scratch = tempfile::Builder::new()
            .prefix(RUNNING)
            .tempdir_in(&self.dir)
            .and_then(|folder| {
                let mark = folder.path().with_extension(MARK);
                File::create(&mark)?;
                let mark = tempfile::TempPath::try_from_path(mark)?;
                Ok(Scratch {
                    folder,
                    _mark: mark,
                })
            });
        scratch.with_context(|| format!("cannot create a folder in {}", self.dir.display()))
    }

    /// Removes the reports of an earlier run, so that none of them stands beside the results of this one if it does not end.
    pub fn remove_reports(&self) -> Result<()> {
        for name in [JUNIT, HTML] {
            let path = self.dir.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the results in place, whole or not at all.
    pub fn write_results(&self, results: &RunResults) -> Result<()> {
        let path = self.dir.join(RESULTS);
        replace(&path, to_json(results)?.as_bytes())
    }
}

impl OutDir {
    /// Puts the reports of an ended run beside its results.
    pub fn write_reports(&self, results: &RunResults, judgement: &Judgement) -> Result<()> {
        let files = [
            (JUNIT, report::junit(results, judgement)?),
            (HTML, report::html(results, judgement)),
        ];
        for (name, text) in files {
            replace(&self.dir.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

/// Puts a file in place, on stable storage and whole or not at all: a run may be killed, and a disk full, at any moment.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Removes the large files of the bundle of a caught mutant: the disks and the witness of what was
/// expected are 300 MB of a cell that is as it should be. Report, journal, log and plan stay, so that
/// it can be read and replayed. What cannot be removed only costs space.
pub fn prune_bundle(bundle: &Path) {
    let Ok(entries) = std::fs::read_dir(bundle) else {
        return;
    };
    for entry in entries.flatten() {
        let large = |meta: std::fs::Metadata| meta.is_file() && meta.len() > KEPT_FILE_BYTES;
        if entry.metadata().is_ok_and(large) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The text of `results.json`.
pub fn to_json(results: &impl serde::Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(results).context("results do not fit JSON")?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;
    use cowbird_model::Verdict;

    /// Goal: whoever reads a file while it is replaced reads the one or the other, and others may read both. Method: a reader that
    /// has the former open.
    #[test]
    fn a_file_is_replaced_whole() {
        use std::io::Read;
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("file");
        replace(&path, b"the former, which is longer").expect("it can be written");
        let mut former = File::open(&path).expect("it is there");
        replace(&path, b"the latter").expect("it can be replaced");
        let mut text = String::new();
        former.read_to_string(&mut text).expect("it is open");
        assert_eq!(text, "the former, which is longer");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"the latter");
        assert_eq!(
            std::fs::read_dir(folder.path())
                .expect("it is there")
                .count(),
            1
        );
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").expect("it can be written");
        let mode = |path: &Path| {
            std::fs::metadata(path)
                .expect("it is there")
                .permissions()
                .mode()
        };
        assert_eq!(mode(&path), mode(&plain), "as the user's other files");
        assert!(replace(&folder.path().join("gone/file"), b"").is_err());
    }

    /// Goal: the file has what its readers rely on, under the names that they rely on.
    #[test]
    fn the_schema_of_results() {
        let mut caught = result(
            "trixie-6.12-cloud",
            "raw",
            Some("no-revalidate"),
            Verdict::Mismatch,
        );
        caught.phases.truncate(1);
        let results = RunResults {
            cells_expected: 2,
            seed: 42,
            shard: Some("1/3".into()),
            plan: Some("3b2c".into()),
            cells: vec![
                result("bookworm-6.1-cloud", "raw", None, Verdict::Pass),
                caught,
            ],
        };
        let dir = tempfile::tempdir().expect("a folder for the test");
        let out = OutDir::open(&dir.path().join("deep/er")).expect("it can be made");
        for name in [JUNIT, HTML] {
            std::fs::write(out.path().join(name), "of an earlier run").expect("it can be written");
        }
        out.remove_reports().expect("they can be removed");
        out.remove_reports().expect("there are none");
        assert!(
            ![JUNIT, HTML]
                .iter()
                .any(|name| out.path().join(name).exists())
        );
        out.write_results(&results).expect("it can be written");
        let text = std::fs::read_to_string(out.path().join(RESULTS)).expect("it is there");
        insta::assert_snapshot!(text);
        let read = results_of(&text).expect("it can be read back");
        assert_eq!(read, results);
        for (first, now) in cowbird_cases::former::renamed() {
            let text = text.replace("\"raw\"", &format!("\"{first}\""));
            let read = results_of(&text).expect("it can be read back");
            assert!(read.cells.iter().all(|cell| cell.case == now));
        }
    }

    /// Goal: two runs never share a folder, and what a killed run left goes, and nothing else. Method: a second open
    /// while the first lives, and again afterwards.
    #[test]
    fn a_folder_is_of_one_run_at_a_time() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let first = OutDir::open(dir.path()).expect("nobody uses it");
        let killed = first.scratch().expect("it can be made");
        let killed = std::mem::ManuallyDrop::new(killed).path().to_owned();
        let own = dir.path().join("running-notes");
        std::fs::create_dir(&own).expect("it can be made");
        let scratch = first.scratch().expect("it can be made");
        assert!(scratch.path().exists());
        assert!(!killed.exists() && !killed.with_extension(MARK).exists());
        assert!(own.exists(), "a folder that no run has made stays");
        let error = OutDir::open(dir.path()).expect_err("the first run still uses it");
        assert!(
            error.to_string().contains("another run writes to"),
            "{error}"
        );
        drop(first);
        // Another test may be starting a program at this moment: its child has the lock until it executes.
        let freed = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            OutDir::open(dir.path()).is_ok()
        });
        assert!(freed, "the first run has ended");
    }

    #[test]
    fn pruning_keeps_what_can_be_read() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        std::fs::write(dir.path().join("plan.json"), "{}").expect("it can be written");
        let disk = std::fs::File::create(dir.path().join("origin.raw")).expect("it can be made");
        disk.set_len(KEPT_FILE_BYTES + 1).expect("it is sparse");
        prune_bundle(dir.path());
        assert!(dir.path().join("plan.json").exists());
        assert!(!dir.path().join("origin.raw").exists());
    }

    #[test]
    fn an_unusable_folder_is_refused() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("it can be written");
        let error = OutDir::open(&file.join("out")).expect_err("a file has no folders");
        let text = format!("{error:#}");
        assert!(
            text.starts_with("cannot write to the output folder"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }
}
