//! One virtual machine: what it is made of, how QEMU starts, and how it is ended.

use std::sync::Arc;

use cowbird_host::error::HarnessResult;
use cowbird_host::limits::{Limits, QMP_LIMIT, QUIT_LIMIT, REFUSAL_GRACE, TAPED_QMP_LIMIT};
use cowbird_host::scratch::Scratch;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::agent::{Agent, GuestRecord};
use crate::command::{AGENT_SOCKET, QMP_SOCKET, TERMINAL_SOCKET, TapeMode, VmConfig};
use crate::console::Console;
use crate::process::{Process, qemu_refused};
use crate::qmp::Qmp;
use crate::socket::connect;

/// Reason of QEMU's event when the guest switches its power off.
const GUEST_SHUTDOWN: &str = "guest-shutdown";

/// A running guest. Dropping it kills QEMU.
pub struct Vm {
    pub(crate) config: VmConfig,
    pub(crate) limits: Limits,
    pub(crate) process: Process,
    pub(crate) qmp: Arc<Qmp>,
    pub(crate) agent: Agent,
    pub(crate) console: Console,
    /// Holds the sockets; a path in the work folder could exceed the 108 bytes of a socket name.
    pub(crate) socket_dir: Scratch,
}

impl Vm {
    /// Starts QEMU, and connects to it.
    pub(crate) async fn start(config: VmConfig, limits: Limits) -> HarnessResult<Self> {
        let console = Console::create(config.console_path())?;
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
    pub(crate) fn is_replayed(&self) -> bool {
        self.config.tape == Some(TapeMode::Replay)
    }

    /// Connects to the guest's terminal, if it was given one. What the guest writes before that is lost.
    ///
    /// # Errors
    /// When QEMU has no such socket.
    pub async fn terminal(&self) -> HarnessResult<UnixStream> {
        connect(&self.socket_dir.path().join(TERMINAL_SOCKET)).await
    }

    /// Whether the guest switched its power off by itself, and QEMU ended well.
    #[must_use]
    pub fn is_powered_off(&self) -> bool {
        let well = self.process.end().is_some_and(|end| end.code == Some(0));
        let shutdown = self.qmp.events().shutdown;
        well && shutdown.is_some_and(|event| event.reason == GUEST_SHUTDOWN)
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
}
