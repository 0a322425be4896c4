//! `shell`: a guest to work in, with the disks of a case, the module and all tools, and a shell on the user's terminal.

mod terminal;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use cowbird_harness::shell::{BUSYBOX, Input, ShellGuest};
use cowbird_host::limits::MAX_CONSOLE_FILE_BYTES;
use cowbird_matrix::spec::{Cases, RunSpec, Selection};
use cowbird_outside::{foreign, out};
use cowbird_session::plan::CellPlan;
use cowbird_vm::CallError;
use cowbird_vm::command::CONSOLE_FILE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::host::runtime;
use crate::options::AccelChoice;
use crate::run;
use crate::run::context::RunContext;
use crate::run::{Run, guest_programs};
use crate::ui::Ui;
use terminal::{Keys, RawTerminal};

/// Longest list of commands that is taken from standard input.
const MAX_SCRIPT_BYTES: u64 = 1 << 20;

/// The guest is looked at so often while nobody types.
const GLANCE: Duration = Duration::from_secs(1);

/// What the guest wrote last is here so soon after its end.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// Lines of the console that are shown when the guest does not boot.
const CONSOLE_LINES: usize = 12;

/// Bytes of the terminal that are shown at once.
const SHOWN_BYTES: usize = 4096;

/// The exit code of a shell that a signal ended is this and the signal's number; that of an interrupt is 2.
const SIGNALLED: i32 = 128;
const INTERRUPT: i32 = 2;

/// Folder of what is kept, in that of the results.
const KEPT: &str = "kept";

/// Arguments of `shell`.
#[derive(Clone, Debug, Args)]
pub struct ShellArgs {
    /// The kernel: its name, or a pattern that matches one only
    #[arg(long, value_name = "GLOB")]
    pub kernel: String,
    /// The case whose disks, modules and programs the guest has; /dev/vda has its origin
    #[arg(long, value_name = "GLOB", default_value = "ext4-churn")]
    pub case: String,
    /// With this mutant in place of the module as it is
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
    /// The seed of what is on the disks
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How QEMU runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: AccelChoice,
    /// Fetch and install nothing
    #[arg(long)]
    pub offline: bool,
    /// Keep the disks, the console and the messages of QEMU, in the folder kept of --out
    #[arg(long)]
    pub keep: bool,
    /// Where the files of the running guest are; removed in the end
    #[arg(long, value_name = "DIR", default_value = "out/shell")]
    pub out: PathBuf,
}

/// Runs the command; the value is the exit code, which is that of the shell.
pub fn command(args: &ShellArgs, ui: &Arc<Ui>) -> Result<u8> {
    let run = check(args)?;
    let input = input()?;
    let cell = run.cells.first().context("there is no cell")?;
    run::ensure_rooms(&run, ui)?;
    run::ensure_host(&run, &[BUSYBOX], ui)?;
    let guest = guest_programs::build(run.offline, ui)?;
    let scratch = run.out.scratch()?;
    let guest = guest.copy_to(scratch.path())?;
    let runtime = runtime::start()?;
    let context = runtime.block_on(RunContext::prepare(&run, &guest, scratch.path(), ui))?;
    let (_, plan) = context.cell_plan(cell).map_err(anyhow::Error::msg)?;
    let ended = runtime.block_on(session(&plan, input, ui));
    if args.keep && plan.work_dir.exists() {
        let kept = run.out.path().join(KEPT).join(cell.id.slug());
        keep(&plan.work_dir, &kept)?;
        ui.line(&format!("kept: {}", kept.display()));
    }
    ended
}

/// Reads the command line against the catalogue.
fn check(args: &ShellArgs) -> Result<Run> {
    let run = run::check(&RunSpec {
        kernels: Selection::Globs(vec![args.kernel.clone()]),
        cases: Cases::Of(Selection::Globs(vec![args.case.clone()])),
        mutants: args.mutant.iter().cloned().collect(),
        seed: Some(args.seed),
        jobs: Some(1),
        accel: args.accel.into(),
        offline: args.offline,
        ..RunSpec::new(args.out.clone())
    })?;
    let cells = run.cells.iter().map(|cell| cell.id.to_string());
    let cells: Vec<String> = cells.collect();
    if cells.len() != 1 {
        bail!(
            "a shell needs one kernel, one case and at most one mutant, and these match: {}",
            cells.join(", ")
        );
    }
    Ok(run)
}

/// Who gives the commands.
fn input() -> Result<Input> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let commands = foreign::read_all(stdin.lock(), MAX_SCRIPT_BYTES)
            .context("cannot read commands from standard input")?;
        if commands.trim_ascii().is_empty() {
            bail!(
                "standard input is no terminal and has no commands; run this in a terminal, or as in \
                 `echo 'uname -r' | cargo xtask shell --kernel NAME`"
            );
        }
        return Ok(Input::Script(commands));
    }
    if !io::stdout().is_terminal() {
        bail!(
            "standard output is no terminal, so that nobody would see the prompt; give the commands on standard \
             input, as in `echo 'uname -r' | cargo xtask shell --kernel NAME`"
        );
    }
    Ok(Input::Terminal {
        kind: std::env::var("TERM").unwrap_or_else(|_| "vt100".to_owned()),
        size: terminal::size()?,
    })
}

