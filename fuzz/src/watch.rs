//! Runs a target in a process of its own, so that the input survives whatever becomes of that: the parser in C traps on
//! undefined behaviour, memory may run out, and a loop may never end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cowbird_host::error::HarnessResult;
use cowbird_host::scratch::Scratch;

use crate::engine::{Budget, Failure, Report};
use crate::target::Target;

/// Longest time in which no input is done.
const STUCK: Duration = Duration::from_secs(10);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// The most that a report has.
const REPORT_BYTES: u64 = 64 << 20;

/// Where memory is a folder.
const MEMORY: &str = "/dev/shm";

/// Bytes in front of the input: the number of those before, and its length.
const NOTE_HEADER: usize = 16;

/// Writes each input to a file before it is run.
#[derive(Debug)]
pub struct Notes {
    file: File,
    bytes: Vec<u8>,
}

impl Notes {
    /// Begins.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            file,
            bytes: Vec::new(),
        })
    }

    /// Notes an input. If that fails, an input that ends the process is lost, and the failure is not.
    pub fn note(&mut self, done: u64, input: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&done.to_le_bytes());
        self.bytes
            .extend_from_slice(&(input.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(input);
        let _ = self.file.write_all_at(&self.bytes, 0);
    }
}

/// The number of inputs done, and the one at hand.
fn noted(path: &Path) -> Option<(u64, Vec<u8>)> {
    let bytes = std::fs::read(path).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let length = usize::try_from(number(8)?).ok()?;
    let input = bytes.get(NOTE_HEADER..NOTE_HEADER.checked_add(length)?)?;
    Some((number(0)?, input.to_vec()))
}

/// A folder that no disk has to write, where there is one: each input is a write.
/// What a killed run left there goes.
fn in_memory() -> HarnessResult<Scratch> {
    Scratch::within(Path::new(MEMORY)).or_else(|_| Scratch::temporary())
}

/// Runs a target to its end, whatever that is.
///
/// # Errors
/// When there is no process, or it says nothing that can be understood.
pub fn run(target: &Target, budget: Budget) -> Result<Report> {
    let folder = in_memory().context("cannot make a temporary folder")?;
    let notes = folder.path().join("input");
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command
        .arg("--alone")
        .arg(&notes)
        .args(["--inputs", &budget.inputs.to_string()])
        .args(["--seed", &budget.seed.to_string()])
        .arg(target.name)
        // What targets write goes with it.
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped());
    if let Some(time) = budget.time {
        command.args(["--seconds", &time.as_secs().to_string()]);
    }
    let begun = Instant::now();
    let mut child = command.spawn().context("cannot run this program")?;
    let mut out = child.stdout.take().context("its output is not a pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        out.by_ref()
            .take(REPORT_BYTES)
            .read_to_end(&mut text)
            .map(|_| text)
    });
    let end = wait(&mut child, &notes).context("cannot wait for the target")?;
    let text = reader
        .join()
        .ok()
        .context("its reader has failed")?
        .context("cannot read what it says")?;
    match end {
        None => serde_json::from_slice(&text).context("the target's report is none"),
        Some(reason) => {
            let (inputs, input) = noted(&notes).context("it ended before its first input")?;
            Ok(Report {
                inputs: inputs + 1,
                seconds: begun.elapsed().as_secs_f64(),
                failures: vec![Failure { input, reason }],
                ..Report::default()
            })
        }
    }
}

/// None when it ended as it should.
fn wait(child: &mut Child, notes: &Path) -> std::io::Result<Option<String>> {
    let (mut done, mut since) = (None, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| format!("it ended the process: {status}")));
        }
        let now = noted(notes).map(|(done, _)| done);
        if now != done {
            (done, since) = (now, Instant::now());
        }
        if since.elapsed() > STUCK {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("it did not end within {} s", STUCK.as_secs())));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;

    /// Goal: a run that is killed leaves nothing in memory for good. Method: this test runs itself, and that run kills itself with its folder; the
    /// folder is then made as old as one that somebody may be about to use never is.
    #[test]
    fn what_a_killed_run_left_goes() {
        const CHILD: &str = "COWBIRD_TEST_KILLED_RUN";
        if let Some(note) = std::env::var_os(CHILD) {
            let folder = in_memory().expect("there is a place");
            fs::write(note, folder.path().as_os_str().as_encoded_bytes())
                .expect("it can be written");
            std::process::abort();
        }
        let place = tempfile::tempdir().expect("a folder for the test");
        let note = place.path().join("note");
        let status = Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", "watch::tests::what_a_killed_run_left_goes"])
            .env(CHILD, &note)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it can be run");
        assert!(!status.success());
        let left = PathBuf::from(fs::read_to_string(&note).expect("it has begun"));
        let old = SystemTime::now() - Duration::from_secs(120);
        let folder = File::open(&left).expect("it was left");
        folder.set_modified(old).expect("it is ours");
        drop(folder);
        let _next = in_memory().expect("there is a place");
        assert!(!left.exists());
    }
}
