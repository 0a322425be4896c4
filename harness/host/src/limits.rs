//! How long everything may take, and how large everything may get.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of one cell. The defaults fit software emulation on a busy host with two cores;
/// a limit is there to end a cell that will never end, not to measure speed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From the start of QEMU to the guest's Hello.
    pub boot: Duration,
    /// For a request that only asks.
    pub request: Duration,
    /// For setup and destroy of a snapshot, mount, unmount, module load and unload.
    pub control: Duration,
    /// For a copy of the snapshot, and for everything else that reads all of it.
    pub copy: Duration,
    /// For the end of a workload.
    pub stop: Duration,
    /// Without any heartbeat, the guest hangs.
    pub silence: Duration,
    /// From the request to power off to the end of QEMU.
    pub shutdown: Duration,
    /// How many times longer than on other kernels everything may take: a kernel full of checkers is slow.
    #[serde(default = "no_slowdown")]
    pub slowdown: u32,
}

/// When the kernel's watchdog and RCU complain by default, s; and the most that the watchdog accepts.
const LOCKUP_SECONDS: u32 = 10;
const LOCKUP_SECONDS_MAX: u32 = 60;
const STALL_SECONDS: u32 = 21;

fn no_slowdown() -> u32 {
    1
}

impl Limits {
    /// What a slow kernel is told, so that its own watchdogs wait longer too.
    #[must_use]
    pub fn kernel_parameters(&self) -> String {
        if self.slowdown == no_slowdown() {
            return String::new();
        }
        let lockup = (LOCKUP_SECONDS * self.slowdown).min(LOCKUP_SECONDS_MAX);
        let stall = STALL_SECONDS * self.slowdown;
        format!("watchdog_thresh={lockup} rcupdate.rcu_cpu_stall_timeout={stall}")
    }

    /// The limits of a kernel that is so many times slower than others.
    #[must_use]
    pub fn for_slowdown(slowdown: u32) -> Self {
        let usual = Self::default();
        Self {
            boot: usual.boot * slowdown,
            request: usual.request * slowdown,
            control: usual.control * slowdown,
            copy: usual.copy * slowdown,
            stop: usual.stop * slowdown,
            silence: usual.silence * slowdown,
            shutdown: usual.shutdown * slowdown,
            slowdown,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(60),
            request: Duration::from_secs(20),
            control: Duration::from_secs(60),
            copy: Duration::from_secs(180),
            stop: Duration::from_secs(60),
            silence: Duration::from_secs(25),
            shutdown: Duration::from_secs(30),
            slowdown: no_slowdown(),
        }
    }
}

/// After the end of QEMU, an answer has this long to arrive.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// After the first panic text on the console, QEMU has this long to print the rest and to end.
pub const PANIC_GRACE: Duration = Duration::from_secs(5);

/// A guest that hangs has this long to answer questions about it.
pub const EVIDENCE_LIMIT: Duration = Duration::from_secs(5);

/// What a hanging kernel is asked: to print everything, what each CPU does, which tasks are
/// blocked, and what all tasks do. See the kernel's `Documentation/admin-guide/sysrq.rst`.
pub const SYSRQ_KEYS: [u8; 4] = *b"9lwt";

/// Pause after each of them.
pub const SYSRQ_PAUSE: Duration = Duration::from_millis(1500);

/// How often more the registers of a hanging guest are looked at.
pub const STUCK_SAMPLES: usize = 4;

/// Pause before each look.
pub const STUCK_PAUSE: Duration = Duration::from_millis(300);

/// QEMU has this long to open its sockets.
pub const SOCKET_LIMIT: Duration = Duration::from_secs(10);

/// A QEMU whose sockets fail has this long to say why and end.
pub const REFUSAL_GRACE: Duration = Duration::from_secs(1);

/// Pause between two tries to connect to a socket of QEMU.
pub const SOCKET_POLL: Duration = Duration::from_millis(5);

/// QEMU has this long to answer one QMP command.
pub const QMP_LIMIT: Duration = Duration::from_secs(5);

/// The same while a tape is made or played: the monitor then waits for its turn beside the guest. On a host with five times
/// the load that it has CPUs for, 5 s were too short.
pub const TAPED_QMP_LIMIT: Duration = Duration::from_secs(120);

/// QEMU has this long to end after `quit`; then it is killed.
pub const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// Pause before a file that a guest writes to is read again.
pub const TAIL_POLL: Duration = Duration::from_millis(2);

/// What a guest wrote to it before its end is read within this.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Pause between two looks at the console and the heartbeat.
pub const SUPERVISION_PERIOD: Duration = Duration::from_millis(200);

/// Console text that is searched for a panic; a guest that prints more is evidence enough.
pub const MAX_CONSOLE_BYTES: u64 = 16 << 20;

/// A guest whose console has more than this prints without end, and is ended: what is read of it is at most
/// [`MAX_CONSOLE_BYTES`].
pub const MAX_CONSOLE_FILE_BYTES: u64 = 1 << 30;

/// A guest whose witness has more than this is ended, so that it cannot fill the host's disk.
pub const MAX_WITNESS_BYTES: u64 = 128 << 30;

/// The same of its tape, which is the largest part of a bundle.
pub const MAX_TAPE_BYTES: u64 = 64 << 30;

/// And of what a taped guest says: the journal of a long soak has 300 MB.
pub const MAX_SAID_BYTES: u64 = 4 << 30;

/// Journal batches and log lines kept per cell; beyond it they are counted and dropped.
pub const MAX_EVENT_BYTES: usize = 256 << 20;

/// Observations kept per cell.
pub const MAX_OBSERVATIONS: usize = 1024;

/// Lines of context around a finding in a console or kernel log.
pub const EXCERPT_LINES: usize = 60;
