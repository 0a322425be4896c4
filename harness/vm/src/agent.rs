//! The host's end of the agent protocol.
//!
//! The guest of a tape that is played says everything by itself, as fast as it can, whatever it is asked. Its answers are
//! kept until their questions come, and each question must be, to the byte, that of the recording.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::limits::{MAX_EVENT_BYTES, MAX_OBSERVATIONS, SETTLE_LIMIT, TAIL_POLL};
use cowbird_proto::frame::{self, Decoder};
use cowbird_proto::message::{
    Event, FromGuest, GuestError, Hello, Observation, Reply, Request, RequestId, ToGuest,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant as Then, sleep};

use crate::socket::connect;

const READ_BYTES: usize = 256 << 10;

/// An answer on its way.
type Waiter = oneshot::Sender<Result<Reply, GuestError>>;

/// The protocol connection to one guest.
pub struct Agent {
    asks: tokio::sync::Mutex<Asks>,
    shared: Arc<Shared>,
    hello: watch::Receiver<Option<Hello>>,
    reader: JoinHandle<()>,
    /// The file that the guest writes to, if it does.
    said: Option<PathBuf>,
}

/// Where questions go.
enum Asks {
    /// To the guest.
    Guest(OwnedWriteHalf),
    /// To the guest, and to a file.
    GuestAndFile(OwnedWriteHalf, File, PathBuf),
    /// Nowhere: they are those of a recording, of which so many bytes are through.
    Recording(Vec<u8>, usize),
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    waiters: HashMap<RequestId, Waiter>,
    last_sign_of_life: Option<Instant>,
    corrupt: Option<String>,
    record: GuestRecord,
    record_bytes: usize,
    /// Whether answers may come before their questions.
    replayed: bool,
    /// Those that did; no more than the tape has.
    early: HashMap<RequestId, Result<Reply, GuestError>>,
    received_bytes: u64,
}

/// What the guest told unasked.
#[derive(Debug, Default)]
pub struct GuestRecord {
    /// Journal and log, in order of arrival. Heartbeats are not kept.
    pub events: Vec<Event>,
    /// Differing snapshot reads.
    pub observations: Vec<Observation>,
    /// Events that were dropped because the record was full.
    pub dropped: u64,
}

impl GuestRecord {
    /// Adds what a later boot of the same machine told.
    pub fn append(&mut self, later: Self) {
        self.events.extend(later.events);
        self.observations.extend(later.observations);
        self.dropped += later.dropped;
    }
}

impl Agent {
    /// Connects; the guest need not run yet.
    ///
    /// # Errors
    /// When QEMU does not open the socket.
    pub async fn connect(socket: &Path) -> HarnessResult<Self> {
        let (read, write) = connect(socket).await?.into_split();
        let shared = Arc::new(Shared::default());
        let (hello_sender, hello) = watch::channel(None);
        let reader = tokio::spawn(receive(read, Arc::clone(&shared), hello_sender, false));
        Ok(Self {
            asks: Asks::Guest(write).into(),
            shared,
            hello,
            reader,
            said: None,
        })
    }

    /// The same with a guest of which a tape is made: it says what it says to the file `said`, and what it is asked is
    /// kept in `asked`.
    ///
    /// # Errors
    /// When QEMU does not open the socket, or a file cannot be made.
    pub async fn record(socket: &Path, asked: &Path, said: &Path) -> HarnessResult<Self> {
        let (_, write) = connect(socket).await?.into_split();
        let file = File::create(asked).on("create", asked)?;
        Self::on_tape(
            Asks::GuestAndFile(write, file, asked.to_owned()),
            said,
            false,
        )
        .await
    }

