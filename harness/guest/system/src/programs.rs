//! Programs that run to their end, and what they say.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowbird_proto::message::{Exited, GuestError};

use crate::error::{Context, GuestResult, failure};

/// What is kept of a program's standard output and standard error, each.
const OUTPUT_LIMIT_BYTES: u64 = 128 << 10;

/// Pause between two looks whether a program has ended.
const CHILD_POLL: Duration = Duration::from_millis(2);

/// Runs a program to its end.
pub fn run_program(program: &str, args: &[String], limit: Duration) -> GuestResult<Exited> {
    run(program, args, None, limit)
}

/// Runs a program, and kills it after a while.
pub fn run_and_kill(
    program: &str,
    args: &[String],
    after: Duration,
    limit: Duration,
) -> GuestResult<Exited> {
    run(program, args, Some(after), limit)
}

fn run(
    program: &str,
    args: &[String],
    kill_after: Option<Duration>,
    limit: Duration,
) -> GuestResult<Exited> {
    let mut kill_at = kill_after.map(|after| Instant::now() + after);
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(format_args!("start {program}"))?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .context(format_args!("wait for {program}"))?
        {
            break status;
        }
        if Instant::now() > deadline {
            return Err(overdue(&mut child, program, limit));
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            child.kill().context(format_args!("kill {program}"))?;
            kill_at = None;
        }
        std::thread::sleep(CHILD_POLL);
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Exited {
        code: status.code(),
        signal: status.signal(),
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Kills a program without waiting for it: in a system call that never ends it would not die.
fn overdue(child: &mut Child, program: &str, limit: Duration) -> GuestError {
    let stack = fs::read_to_string(format!("/proc/{}/stack", child.id())).unwrap_or_default();
    let _ = child.kill();
    failure(format!(
        "{program} did not end within {limit:?}; its kernel stack:\n{stack}"
    ))
}

/// Reads a stream of a program to its end, and keeps the beginning.
pub fn collect(stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut bounded = stream.take(OUTPUT_LIMIT_BYTES);
        // What arrived before an error is still worth reading.
        let _ = bounded.read_to_end(&mut bytes);
        let mut rest = bounded.into_inner();
        let _ = std::io::copy(&mut rest, &mut std::io::sink());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
