//! One virtual machine: booted, asked, watched, ended.
//!
//! Whoever waits for the guest waits through [`Vm`], which watches the process, the console, the
//! heartbeat and the protocol meanwhile, and says in one [`End`] why there will be no answer.

pub mod agent;
mod arguments;
pub mod command;
pub mod emulator;
mod host_clock;
pub mod process;
pub mod qmp;
mod stuck;

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowbird_proto::message::{GuestError, Hello, Reply, Request};
use thiserror::Error;
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, timeout};

use crate::accel::Accel;
use crate::error::{HarnessError, HarnessResult, PathContext};
use crate::kernel_log::{Splat, find_agent_lost, find_panic, is_stale_breakpoint};
use crate::limits::{
    LAST_WORDS, Limits, MAX_CONSOLE_BYTES, PANIC_GRACE, QMP_LIMIT, QUIT_LIMIT, REFUSAL_GRACE,
    SOCKET_LIMIT, SOCKET_POLL, STUCK_PAUSE, STUCK_SAMPLES, SUPERVISION_PERIOD, SYSRQ_KEYS,
    SYSRQ_PAUSE, TAPED_QMP_LIMIT,
};
use crate::scratch::Scratch;
use crate::vm::agent::{Agent, GuestRecord};
use crate::vm::command::{AGENT_SOCKET, CONSOLE, QMP_SOCKET, REGISTERS_FILE, TapeMode, VmConfig};
use crate::vm::process::{Process, ProcessEnd};
use crate::vm::qmp::Qmp;

/// Why a guest will not answer any more.
#[derive(Debug, Error)]
pub enum End {
    /// The kernel panicked.
    #[error("kernel panic: {}", .0.headline)]
    Panic(Splat),
    /// QEMU runs but the guest does not answer.
    #[error("{reason}")]
    Hang {
        /// What was waited for, and how long.
        reason: String,
    },
    /// QEMU ended although nobody of ours asked for it.
    #[error("{reason}")]
    Lost {
        /// How it ended.
        reason: String,
    },
    /// The host's side failed.
    #[error(transparent)]
    Infrastructure(#[from] HarnessError),
}

/// Why a request has no good answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The guest is well but the operation failed.
    #[error("{error}")]
    Guest {
        /// What the guest says.
        error: GuestError,
    },
    /// There is no guest any more.
    #[error(transparent)]
    Ended(#[from] End),
}

impl From<HarnessError> for CallError {
    fn from(error: HarnessError) -> Self {
        Self::Ended(End::Infrastructure(error))
    }
}

/// A request whose answer is not here yet.
pub struct Pending {
    name: String,
    answer: oneshot::Receiver<Result<Reply, GuestError>>,
}

/// A running guest. Dropping it kills QEMU.
pub struct Vm {
    config: VmConfig,
    limits: Limits,
    process: Process,
    qmp: Arc<Qmp>,
    agent: Agent,
    console: Console,
    /// Holds the sockets; a path in the work folder could exceed the 108 bytes of a socket name.
    socket_dir: Scratch,
}

impl Vm {
    /// Starts QEMU and waits for the guest's Hello.
    ///
    /// # Errors
    /// When QEMU does not start, or the guest ends or hangs before its Hello.
    pub async fn boot(config: VmConfig, limits: Limits) -> Result<(Self, Hello), End> {
        let mut vm = Self::start(config, limits).await?;
        let deadline = Instant::now() + vm.limits.boot;
        let mut tick = interval(SUPERVISION_PERIOD);
        loop {
            tokio::select! {
                hello = vm.agent.hello() => match hello {
                    Some(hello) => return Ok((vm, hello)),
                    None => sleep(SOCKET_POLL).await,
                },
                _ = tick.tick() => {}
            }
            vm.check().await?;
            if Instant::now() > deadline {
                return Err(vm
                    .hang(format!("no Hello within {:?} of boot", vm.limits.boot))
                    .await);
            }
        }
    }

