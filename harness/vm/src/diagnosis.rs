//! Why a guest will not answer any more, by all that can be seen of it from outside.

use std::path::PathBuf;

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::kernel_log::{Splat, find_agent_lost, find_panic, is_stale_breakpoint};
use cowbird_host::limits::{PANIC_GRACE, STUCK_PAUSE, STUCK_SAMPLES, SYSRQ_KEYS, SYSRQ_PAUSE};
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::time::{sleep, timeout};

use crate::accel::Accel;
use crate::command::{CONSOLE, REGISTERS_FILE};
use crate::process::{ProcessEnd, last_lines};
use crate::socket::connect;
use crate::vm::Vm;
use crate::{End, stuck};

impl Vm {
    /// Finds out whether the guest is still one that can answer.
    pub async fn check(&mut self) -> Result<(), End> {
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
    pub fn panicked(&self, panic: Splat) -> End {
        if self.config.accel == Accel::Tcg && is_stale_breakpoint(&panic.excerpt) {
            return HarnessError::Emulator {
                excerpt: panic.excerpt,
            }
            .into();
        }
        End::Panic(panic)
    }

    /// QEMU has ended and nobody asked it to: says why.
    pub(crate) fn classify_exit(&mut self, end: ProcessEnd) -> End {
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
    pub async fn hang(&mut self, reason: String) -> End {
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
    pub(crate) async fn no_answer(&mut self, name: &str) -> End {
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
fn outgrown(files: &[(PathBuf, u64)]) -> Option<String> {
    files.iter().find_map(|(path, most)| {
        let bytes = std::fs::metadata(path).ok()?.len();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        (bytes > *most).then(|| {
            format!("{name} has {bytes} bytes, of {most} at most: the guest was ended before the host's disk is full")
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

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
