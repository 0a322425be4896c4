//! A recorder that outlives the program that started it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The recorder has this long to begin and to end; under emulation on a busy machine both take
/// seconds.
const LIMIT: Duration = Duration::from_secs(50);
const PAUSE: Duration = Duration::from_millis(20);

/// A file beside the trace.
fn beside(file: &Path, extension: &str) -> PathBuf {
    file.with_extension(extension)
}

/// Returns when every event from now on will be recorded.
pub fn start(tracer: &Path, file: &Path, record: &[String]) -> Result<()> {
    let (messages, process) = (beside(file, "messages"), beside(file, "pid"));
    let log =
        File::create(&messages).with_context(|| format!("cannot create {}", messages.display()))?;
    let child = Command::new(tracer)
        .arg("record")
        .arg("-o")
        .arg(file)
        .args(record)
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", tracer.display()))?;
    fs::write(&process, child.id().to_string())?;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let said = fs::read_to_string(&messages)?;
        if said.starts_with("recording ") {
            return Ok(());
        }
        ensure!(!said.ends_with('\n'), "{}", said.trim());
        thread::sleep(PAUSE);
    }
    bail!("the recorder did not begin within {LIMIT:?}")
}

/// Returns when the trace is whole. What it says about its completeness is in the trace too.
pub fn stop(file: &Path) -> Result<()> {
    let path = beside(file, "pid");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let pid = text.parse().ok().and_then(Pid::from_raw);
    let pid = pid.context("the recorder's number is none")?;
    kill_process(pid, Signal::INT).context("the recorder is gone")?;
    let deadline = Instant::now() + LIMIT;
    while test_kill_process(pid).is_ok() {
        ensure!(
            Instant::now() < deadline,
            "the recorder did not end within {LIMIT:?}"
        );
        thread::sleep(PAUSE);
    }
    cowbird_outside::out::lines(&fs::read_to_string(beside(file, "messages"))?);
    Ok(())
}
