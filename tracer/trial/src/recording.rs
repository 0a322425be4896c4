//! The program under test, at work.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cowbird_events::event::Record;
use cowbird_events::format::{Chunk, Footer, TraceReader};
use rustix::process::{Pid, Signal, kill_process};

/// A recording that nobody stops ends by itself.
const LIMIT_SECONDS: &str = "300";

/// What a recording came to.
pub struct Trace {
    pub records: Vec<Record>,
    pub footer: Footer,
    /// CPU time of the recorder while it recorded.
    pub cpu_time: Duration,
}

/// A recorder that runs.
pub struct Recording {
    child: Child,
    messages: BufReader<ChildStderr>,
    file: PathBuf,
    /// CPU time that it took to start.
    started: Duration,
}

impl Recording {
    /// Returns when every event from now on will be recorded.
    pub fn start(tracer: &Path, device: &str, options: &[&str]) -> Result<Self> {
        let file = std::env::temp_dir().join(format!("trial-{}.cbt", std::process::id()));
        let mut child = Command::new(tracer)
            .args(["record", "--seconds", LIMIT_SECONDS, "--device", device])
            .arg("-o")
            .arg(&file)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", tracer.display()))?;
        let stderr = child.stderr.take().context("the recorder has no stderr")?;
        let mut messages = BufReader::new(stderr);
        let mut line = String::new();
        messages.read_line(&mut line)?;
        ensure!(line.starts_with("recording "), "{}", line.trim());
        Ok(Self {
            started: cpu_time(&child)?,
            child,
            messages,
            file,
        })
    }

    /// Ends the recording; the trace must be complete.
    pub fn stop(mut self) -> Result<Trace> {
        let cpu_time = cpu_time(&self.child)?.saturating_sub(self.started);
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let mut messages = String::new();
        self.messages.read_to_string(&mut messages)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "recorder: {status}: {messages}");
        let bytes = fs::read(&self.file)?;
        fs::remove_file(&self.file)?;
        let mut reader = TraceReader::new(bytes.as_slice())?;
        let (mut records, mut footer) = (Vec::new(), None);
        while let Some(chunk) = reader.next_chunk()? {
            match chunk {
                Chunk::Meta(_) => {}
                Chunk::Events(events) => records.extend(events),
                Chunk::Footer(found) => footer = Some(*found),
            }
        }
        ensure!(
            reader.defects().is_empty(),
            "the trace: {:?}",
            reader.defects()
        );
        Ok(Trace {
            records,
            footer: footer.context("the trace has no footer")?,
            cpu_time,
        })
    }
}

fn cpu_time(child: &Child) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    // The name in parentheses may hold anything; fields are counted behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}
