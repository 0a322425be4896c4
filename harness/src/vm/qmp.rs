//! A QMP client: capabilities, commands, events.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use crate::error::{HarnessError, HarnessResult};
use crate::limits::QMP_LIMIT;
use crate::vm::connect;

/// Answers that nobody fetched; more than one command is never in flight.
const MAX_PENDING_ANSWERS: usize = 4;

/// A connection to the monitor of a running QEMU.
pub struct Qmp {
    inner: Mutex<Commands>,
    shutdown: watch::Receiver<Option<Shutdown>>,
}

struct Commands {
    write: OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
}

/// Why the guest stopped, by the event of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// Whether the guest itself asked for it.
    pub by_guest: bool,
    /// `guest-shutdown`, `guest-reset`, `guest-panic`, `host-qmp-quit`, `host-signal`...
    pub reason: String,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// When QEMU does not open the socket or does not greet.
    pub async fn connect(socket: &Path) -> HarnessResult<Self> {
        let stream = connect(socket).await?;
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let greeting = within("greeting", lines.next_line()).await?;
        if !greeting.as_deref().unwrap_or_default().contains("\"QMP\"") {
            return Err(qmp_error("greeting", format!("unexpected: {greeting:?}")));
        }
        within(
            "negotiate",
            write.write_all(b"{\"execute\":\"qmp_capabilities\"}\n"),
        )
        .await?;
        let (answer_sender, answers) = mpsc::channel(MAX_PENDING_ANSWERS);
        let (shutdown_sender, shutdown) = watch::channel(None);
        tokio::spawn(read_lines(lines, answer_sender, shutdown_sender));
        let qmp = Self {
            inner: Mutex::new(Commands { write, answers }),
            shutdown,
        };
        qmp.inner.lock().await.answer("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// Runs one command and gives what it returns.
    ///
    /// # Errors
    /// When QEMU refuses the command or does not answer in time.
    pub async fn execute(&self, command: &str, arguments: Value) -> HarnessResult<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let mut inner = self.inner.lock().await;
        within(command, inner.write.write_all(line.as_bytes())).await?;
        inner.answer(command).await
    }

    /// The run state: `running`, `paused`, `guest-panicked`...
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn status(&self) -> HarnessResult<String> {
        let answer = self.execute("query-status", json!({})).await?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    }

    /// A command of the human monitor, for evidence.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn monitor(&self, command: &str) -> HarnessResult<String> {
        let arguments = json!({ "command-line": command });
        let answer = self.execute("human-monitor-command", arguments).await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Asks QEMU to end.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn quit(&self) -> HarnessResult<()> {
        self.execute("quit", json!({})).await.map(|_| ())
    }

    /// The last shutdown event, if there was one.
    #[must_use]
    pub fn shutdown(&self) -> Option<Shutdown> {
        self.shutdown.borrow().clone()
    }
}

impl Commands {
    async fn answer(&mut self, command: &str) -> HarnessResult<Value> {
        let answer = timeout(QMP_LIMIT, self.answers.recv())
            .await
            .map_err(|_| qmp_error(command, format!("no answer within {QMP_LIMIT:?}")))?
            .ok_or_else(|| qmp_error(command, "the connection is closed".into()))?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(qmp_error(command, answer.to_string())),
        }
    }
}

/// Sorts lines into answers and events until QEMU closes the connection.
async fn read_lines(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    answers: mpsc::Sender<Value>,
    shutdown: watch::Sender<Option<Shutdown>>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if value.get("event").and_then(Value::as_str) == Some("SHUTDOWN") {
            let data = &value["data"];
            shutdown.send_replace(Some(Shutdown {
                by_guest: data["guest"].as_bool().unwrap_or_default(),
                reason: data["reason"].as_str().unwrap_or_default().to_owned(),
            }));
        } else if value.get("event").is_none() && answers.send(value).await.is_err() {
            return;
        }
    }
}

async fn within<T>(
    operation: &str,
    future: impl Future<Output = std::io::Result<T>>,
) -> HarnessResult<T> {
    let limit: Duration = QMP_LIMIT;
    match timeout(limit, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(qmp_error(operation, error.to_string())),
        Err(_) => Err(qmp_error(operation, format!("nothing within {limit:?}"))),
    }
}

fn qmp_error(operation: &str, detail: String) -> HarnessError {
    HarnessError::Qmp {
        operation: operation.to_owned(),
        detail,
    }
}
