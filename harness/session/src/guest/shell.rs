//! Scripts of a shell in the guest: what an operator types that no message of the agent's has words for.

use cowbird_host::program::HostProgram;
use cowbird_proto::message::Exited;

use super::{CaseError, CaseResult, GuestSession};

/// The shell, and what its scripts here use.
pub const SHELL: HostProgram = HostProgram {
    program: "dash",
    package: "dash",
};

/// A program of coreutils.
pub const fn coreutil(program: &'static str) -> HostProgram {
    HostProgram {
        program,
        package: "coreutils",
    }
}

/// Where programs of the host and the agent's own are, an end at the first failure, and a word for what must fail: the shell
/// does not end at `!`.
const PROLOGUE: &str = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; set -eu; \
    fails() { if \"$@\"; then echo \"$* succeeded\" >&2; exit 99; fi; }; ";

impl GuestSession<'_, '_> {
    /// Runs a script to whatever end.
    pub async fn shell_to_any_end(&mut self, script: &str) -> CaseResult<Exited> {
        let script = format!("{PROLOGUE}{script}");
        let shell = SHELL.path()?;
        self.run_to_any_end(&shell, &["-c", &script]).await
    }

    /// Runs a script, which must succeed; gives what it printed.
    pub async fn shell(&mut self, script: &str) -> CaseResult<String> {
        self.shell_to(script, 0).await.map(|exited| exited.stdout)
    }

    /// Runs a script, which must end with that exit code.
    pub async fn shell_to(&mut self, script: &str, code: i32) -> CaseResult<Exited> {
        let exited = self.shell_to_any_end(script).await?;
        if exited.code == Some(code) {
            return Ok(exited);
        }
        Err(CaseError::Failed(format!(
            "{script}: exit code {:?} (signal {:?}) instead of {code}: {} / {}",
            exited.code,
            exited.signal,
            exited.stdout.trim().replace('\n', " / "),
            exited.stderr.trim().replace('\n', " / "),
        )))
    }

    /// Runs a script, which must be refused for a reason that names this; with exit code 1, or the one that is given.
    pub async fn expect_shell_refusal(
        &mut self,
        script: &str,
        code: i32,
        named: &str,
    ) -> CaseResult<()> {
        let exited = self.shell_to(script, code).await?;
        if exited.stderr.contains(named) {
            self.note(format!("refused as it must be: {}", exited.stderr.trim()));
            return Ok(());
        }
        Err(CaseError::Failed(format!(
            "{script}: the refusal does not name \"{named}\": {}",
            exited.stderr.trim()
        )))
    }
}