/// Signals that end a session.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until somebody wants an end. Ctrl-C in a raw terminal is no signal but a key.
    async fn ended(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Boots the guest, connects it with the user, and ends it when its shell has ended.
async fn session(plan: &CellPlan, input: Input, ui: &Arc<Ui>) -> Result<u8> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let resized = signal(SignalKind::window_change());
    let mut resized = resized.context("cannot listen for signals")?;
    let task = ui.task(&format!("boot {}", plan.kernel_name));
    let interactive = matches!(input, Input::Terminal { .. });
    let booted = tokio::select! {
        booted = ShellGuest::boot(plan, input) => booted,
        () = signals.ended() => return Ok(exit_code(SIGNALLED + INTERRUPT)),
    };
    let (mut guest, stream) = booted.with_context(|| not_booted(plan))?;
    task.end(&plan.kernel_release);
    let raw = if interactive {
        ui.line(&format!(
            "disks of {}; insmod /cowbird.ko loads the module, exit powers off, Ctrl-] ends the guest at once",
            plan.case
        ));
        Some(RawTerminal::take()?)
    } else {
        None
    };
    let (from, to) = stream.into_split();
    let shown = tokio::spawn(show(from));
    // Where nobody types, this half stays open as well: QEMU takes the end of one for the end of both.
    let (left, _untyped) = if raw.is_some() {
        let keys = Keys::read();
        tokio::spawn(pass_on(keys.typed, to));
        (Some(keys.left), None)
    } else {
        (None, Some(to))
    };
    let ended = serve(&mut guest, left, &mut signals, &mut resized).await;
    let powered_off = guest.is_powered_off();
    let closed = guest.close().await;
    // The socket ends with QEMU; what does not come by then does not come.
    let _ = timeout(LAST_OUTPUT, shown).await;
    drop(raw);
    out::finish()?;
    match ended {
        Err(_) if powered_off => Ok(0),
        Err(error) => Err(error).context("the guest ended before its shell"),
        Ok(code) => {
            if let Err(error) = closed {
                ui.line(&format!("warning: the guest did not power off: {error}"));
            }
            Ok(exit_code(code))
        }
    }
}

/// Waits until the shell ends, or somebody leaves it; the value is the exit code.
async fn serve(
    guest: &mut ShellGuest,
    mut left: Option<oneshot::Receiver<()>>,
    signals: &mut Signals,
    resized: &mut Signal,
) -> Result<i32, CallError> {
    let mut leaving = async || match &mut left {
        Some(left) => drop(left.await),
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            ended = guest.ended_within(GLANCE) => if let Some(exited) = ended? {
                // Of the shell itself everything goes to its terminal: this is why there is none.
                out::bytes(exited.stderr.as_bytes());
                let signalled = exited.signal.map(|signal| SIGNALLED + signal);
                return Ok(exited.code.or(signalled).unwrap_or(SIGNALLED));
            },
            () = leaving() => return Ok(0),
            _ = resized.recv() => {
                // One that cannot be told keeps its size.
                if let Ok(size) = terminal::size() {
                    drop(guest.resize(size).await);
                }
            }
            () = signals.ended() => return Ok(SIGNALLED + INTERRUPT),
        }
    }
}

/// Types into the guest's terminal. A guest that has gone is noticed by whoever waits for its shell.
async fn pass_on(mut typed: mpsc::Receiver<Vec<u8>>, mut to: OwnedWriteHalf) {
    while let Some(keys) = typed.recv().await {
        if to.write_all(&keys).await.is_err() {
            return;
        }
    }
}

/// Shows what the guest writes to its terminal, as it is.
async fn show(mut from: OwnedReadHalf) {
    let mut bytes = vec![0; SHOWN_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        out::bytes(&bytes[..count]);
    }
}

/// What is known of a guest that did not boot.
fn not_booted(plan: &CellPlan) -> String {
    let console = plan.work_dir.join(CONSOLE_FILE);
    let text = foreign::read(&console, MAX_CONSOLE_FILE_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
    let shown: Vec<String> = last.iter().map(|line| format!("  {line}\n")).collect();
    let console = if shown.is_empty() {
        String::new()
    } else {
        format!("; its console ends with:\n{}", shown.concat())
    };
    format!("the guest of {} did not start{console}", plan.kernel_name)
}

/// Moves the files of a guest to where they stay, in place of those of an earlier one.
fn keep(work_dir: &Path, kept: &Path) -> Result<()> {
    let failed = || format!("cannot keep {} as {}", work_dir.display(), kept.display());
    if kept.exists() {
        fs::remove_dir_all(kept).with_context(failed)?;
    }
    if let Some(folder) = kept.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    fs::rename(work_dir, kept).with_context(failed)
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
