//! A QMP client: capabilities, commands, events.

use std::path::Path;
use std::time::Duration;

use cowbird_host::error::{HarnessError, HarnessResult};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use crate::socket::connect;

/// Answers that nobody fetched; more than one command is never in flight.
const MAX_PENDING_ANSWERS: usize = 4;

/// A connection to the monitor of a running QEMU.
pub struct Qmp {
    inner: Mutex<Commands>,
    events: watch::Receiver<Events>,
}

/// What QEMU told unasked, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// The last shutdown event.
    pub shutdown: Option<Shutdown>,
    /// The first failed access to a disk's file on the host.
    pub disk_error: Option<String>,
}

struct Commands {
    write: OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
    /// QEMU has so long for each answer.
    limit: Duration,
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
    /// Connects to a QEMU that may take so long for each answer, and negotiates.
    ///
    /// # Errors
    /// When QEMU does not open the socket or does not greet.
    pub async fn connect(socket: &Path, limit: Duration) -> HarnessResult<Self> {
        let stream = connect(socket).await?;
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let greeting = within(limit, "greeting", lines.next_line()).await?;
        if !greeting.as_deref().unwrap_or_default().contains("\"QMP\"") {
            return Err(qmp_error("greeting", format!("unexpected: {greeting:?}")));
        }
        within(
            limit,
            "negotiate",
            write.write_all(b"{\"execute\":\"qmp_capabilities\"}\n"),
        )
        .await?;
        let (answer_sender, answers) = mpsc::channel(MAX_PENDING_ANSWERS);
        let (event_sender, events) = watch::channel(Events::default());
        tokio::spawn(read_lines(lines, answer_sender, event_sender));
        let qmp = Self {
            inner: Mutex::new(Commands {
                write,
                answers,
                limit,
            }),
            events,
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
        let limit = inner.limit;
        within(limit, command, inner.write.write_all(line.as_bytes())).await?;
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

    /// What QEMU told unasked so far.
    #[must_use]
    pub fn events(&self) -> Events {
        self.events.borrow().clone()
    }
}

impl Commands {
    async fn answer(&mut self, command: &str) -> HarnessResult<Value> {
        let answer = timeout(self.limit, self.answers.recv())
            .await
            .map_err(|_| qmp_error(command, format!("no answer within {:?}", self.limit)))?
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
    events: watch::Sender<Events>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if value.get("event").is_some() {
            events.send_modify(|events| events.take(&value));
        } else if answers.send(value).await.is_err() {
            return;
        }
    }
}

impl Events {
    fn take(&mut self, event: &Value) {
        let data = &event["data"];
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("SHUTDOWN") => {
                let by_guest = data["guest"].as_bool().unwrap_or_default();
                self.shutdown = Some(Shutdown {
                    by_guest,
                    reason: text("reason"),
                });
            }
            Some("BLOCK_IO_ERROR") if self.disk_error.is_none() => {
                let (node, reason) = (text("node-name"), text("reason"));
                self.disk_error = Some(format!("{} on {node}: {reason}", text("operation")));
            }
            _ => {}
        }
    }
}

async fn within<T>(
    limit: Duration,
    operation: &str,
    future: impl Future<Output = std::io::Result<T>>,
) -> HarnessResult<T> {
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