    async fn start(config: VmConfig, limits: Limits) -> HarnessResult<Self> {
        let console_path = config.console_path();
        File::create(&console_path).on("create", &console_path)?;
        let socket_dir = Scratch::for_sockets()?;
        let process = Process::start(&config, config.arguments(socket_dir.path()))?;
        let connected = async {
            let socket = socket_dir.path().join(AGENT_SOCKET);
            let (asked, said) = (config.asked_path(), config.said_path());
            let agent = match config.tape {
                None => Agent::connect(&socket).await?,
                Some(TapeMode::Record) => Agent::record(&socket, &asked, &said).await?,
                Some(TapeMode::Replay) => Agent::replay(&asked, &said).await?,
            };
            let limit = match config.tape {
                None => QMP_LIMIT,
                Some(_) => TAPED_QMP_LIMIT,
            };
            let monitor = socket_dir.path().join(QMP_SOCKET);
            Ok((agent, Qmp::connect(&monitor, limit).await?))
        };
        let connected: HarnessResult<(Agent, Qmp)> = tokio::select! {
            connected = connected => connected,
            end = process.wait() => Err(qemu_refused(&config, end)),
        };
        let connected = match connected {
            // A connection that breaks is how a QEMU that refuses its arguments ends.
            Err(error) => match timeout(REFUSAL_GRACE, process.wait()).await {
                Ok(end) => Err(qemu_refused(&config, end)),
                Err(_) => Err(error),
            },
            connected => connected,
        };
        let (agent, qmp) = connected?;
        let console = Console {
            path: console_path,
            text: String::new(),
            read_bytes: 0,
        };
        Ok(Self {
            config,
            limits,
            process,
            qmp: Arc::new(qmp),
            agent,
            console,
            socket_dir,
        })
    }

    /// Asks the guest and waits for the answer, `limit` at most.
    ///
    /// # Errors
    /// When the guest says no, or will not answer any more.
    pub async fn call(&mut self, request: Request, limit: Duration) -> Result<Reply, CallError> {
        let mut pending = self.begin(request).await?;
        match self.answer_within(&mut pending, limit).await? {
            Some(reply) => Ok(reply),
            None => {
                let name = pending.name;
                Err(self
                    .hang(format!("no answer to {name} within {limit:?}"))
                    .await
                    .into())
            }
        }
    }

    /// Asks the guest without waiting for the answer; other requests can be made meanwhile.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub async fn begin(&mut self, request: Request) -> HarnessResult<Pending> {
        Ok(Pending {
            name: request_name(&request),
            answer: self.agent.request(request).await?,
        })
    }

    /// The answer, if it comes within `limit`; otherwise it can be waited for again.
    ///
    /// # Errors
    /// When the guest says no, or will not answer any more.
    pub async fn answer_within(
        &mut self,
        pending: &mut Pending,
        limit: Duration,
    ) -> Result<Option<Reply>, CallError> {
        let deadline = Instant::now() + limit;
        let mut tick = interval(SUPERVISION_PERIOD);
        let Pending { name, answer } = pending;
        loop {
            tokio::select! {
                // An answer that is there counts, whatever became of the guest since.
                biased;
                answer = &mut *answer => match answer {
                    Ok(Ok(reply)) => return Ok(Some(reply)),
                    Ok(Err(error)) => return Err(CallError::Guest { error }),
                    Err(_) => return Err(self.no_answer(name).await.into()),
                },
                _ = self.process.wait() => {
                    // What the guest said last may still be on its way through the socket.
                    if let Ok(Ok(Ok(reply))) = timeout(LAST_WORDS, &mut *answer).await {
                        return Ok(Some(reply));
                    }
                }
                _ = tick.tick() => {}
            }
            self.check().await?;
            if Instant::now() > deadline {
                return Ok(None);
            }
        }
    }

