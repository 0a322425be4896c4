//! Programs of the host's distribution that write: databases and their clients, fio. What they do is their
//! affair; here they are started, counted and ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cowbird_guest_system::error::{Context, GuestResult, failure};
use cowbird_guest_system::programs::collect;
use cowbird_proto::message::{EndSignal, ProgramSpec, ProgramsSpec};
use rustix::process::{Pid, Signal, kill_process};

use super::progress::count;
use super::shared::{Body, Parts, Shared};

/// Pause between two looks at a program.
const POLL: Duration = Duration::from_millis(10);

/// Field of `/sys/class/block/<name>/stat` with the sectors written, from 0; see the kernel's
/// `Documentation/block/stat.rst`.
const SECTORS_WRITTEN: usize = 6;

/// Unit of that field, bytes.
const SECTOR_BYTES: u64 = 512;

/// Lines of a program's last words that are told.
const TOLD_LINES: usize = 8;

/// Prepares one thread for each program.
pub fn prepare(spec: ProgramsSpec) -> GuestResult<Parts> {
    let before = sectors_written(&spec.device)?;
    let left = Arc::new(AtomicU32::new(spec.programs.len() as u32));
    let device = Arc::new(spec.device);
    let threads = spec.programs.into_iter().map(|program| {
        let (device, left) = (Arc::clone(&device), Arc::clone(&left));
        let body: Body = Box::new(move |shared| {
            run(shared, &program, &device, before)?;
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                shared.finished.store(true, Ordering::Release);
            }
            Ok(())
        });
        body
    });
    Ok(Parts {
        golden: Vec::new(),
        threads: threads.collect(),
    })
}

/// Runs a program until it ends or is to end.
fn run(
    shared: &Arc<Shared>,
    spec: &ProgramSpec,
    device: &str,
    sectors_before: u64,
) -> GuestResult<()> {
    let mut child = start(spec)?;
    let acknowledged = child.stdout.take().map(|stream| {
        let (shared, line_of) = (Arc::clone(shared), spec.acknowledges.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if line == line_of {
                    count(&shared.progress.operations, 1);
                }
            }
        })
    });
    let said = child.stderr.take().map(collect);
    let mut asked_to_end = false;
    let status = loop {
        let status = child.try_wait();
        if let Some(status) = status.context(format_args!("wait for {}", spec.program))? {
            break status;
        }
        if shared.stopping() && !asked_to_end {
            end(&child, spec)?;
            asked_to_end = true;
        }
        let written = sectors_written(device)?.saturating_sub(sectors_before) * SECTOR_BYTES;
        shared
            .progress
            .bytes_written
            .fetch_max(written, Ordering::Relaxed);
        std::thread::sleep(POLL);
    };
    // What was acknowledged is counted before the program counts as ended.
    let _ = acknowledged.map(std::thread::JoinHandle::join);
    if asked_to_end || status.success() {
        return Ok(());
    }
    let said = said
        .and_then(|reader| reader.join().ok())
        .unwrap_or_default();
    let lines: Vec<&str> = said.trim().lines().collect();
    let last = lines[lines.len().saturating_sub(TOLD_LINES)..].join(" / ");
    Err(failure(format!("{}: {status}: {last}", spec.program)))
}

fn start(spec: &ProgramSpec) -> GuestResult<Child> {
    let ProgramSpec { program, args, .. } = spec;
    let mut command = Command::new(program);
    let input: Stdio = match &spec.input {
        Some(path) => fs::File::open(path)
            .context(format_args!("open {path}"))?
            .into(),
        None => Stdio::null(),
    };
    command
        .args(args)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(path) = &spec.as_owner_of {
        let owner = fs::metadata(path).context(format_args!("find the owner of {path}"))?;
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.spawn().context(format_args!("start {program}"))
}

fn end(child: &Child, spec: &ProgramSpec) -> GuestResult<()> {
    let signal = match spec.ends_by {
        EndSignal::Terminate => Signal::TERM,
        EndSignal::Interrupt => Signal::INT,
        EndSignal::Quit => Signal::QUIT,
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| failure(format!("{} has no number", spec.program)))?;
    kill_process(pid, signal).context(format_args!("end {}", spec.program))
}

fn sectors_written(device: &str) -> GuestResult<u64> {
    let path = format!("/sys/class/block/{device}/stat");
    let text = fs::read_to_string(&path).context(format_args!("read {path}"))?;
    let field = text.split_whitespace().nth(SECTORS_WRITTEN);
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| failure(format!("{path} has no count of sectors")))
}
