//! What is asked of a guest: that it boots, answers, goes on for a while, switches itself off.
//!
//! Whoever waits for the guest waits through [`Vm`], which watches the process, the console, the
//! heartbeat and the protocol meanwhile, and says in one [`End`] why there will be no answer.

use std::time::{Duration, Instant};

use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_host::kernel_log::find_panic;
use cowbird_host::limits::{LAST_WORDS, Limits, SOCKET_POLL, SUPERVISION_PERIOD};
use cowbird_proto::message::{GuestError, Hello, Reply, Request};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, timeout};

use crate::End;
use crate::command::VmConfig;
use crate::process::ProcessEnd;
use crate::vm::Vm;

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
}

/// The name of a request without its arguments, which can be long.
fn request_name(request: &Request) -> String {
    let text = format!("{request:?}");
    let end = text.find([' ', '{', '(']).unwrap_or(text.len());
    text[..end].to_owned()
}