    /// Lets the guest run for a while, watching it. A replayed guest has had its pause on the tape.
    ///
    /// # Errors
    /// When the guest ends meanwhile.
    pub async fn pause(&mut self, duration: Duration) -> Result<(), End> {
        if self.is_replayed() {
            return Ok(());
        }
        let deadline = Instant::now() + duration;
        while Instant::now() < deadline {
            self.check().await?;
            let rest = deadline.saturating_duration_since(Instant::now());
            sleep(rest.min(SUPERVISION_PERIOD)).await;
        }
        self.check().await
    }

    /// Powers the guest off and waits for the end of QEMU.
    ///
    /// # Errors
    /// When the guest does not go down, or goes down otherwise.
    pub async fn power_off(&mut self) -> Result<(), CallError> {
        self.power_off_by(Request::PowerOff, self.limits.shutdown)
            .await
    }

    /// The same without syncing first; the kernel has so long to go down.
    ///
    /// # Errors
    /// When the guest does not go down, or goes down otherwise.
    pub async fn power_off_now(&mut self, limit: Duration) -> Result<(), CallError> {
        self.power_off_by(Request::PowerOffNow, limit).await
    }

    async fn power_off_by(&mut self, request: Request, limit: Duration) -> Result<(), CallError> {
        self.call(request, limit).await?;
        match timeout(limit, self.process.wait()).await {
            Ok(ProcessEnd { code: Some(0), .. }) => {}
            Ok(end) => return Err(self.classify_exit(end).into()),
            Err(_) => {
                return Err(self
                    .hang(format!("no power-off within {limit:?}"))
                    .await
                    .into());
            }
        }
        self.console.refresh()?;
        match find_panic(&self.console.text) {
            Some(panic) => Err(self.panicked(panic).into()),
            None => Ok(()),
        }
    }

    /// Ends QEMU, politely if it listens, so that it completes the files that it writes.
    pub async fn stop(&mut self) {
        let asked = self.qmp.quit().await.is_ok();
        if !asked || timeout(QUIT_LIMIT, self.process.wait()).await.is_err() {
            self.process.kill();
            self.process.wait().await;
        }
    }

