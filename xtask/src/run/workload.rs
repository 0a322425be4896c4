//! `--workload`: from a file of any known kind to what the cells replay.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_checks::recorded::WorkloadPlan;
use cowbird_matrix::programs::GuestPrograms;
use cowbird_matrix::spec::Recording;
use cowbird_outside::foreign::{self, Input};
use cowbird_workload::{
    ImportError, Instant, MAX_FILE_BYTES, Source, Timing, Workload, import, recognise,
};

use crate::ui::Ui;

/// Name of the workload in the scratch folder of a run.
const FILE: &str = "workload.cbw";

/// `cowbird-trace` ends so when it has done its work on a trace that is not complete.
const TRACER_INCOMPLETE: i32 = 3;

/// Where a snapshot is tried if nobody says where, percent: a workload too short for this is too short for
/// all that the seed may choose.
const PROBE_PERCENT: u32 = 25;

/// What is replayed, and how.
#[derive(Clone, Debug, Default, Args)]
pub struct WorkloadArgs {
    /// Replay what was recorded on some device, instead of a case: a trace or workload of cowbird-trace,
    /// the text of blkparse, or an iolog of fio
    #[arg(long, value_name = "FILE", conflicts_with = "case")]
    pub workload: Option<PathBuf>,
    /// How fast the workload is replayed: fast, kept (with the recorded pauses), or scaled:X (with pauses X
    /// times as long)
    #[arg(
        long,
        value_name = "TIMING",
        default_value = "fast",
        requires = "workload"
    )]
    pub timing: Timing,
    /// Take the snapshot after so many percent of the workload's changes; by default the seed decides
    #[arg(long, value_name = "PERCENT", requires = "workload", value_parser = clap::value_parser!(u32).range(1..100))]
    pub snapshot_at: Option<u32>,
}

impl WorkloadArgs {
    /// What is replayed, if anything is.
    pub fn recording(&self) -> Option<Recording> {
        Some(Recording {
            file: self.workload.clone()?,
            timing: self.timing,
            snapshot_at_percent: self.snapshot_at,
        })
    }
}

/// A workload that was asked for and is known to be of a kind that can be read.
#[derive(Clone, Debug)]
pub struct Wanted {
    path: PathBuf,
    input: Arc<Input>,
    /// None for a trace: the tracer reads it, when it is built.
    workload: Option<Workload>,
    timing: Timing,
    snapshot_at_percent: Option<u32>,
}

impl Wanted {
    /// Reads the file as far as possible before anything is built.
    pub fn check(recording: &Recording) -> Result<Self> {
        let path = &recording.file;
        let input = Input::open(path, |start| recognise(start).is_some())?;
        let workload = match recognise(&input.start()?) {
            Some(Source::Trace) => None,
            Some(Source::Workload | Source::Blkparse | Source::Iolog) => {
                let file = foreign::read_all(input.rewound()?, MAX_FILE_BYTES)
                    .with_context(|| format!("cannot read the workload {}", path.display()))?;
                Some(import(&file))
            }
            None => Some(Err(ImportError::Unknown)),
        };
        let wanted = Self {
            workload: workload
                .transpose()
                .with_context(|| path.display().to_string())?,
            path: path.clone(),
            input: Arc::new(input),
            timing: recording.timing,
            snapshot_at_percent: recording.snapshot_at_percent,
        };
        if let Some(workload) = &wanted.workload {
            wanted.probe(workload)?;
        }
        Ok(wanted)
    }

    fn probe(&self, workload: &Workload) -> Result<()> {
        let percent = self.snapshot_at_percent.unwrap_or(PROBE_PERCENT);
        Instant::after_percent(workload, percent)
            .map(|_| ())
            .with_context(|| self.path.display().to_string())
    }