    /// The same with a guest whose tape is played; `asked` is what it was asked when the tape was made.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn replay(asked: &Path, said: &Path) -> HarnessResult<Self> {
        let recording = std::fs::read(asked).on("read", asked)?;
        Self::on_tape(Asks::Recording(recording, 0), said, true).await
    }

    async fn on_tape(asks: Asks, said: &Path, replayed: bool) -> HarnessResult<Self> {
        // QEMU makes it too; whoever is first.
        let file = File::options().create(true).append(true).open(said);
        drop(file.on("create", said)?);
        let read = tokio::fs::File::open(said).await.on("open", said)?;
        let shared = Arc::new(Shared::default());
        shared.lock().replayed = replayed;
        let (hello_sender, hello) = watch::channel(None);
        let reader = tokio::spawn(receive(read, Arc::clone(&shared), hello_sender, true));
        Ok(Self {
            asks: asks.into(),
            shared,
            hello,
            reader,
            said: Some(said.to_owned()),
        })
    }

    /// Waits for the guest's Hello.
    pub async fn hello(&self) -> Option<Hello> {
        let mut hello = self.hello.clone();
        hello
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|hello| hello.clone())
    }

    /// Sends a request; the answer arrives in the receiver.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub async fn request(
        &self,
        request: Request,
    ) -> HarnessResult<oneshot::Receiver<Result<Reply, GuestError>>> {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut state = self.shared.lock();
            state.next_id += 1;
            let id = RequestId(state.next_id);
            match state.early.remove(&id) {
                // Nobody can have dropped the receiver yet.
                Some(answer) => drop(sender.send(answer)),
                None => drop(state.waiters.insert(id, sender)),
            }
            id
        };
        let bytes = frame::encode(&ToGuest::Request { id, request }).map_err(|error| {
            HarnessError::Protocol {
                detail: error.to_string(),
            }
        })?;
        self.asks.lock().await.send(&bytes).await?;
        Ok(receiver)
    }

    /// After the end of QEMU: waits until everything that the guest said is read. Over a socket it is there when its
    /// answer to the last question is.
    pub async fn settle(&self) {
        let Some(said) = &self.said else {
            return;
        };
        let deadline = Then::now() + SETTLE_LIMIT;
        let written = || std::fs::metadata(said).map_or(0, |meta| meta.len());
        while self.shared.lock().received_bytes < written() && Then::now() < deadline {
            sleep(TAIL_POLL).await;
        }
    }

    /// How long ago anything arrived; `None` before the Hello.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        self.shared.lock().last_sign_of_life.map(|at| at.elapsed())
    }

    /// Why the stream is corrupt, if it is.
    #[must_use]
    pub fn corrupt(&self) -> Option<String> {
        self.shared.lock().corrupt.clone()
    }

    /// Takes everything that the guest told unasked so far.
    #[must_use]
    pub fn take_record(&self) -> GuestRecord {
        let mut state = self.shared.lock();
        state.record_bytes = 0;
        std::mem::take(&mut state.record)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, message: FromGuest, frame_bytes: usize) -> Option<Hello> {
        let mut state = self.lock();
        state.last_sign_of_life = Some(Instant::now());
        match message {
            FromGuest::Hello(hello) => return Some(hello),
            FromGuest::Response { id, result } => {
                if let Some(waiter) = state.waiters.remove(&id) {
                    // The caller may have given up waiting.
                    let _ = waiter.send(result);
                } else if state.replayed {
                    state.early.insert(id, result);
                }
            }
            FromGuest::Event(event) => state.keep(event, frame_bytes),
        }
        None
    }
}

impl State {
    fn keep(&mut self, event: Event, frame_bytes: usize) {
        match event {
            Event::Heartbeat { .. } => {}
            Event::Observation(observation)
                if self.record.observations.len() < MAX_OBSERVATIONS =>
            {
                self.record.observations.push(observation);
            }
            event if self.record_bytes < MAX_EVENT_BYTES => {
                self.record_bytes += frame_bytes;
                self.record.events.push(event);
            }
            _ => self.record.dropped += 1,
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Asks {
    async fn send(&mut self, bytes: &[u8]) -> HarnessResult<()> {
        let unsent = |error: std::io::Error| HarnessError::Protocol {
            detail: format!("cannot send a request: {error}"),
        };
        match self {
            Self::Guest(write) => write.write_all(bytes).await.map_err(unsent),
            Self::GuestAndFile(write, file, path) => {
                file.write_all(bytes).on("write", path)?;
                write.write_all(bytes).await.map_err(unsent)
            }
            Self::Recording(recording, at) => {
                let end = *at + bytes.len();
                if recording.get(*at..end) != Some(bytes) {
                    let detail = format!(
                        "a replayed guest is asked something else than at its recording, {at} bytes in: replay it with \
                         the harness that recorded it"
                    );
                    return Err(HarnessError::Protocol { detail });
                }
                *at = end;
                Ok(())
            }
        }
    }
}

/// Reads until QEMU closes the socket; a file that grows, until it is stopped. After corruption it reads on, for
/// evidence.
async fn receive(
    mut read: impl AsyncRead + Unpin,
    shared: Arc<Shared>,
    hello_sender: watch::Sender<Option<Hello>>,
    grows: bool,
) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count) = read.read(&mut buffer).await {
        if count == 0 && grows {
            sleep(TAIL_POLL).await;
            continue;
        }
        if count == 0 {
            return;
        }
        decoder.push(&buffer[..count]);
        loop {
            let start = decoder.stream_offset();
            match decoder.next_message() {
                Ok(Some(message)) => {
                    let frame_bytes = (decoder.stream_offset() - start) as usize;
                    if let Some(hello) = shared.accept(message, frame_bytes) {
                        hello_sender.send_replace(Some(hello));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    shared.lock().corrupt.get_or_insert(error.to_string());
                }
            }
        }
        shared.lock().received_bytes += count as u64;
    }
}