    /// Whether QEMU has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.process.end().is_some()
    }

    /// After the end of QEMU: waits until everything that the guest told is here.
    pub async fn settle(&self) {
        self.agent.settle().await;
    }

    /// Whether this guest does not hear what it is asked, because it is that of a tape.
    fn is_replayed(&self) -> bool {
        self.config.tape == Some(TapeMode::Replay)
    }

    /// Process id of QEMU.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The monitor.
    #[must_use]
    pub fn qmp(&self) -> &Arc<Qmp> {
        &self.qmp
    }

    /// Takes what the guest told unasked so far.
    #[must_use]
    pub fn take_record(&self) -> GuestRecord {
        self.agent.take_record()
    }

    /// Finds out whether the guest is still one that can answer.
    async fn check(&mut self) -> Result<(), End> {
        if let Some(end) = self.process.end() {
            return Err(self.classify_exit(end));
        }
        if let Some(reason) = outgrown(&self.config.growing_files()) {
            return Err(End::Lost { reason });
        }
        self.console.refresh()?;
        if find_panic(&self.console.text).is_some() {
            // The rest of the trace is still being printed; QEMU ends by itself after it.
            let _ = timeout(PANIC_GRACE, self.process.wait()).await;
            self.console.refresh()?;
        }
        if let Some(panic) = find_panic(&self.console.text) {
            return Err(self.panicked(panic));
        }
        if let Some(line) = find_agent_lost(&self.console.text) {
            return Err(HarnessError::Agent {
                detail: line.to_owned(),
            }
            .into());
        }
        if let Some(error) = self.qmp.events().disk_error {
            let detail = format!("a disk's file failed, {error}; is the host's disk full?");
            return Err(HarnessError::Qemu { detail }.into());
        }
        if let Some(detail) = self.agent.corrupt() {
            return Err(HarnessError::Protocol { detail }.into());
        }
        match self.agent.silence() {
            Some(silence) if silence > self.limits.silence && !self.is_replayed() => Err(self
                .hang(format!("no sign of life for {:?}", self.limits.silence))
                .await),
            _ => Ok(()),
        }
    }

    /// A panic, if it is not the emulator's fault.
    fn panicked(&self, panic: Splat) -> End {
        if self.config.accel == Accel::Tcg && is_stale_breakpoint(&panic.excerpt) {
            return HarnessError::Emulator {
                excerpt: panic.excerpt,
            }
            .into();
        }
        End::Panic(panic)
    }

    /// QEMU has ended and nobody asked it to: says why.
    fn classify_exit(&mut self, end: ProcessEnd) -> End {
        if let Err(error) = self.console.refresh() {
            return error.into();
        }
        if let Some(panic) = find_panic(&self.console.text) {
            return self.panicked(panic);
        }
        if let Some(line) = find_agent_lost(&self.console.text) {
            return HarnessError::Agent {
                detail: line.to_owned(),
            }
            .into();
        }
        let event = self.qmp.events().shutdown;
        let reset = event
            .as_ref()
            .is_some_and(|event| event.reason == "guest-reset");
        if reset && end.code == Some(0) {
            let headline = "the guest was reset without a word on the console (triple fault?)";
            return End::Panic(Splat {
                headline: headline.into(),
                excerpt: String::new(),
            });
        }
        let asked = event
            .as_ref()
            .is_some_and(|event| event.reason == "host-qmp-quit");
        if self.is_replayed() && asked {
            let reason = "the harness ended the guest here when the tape was made".into();
            return End::Hang { reason };
        }
        let how = match (end.code, end.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "unknown status".to_owned(),
        };
        let event = event.map_or_else(String::new, |event| format!(", event {}", event.reason));
        let said = last_lines(&self.config.qemu_log_path());
        End::Lost {
            reason: format!("QEMU (pid {}) ended: {how}{event}{said}", self.pid()),
        }
    }

    /// The guest does not answer: collects what can be seen from outside.
    pub(crate) async fn hang(&mut self, reason: String) -> End {
        let status = self
            .qmp
            .status()
            .await
            .unwrap_or_else(|error| error.to_string());
        let registers = self
            .qmp
            .monitor("info registers -a")
            .await
            .unwrap_or_default();
        let path = self.config.work_dir.join(REGISTERS_FILE);
        // Evidence that cannot be had does not change the verdict.
        let _ = std::fs::write(path, &registers);
        if self.config.accel == Accel::Tcg && self.executes_stale_code(&registers).await {
            return HarnessError::Emulator { excerpt: registers }.into();
        }
        if self.config.tape.is_none() {
            let _ = self.question_kernel().await;
        }
        if let Ok(Some(panic)) = self
            .console
            .refresh()
            .map(|()| find_panic(&self.console.text))
        {
            return self.panicked(panic);
        }
        End::Hang {
            reason: format!("{reason}; QEMU says {status}"),
        }
    }

    /// Whether a CPU stands still where the kernel has patched its code; see [`stuck`].
    async fn executes_stale_code(&mut self, first: &str) -> bool {
        let mut samples = vec![first.to_owned()];
        for _ in 0..STUCK_SAMPLES {
            sleep(STUCK_PAUSE).await;
            samples.push(
                self.qmp
                    .monitor("info registers -a")
                    .await
                    .unwrap_or_default(),
            );
        }
        for address in stuck::addresses(&samples) {
            let dump = self.qmp.monitor(&format!("x /5xb {address:#x}")).await;
            if dump.is_ok_and(|dump| stuck::is_patched_entry(&dump)) {
                return true;
            }
        }
        false
    }

    /// Has the kernel print over the serial console what its CPUs and tasks do: a break and a
    /// letter are handled in the interrupt, whatever the rest of the guest does.
    async fn question_kernel(&mut self) -> HarnessResult<()> {
        let console = connect(&self.socket_dir.path().join(CONSOLE)).await?;
        let (mut read, mut write) = console.into_split();
        // What QEMU cannot send it does not log either, so somebody must read; the log has it all.
        let reader = tokio::spawn(async move { copy(&mut read, &mut sink()).await });
        for key in SYSRQ_KEYS {
            let arguments = serde_json::json!({ "id": CONSOLE });
            self.qmp.execute("chardev-send-break", arguments).await?;
            write
                .write_all(&[key])
                .await
                .on("write to the console in", self.socket_dir.path())?;
            sleep(SYSRQ_PAUSE).await;
        }
        reader.abort();
        Ok(())
    }

    /// The receiver of an answer was dropped, which only the end of the connection does.
    async fn no_answer(&mut self, name: &str) -> End {
        let _ = timeout(PANIC_GRACE, self.process.wait()).await;
        match self.check().await {
            Err(end) => end,
            Ok(()) => {
                let detail = format!("the connection was lost before the answer to {name}");
                HarnessError::Protocol { detail }.into()
            }
        }
    }
}

