//! The host's end of the agent protocol.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cowbird_proto::frame::{self, Decoder};
use cowbird_proto::message::{
    Event, FromGuest, GuestError, Hello, Observation, Reply, Request, RequestId, ToGuest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};

use crate::error::{HarnessError, HarnessResult};
use crate::limits::{MAX_EVENT_BYTES, MAX_OBSERVATIONS};
use crate::vm::connect;

const READ_BYTES: usize = 256 << 10;

/// An answer on its way.
type Waiter = oneshot::Sender<Result<Reply, GuestError>>;

/// The protocol connection to one guest.
pub struct Agent {
    write: tokio::sync::Mutex<OwnedWriteHalf>,
    shared: Arc<Shared>,
    hello: watch::Receiver<Option<Hello>>,
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
        tokio::spawn(receive(read, Arc::clone(&shared), hello_sender));
        Ok(Self {
            write: tokio::sync::Mutex::new(write),
            shared,
            hello,
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
            state.waiters.insert(id, sender);
            id
        };
        let bytes = frame::encode(&ToGuest::Request { id, request }).map_err(|error| {
            HarnessError::Protocol {
                detail: error.to_string(),
            }
        })?;
        self.write
            .lock()
            .await
            .write_all(&bytes)
            .await
            .map_err(|error| HarnessError::Protocol {
                detail: format!("cannot send a request: {error}"),
            })?;
        Ok(receiver)
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

/// Reads until QEMU closes the socket. After corruption it reads on, for evidence.
async fn receive(
    mut read: OwnedReadHalf,
    shared: Arc<Shared>,
    hello_sender: watch::Sender<Option<Hello>>,
) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count) = read.read(&mut buffer).await {
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
    }
}
