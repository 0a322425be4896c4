//! A guest that runs from the origin: what it was booted with, and what is to become of its next boot.

use cowbird_host::background::in_background;
use cowbird_proto::BOOT_LOG;
use cowbird_proto::message::{Reply, Request};
use cowbird_vm::CallError;

use super::{CaseError, CaseResult, ENOENT, GuestSession, SeriesRecord, unexpected};
use crate::boot_hooks::{self, Generator};

/// What is mounted where.
const MOUNTS: &str = "/proc/mounts";

impl GuestSession<'_, '_> {
    /// The guest must run from that device: its agent too, which was started from there.
    pub async fn expect_root(&mut self, device: &str) -> CaseResult<()> {
        let path = MOUNTS.to_owned();
        let reply = self.prepare(Request::ReadText { path }).await?;
        let Reply::Text(mounts) = reply else {
            return Err(unexpected(&reply));
        };
        let wanted = format!("{device} / ");
        if mounts.lines().any(|line| line.starts_with(&wanted)) {
            return Ok(());
        }
        let said = self.boot_log().await?;
        Err(CaseError::Failed(format!(
            "the guest does not run from {device}: {said}"
        )))
    }

    /// Makes the initramfs of the boots to come anew, as the first snapshot of a series asks for it.
    pub async fn update_initramfs(
        &mut self,
        generator: Generator,
        record: &SeriesRecord,
    ) -> CaseResult<()> {
        let (plan, record) = (self.machine.plan().clone(), record.clone());
        let part = in_background(move || boot_hooks::archive(&plan, generator, &record)).await?;
        Ok(self.machine.extend_initramfs(&part)?)
    }

    /// The boot hook must have loaded the module and taken the series up again, before the root volume was
    /// mounted; the recording of a traced cell begins here.
    pub async fn expect_taken_up(&mut self, minor: u32, device: &str) -> CaseResult<()> {
        self.expect_root(device).await?;
        let said = self.boot_log().await?;
        self.note(format!("at boot: {said}"));
        if let Err(error) = self.active_snapshot(minor).await {
            return match error {
                CaseError::Failed(reason) => {
                    Err(CaseError::Failed(format!("{reason}; at boot: {said}")))
                }
                error => Err(error),
            };
        }
        self.start_tracing().await
    }

    /// What was said until the root volume was mounted, in one line.
    async fn boot_log(&mut self) -> CaseResult<String> {
        let request = Request::ReadText {
            path: BOOT_LOG.into(),
        };
        let text = match self.call(request, self.limits.request).await {
            Ok(Reply::Text(text)) => text,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(CallError::Guest { error }) if error.errno == Some(ENOENT) => String::new(),
            Err(CallError::Guest { error }) => return Err(CaseError::Failed(error.message)),
            Err(CallError::Ended(end)) => return Err(end.into()),
        };
        let lines: Vec<&str> = text.lines().collect();
        Ok(if lines.is_empty() {
            "nothing was said".to_owned()
        } else {
            lines.join(" / ")
        })
    }
}