/// What of these files has more bytes than it may have; a guest can make them as large as the host's disk.
fn outgrown(files: &[(std::path::PathBuf, u64)]) -> Option<String> {
    files.iter().find_map(|(path, most)| {
        let bytes = std::fs::metadata(path).ok()?.len();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        (bytes > *most).then(|| {
            format!("{name} has {bytes} bytes, of {most} at most: the guest was ended before the host's disk is full")
        })
    })
}

/// The serial console, read as it grows.
struct Console {
    path: std::path::PathBuf,
    text: String,
    read_bytes: u64,
}

impl Console {
    fn refresh(&mut self) -> HarnessResult<()> {
        if self.read_bytes >= MAX_CONSOLE_BYTES {
            return Ok(());
        }
        let mut file = File::open(&self.path).on("open", &self.path)?;
        file.seek(SeekFrom::Start(self.read_bytes))
            .on("seek in", &self.path)?;
        let mut bytes = Vec::new();
        file.take(MAX_CONSOLE_BYTES - self.read_bytes)
            .read_to_end(&mut bytes)
            .on("read", &self.path)?;
        self.read_bytes += bytes.len() as u64;
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        Ok(())
    }
}

/// Connects to a socket that QEMU is about to open.
async fn connect(path: &Path) -> HarnessResult<UnixStream> {
    let deadline = Instant::now() + SOCKET_LIMIT;
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error)
                if Instant::now() < deadline
                    && matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::ConnectionRefused
                    ) =>
            {
                sleep(SOCKET_POLL).await;
            }
            Err(error) => return Err(error).on("connect to", path),
        }
    }
}

fn qemu_refused(config: &VmConfig, end: ProcessEnd) -> HarnessError {
    let said = last_lines(&config.qemu_log_path());
    HarnessError::Qemu {
        detail: format!("it ended at once ({end:?}){said}"),
    }
}

fn last_lines(path: &Path) -> String {
    const LINES: usize = 5;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    match lines.as_slice() {
        [] => String::new(),
        lines => format!(
            "; it says: {}",
            lines[lines.len().saturating_sub(LINES)..].join(" / ")
        ),
    }
}

/// The name of a request without its arguments, which can be long.
fn request_name(request: &Request) -> String {
    let text = format!("{request:?}");
    let end = text.find([' ', '{', '(']).unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a guest that prints or writes without end is ended, with the file and both sizes in the reason.
    #[test]
    fn what_a_guest_makes_grow_has_a_limit() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("console.txt");
        let file = File::create(&path).expect("it can be made");
        let (missing, most) = (folder.path().join("witness.log"), 1 << 30);
        let files = [(missing, most), (path, most)];
        file.set_len(most).expect("it is sparse");
        assert_eq!(outgrown(&files), None);
        file.set_len(most + 1).expect("it is sparse");
        let reason = outgrown(&files).expect("it is larger");
        assert!(
            reason.starts_with("console.txt has 1073741825 bytes"),
            "{reason}"
        );
    }
}
