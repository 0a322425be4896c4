//! A guest to work in: the machine of a cell, with a shell on its terminal in place of the case.
//!
//! Kernel, initramfs, disks and agent are those of a cell, so that what is seen here is what a case would see. The disks
//! have no witness, because nobody judges them. The agent starts the shell and says how it ended.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cowbird_cases::info::CaseInfo;
use cowbird_host::background::in_background;
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_host::program::HostProgram;
use cowbird_proto::message::{Exited, Reply, Request};
use cowbird_session::machine::Machine;
use cowbird_session::plan::CellPlan;
use cowbird_vm::command::TERMINAL;
use cowbird_vm::{CallError, Pending, Vm};
use tokio::net::UnixStream;

use crate::cell::{cowbird_files, tracer_files, write_initramfs};
use crate::planned::{find_case, layout_of};

/// The shell of the guest, and the small programs beside it, in one static file.
pub const BUSYBOX: HostProgram = HostProgram {
    program: "busybox",
    package: "busybox-static",
};

/// Where it is in the guest, with the links that its other names are.
const BUSYBOX_IN_GUEST: &str = "/bin/busybox";

/// Where the script is that starts the shell, and that which the shell reads if nobody types.
const START: &str = "/shell/start";
const COMMANDS: &str = "/shell/commands";

/// A guest that somebody has forgotten ends after so long.
const SESSION_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Who gives the shell its commands.
#[derive(Debug, Clone)]
pub enum Input {
    /// Somebody at a terminal.
    Terminal {
        /// Its type, as `TERM` has it.
        kind: String,
        /// Its size.
        size: Size,
    },
    /// A script: the shell reads it to its end, and shows neither prompt nor commands.
    Script(Vec<u8>),
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub columns: u16,
}

/// A guest whose shell runs.
pub struct ShellGuest {
    vm: Vm,
    session: Pending,
    limit: Duration,
}

impl ShellGuest {
    /// Makes the disks of the plan's case, boots the plan's kernel, and starts a shell there. What is written to the stream
    /// is typed, and what is read from it is what the terminal shows.
    ///
    /// # Errors
    /// When something cannot be prepared, or the guest does not boot within the limit of the plan.
    pub async fn boot(plan: &CellPlan, input: Input) -> Result<(Self, UnixStream), CallError> {
        let case = find_case(plan)?;
        let layout = layout_of(plan).await?;
        let files = CellFiles {
            dir: plan.work_dir.clone(),
        };
        let (made, owned) = (files.clone(), plan.clone());
        in_background(move || {
            fs::create_dir_all(&owned.work_dir).on("create", &owned.work_dir)?;
            layout.create(&made, owned.seed)?;
            write_initramfs(&owned, programs(&owned, case, &input)?)
        })
        .await?;
        let machine = Machine::with_terminal(plan, &layout, files);
        let mut vm = machine.boot().await?;
        let terminal = vm.terminal().await?;
        let request = Request::Run {
            program: BUSYBOX_IN_GUEST.to_owned(),
            args: ["sh", START].map(str::to_owned).to_vec(),
            timeout_ms: SESSION_LIMIT.as_millis() as u64,
        };
        let session = vm.begin(request).await?;
        let limit = plan.limits.request;
        let guest = Self { vm, session, limit };
        Ok((guest, terminal))
    }

    /// How the shell ended, if it does within `limit`.
    ///
    /// # Errors
    /// When the guest ends before its shell.
    pub async fn ended_within(&mut self, limit: Duration) -> Result<Option<Exited>, CallError> {
        let answer = self.vm.answer_within(&mut self.session, limit).await?;
        match answer {
            None => Ok(None),
            Some(Reply::Exited(exited)) => Ok(Some(exited)),
            Some(other) => {
                let detail = format!("{other:?} is no answer to a program that was run");
                Err(HarnessError::Protocol { detail }.into())
            }
        }
    }

    /// Tells the guest that the terminal has another size now, and waits for no answer.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn resize(&mut self, size: Size) -> HarnessResult<()> {
        let request = Request::Run {
            program: BUSYBOX_IN_GUEST.to_owned(),
            args: stty(size).split(' ').map(str::to_owned).collect(),
            timeout_ms: self.limit.as_millis() as u64,
        };
        self.vm.begin(request).await.map(drop)
    }

    /// Whether somebody switched the guest's power off from within.
    #[must_use]
    pub fn is_powered_off(&self) -> bool {
        self.vm.is_powered_off()
    }

    /// Powers the guest off, or ends QEMU if the guest does not go.
    ///
    /// # Errors
    /// When the guest did not go by itself: why.
    pub async fn close(mut self) -> Result<(), CallError> {
        let off = self.vm.power_off().await;
        self.vm.stop().await;
        off
    }
}

/// What the guest of a shell has: the module, all tools, and what the case has in its guests.
fn programs(
    plan: &CellPlan,
    case: &CaseInfo,
    input: &Input,
) -> HarnessResult<Vec<(String, PathBuf)>> {
    let mut files = Vec::from(cowbird_files(plan));
    files.extend(tracer_files(plan));
    for program in case.programs {
        files.extend(program.files()?);
    }
    files.extend((case.files)()?);
    let shell = BUSYBOX.path()?;
    files.extend(BUSYBOX.files()?.into_iter().map(|(path, host)| {
        let is_shell = path == shell;
        let inside = if is_shell {
            BUSYBOX_IN_GUEST.to_owned()
        } else {
            path
        };
        (inside, host)
    }));
    let mut add = |inside: &str, name: &str, content: &[u8]| {
        let path = plan.work_dir.join(name);
        files.push((inside.to_owned(), path.clone()));
        fs::write(&path, content).on("write", &path)
    };
    add(START, "shell-start", start(input).as_bytes())?;
    if let Input::Script(commands) = input {
        add(COMMANDS, "shell-commands", commands)?;
    }
    Ok(files)
}

/// The script that becomes the shell. What it says before the terminal is its own goes back with the agent's answer. A
/// terminal keeps its settings only while somebody has it open, so that they are made after that.
fn start(input: &Input) -> String {
    let (settings, shell) = match input {
        // As the leader of a session whose terminal this is, so that Ctrl-C reaches what runs in the foreground.
        Input::Terminal { kind, size } => (
            format!("export TERM={}\n{}\n", quoted(kind), stty(*size)),
            "setsid -c sh -i".to_owned(),
        ),
        Input::Script(_) => (
            "stty raw -echo\n".to_owned(),
            format!("setsid sh -s <{COMMANDS}"),
        ),
    };
    format!(
        "{BUSYBOX_IN_GUEST} --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/ PS1='\\w # '
cd /
exec <{TERMINAL} >{TERMINAL} 2>&1
{settings}exec {shell}
"
    )
}

/// The command that sets the size of the guest's terminal.
fn stty(size: Size) -> String {
    let Size { rows, columns } = size;
    format!("stty -F {TERMINAL} rows {rows} cols {columns}")
}

/// A word of a shell that means nothing but itself.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: both scripts are ones that a shell takes, whatever the terminal is called. Method: the host's shell reads them.
    #[test]
    fn the_scripts_are_sound() {
        let terminal = Input::Terminal {
            kind: "it's; $(x)".to_owned(),
            size: Size {
                rows: 50,
                columns: 132,
            },
        };
        for input in [terminal, Input::Script(b"exit".to_vec())] {
            let text = start(&input);
            let mut shell = std::process::Command::new("sh");
            let status = shell.args(["-n", "-c", &text]).status();
            assert!(status.expect("it runs").success(), "{text}");
        }
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