    /// Puts the workload into the scratch folder of a run, and warns of what may be missing from it.
    pub fn stage(&self, guest: &GuestPrograms, scratch: &Path, ui: &Ui) -> Result<WorkloadPlan> {
        let workload = match &self.workload {
            Some(workload) => workload.clone(),
            None => self.of_trace(&guest.tracer)?,
        };
        self.probe(&workload)?;
        for doubt in workload.doubts() {
            let path = self.path.display();
            ui.line(&format!(
                "warning: {path} may lack operations: {doubt}; the verdicts count, but they are of what is there"
            ));
        }
        let file = scratch.join(FILE);
        std::fs::write(&file, workload.encode())
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(WorkloadPlan {
            file,
            timing: self.timing,
            snapshot_at_percent: self.snapshot_at_percent,
        })
    }

    /// Lets the tracer make a workload of the trace: its library is not linked here, because it takes a
    /// compiler for BPF to build, which this program may have to install first.
    fn of_trace(&self, tracer: &Path) -> Result<Workload> {
        let path = self.path.display();
        let output = Command::new(tracer)
            // What came through a pipe is not there any more under its own name.
            .args(["export", "--format", "workload", "/dev/stdin"])
            .stdin(self.input.rewound()?.try_clone()?)
            .output()
            .with_context(|| format!("cannot run {}", tracer.display()))?;
        if !output.status.success() && output.status.code() != Some(TRACER_INCOMPLETE) {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{path}: {}; with `cowbird-trace export --format workload {path} > FILE` you can make \
                 the workload yourself",
                said.trim()
            );
        }
        Workload::decode(&output.stdout).with_context(|| path.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOLOG: &str = "fio version 2 iolog\nf add\nf write 0 4096\nf write 4096 4096\nf write 0 4096\n\
                         f write 0 4096\nf close\n";

    fn check(content: &[u8], snapshot_at_percent: Option<u32>) -> Result<Wanted, String> {
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        std::fs::write(file.path(), content).expect("it can be written");
        Wanted::check(&Recording {
            file: file.path().to_owned(),
            timing: Timing::Fast,
            snapshot_at_percent,
        })
        .map_err(|error| format!("{error:#}"))
    }

    /// Goal: what cannot become a workload is refused before anything is built, with the reason.
    #[test]
    fn files_are_checked_first() {
        let good = check(IOLOG.as_bytes(), None).expect("it is one");
        assert_eq!(
            good.workload.map(|workload| workload.operations().len()),
            Some(4)
        );
        assert!(check(b"CBTRACE\n", None).is_ok_and(|trace| trace.workload.is_none()));
        let cases: [(&[u8], Option<u32>, &str); 4] = [
            (b"PNG", None, "nothing that a workload can be made of"),
            (b"CBWORKL\n", None, "cut off"),
            (&IOLOG.as_bytes()[..40], None, "inside of line"),
            (IOLOG.as_bytes(), Some(10), "record for longer"),
        ];
        for (content, at, reason) in cases {
            let error = check(content, at).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }

    /// Goal: what a cell replays is what was read, and what the tracer cannot read is told with its words.
    /// Method: programs that behave as the tracer does.
    #[test]
    fn traces_are_read_by_the_tracer() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let workload = import(IOLOG.as_bytes()).expect("it is one");
        let made = folder.path().join("made.cbw");
        std::fs::write(&made, workload.encode()).expect("it can be written");
        let trace = check(b"CBTRACE\n", None).expect("it is a trace");
        let tracer = |script: String| {
            let path = folder.path().join("tracer.sh");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("it can be changed");
            path
        };
        for code in [0, TRACER_INCOMPLETE] {
            let script = format!("cat {}; exit {code}", made.display());
            let read = trace
                .of_trace(&tracer(script))
                .map_err(|error| error.to_string());
            assert_eq!(read.as_ref(), Ok(&workload));
        }
        let failing = tracer("echo the trace has bios of sda and sdb >&2; exit 1".to_owned());
        let error = trace.of_trace(&failing).expect_err("it failed").to_string();
        assert!(
            error.contains("sda and sdb") && error.contains("export"),
            "{error}"
        );
    }
}
