//! Judges what the kernel said: pure functions over records and console text.

use cowbird_proto::message::KernelRecord;

use crate::limits::EXCERPT_LINES;

/// Severity of a warning; smaller is worse.
const LEVEL_WARNING: u8 = 4;

/// How messages of the module under test start.
const MODULE_PREFIX: &str = "cowbird";

/// What the kernel's module loader says, in the name of the module, about every module that is not
/// part of the kernel.
const LOADER_NOTICES: [&str; 2] = [
    "loading out-of-tree module taints kernel",
    "module verification failed: signature",
];

/// Starts of lines that no healthy kernel prints. Only at the start of a line, because notices
/// quote the first one: "Spectre V2 : WARNING: Unprivileged eBPF is enabled".
const SPLAT_STARTS: [&str; 3] = ["WARNING: ", "Oops: ", "------------[ cut here ]"];

/// Texts that no healthy kernel prints, whoever is to blame.
const SPLATS: [&str; 11] = [
    "BUG: ",
    "kernel BUG at",
    "general protection fault",
    "INFO: task ", // hung task
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "rcu: INFO: ", // RCU stall
    "blocked for more than",
    "refcount_t: ",
    "UBSAN: ",
];

/// Texts on the console after which the kernel is gone.
const PANICS: [&str; 2] = ["Kernel panic - not syncing", "end Kernel panic"];

/// By which the guest's init says that its agent, not the kernel, failed.
const AGENT_LOST: &str = "cowbird-guest: AGENT LOST";

/// The breakpoint instruction, as the kernel prints code.
const BREAKPOINT: &str = "cc";

/// A finding in the kernel log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splat {
    /// The line that gives it away.
    pub headline: String,
    /// The lines from there on, bounded.
    pub excerpt: String,
}

/// The first record that no passing cell may have, if any. The module may warn with the text that is
/// expected.
#[must_use]
pub fn find_splat(records: &[KernelRecord], expected: Option<&str>) -> Option<Splat> {
    let is_expected = |record: &KernelRecord| {
        record.text.starts_with(MODULE_PREFIX)
            && expected.is_some_and(|expected| record.text.contains(expected))
    };
    let first = records
        .iter()
        .position(|record| is_splat(record) && !is_expected(record))?;
    let excerpt: Vec<&str> = records[first..]
        .iter()
        .take(EXCERPT_LINES)
        .map(|record| record.text.as_str())
        .collect();
    Some(Splat {
        headline: records[first].text.clone(),
        excerpt: excerpt.join("\n"),
    })
}

fn is_splat(record: &KernelRecord) -> bool {
    let notice = LOADER_NOTICES
        .iter()
        .any(|notice| record.text.contains(notice));
    if record.level <= LEVEL_WARNING && record.text.starts_with(MODULE_PREFIX) && !notice {
        return true;
    }
    SPLAT_STARTS
        .iter()
        .any(|start| record.text.starts_with(start))
        || SPLATS.iter().any(|splat| record.text.contains(splat))
}

/// The console text from the first panic line (with some lines before it: the oops that led there)
/// to its end, if there is one.
#[must_use]
pub fn find_panic(console: &str) -> Option<Splat> {
    let lines: Vec<&str> = console.lines().collect();
    let at = lines
        .iter()
        .position(|line| PANICS.iter().any(|panic| line.contains(panic)))?;
    let from = at.saturating_sub(EXCERPT_LINES);
    let to = lines.len().min(at + EXCERPT_LINES);
    Some(Splat {
        headline: lines[at].to_owned(),
        excerpt: lines[from..to].join("\n"),
    })
}

/// Whether the kernel died of a breakpoint instruction that is not in its memory.
///
/// Kernels patch their own code with breakpoints in between. QEMU before 8.1 can go on executing
/// such a breakpoint after it was replaced (it translated the code while another CPU wrote it); the
/// kernel then finds no reason for it and panics. The kernel prints the memory around the
/// instruction, which has no breakpoint (`cc`) any more: no fault of any software in the guest
/// looks like this. Seen with QEMU 7.2: `Oops: int3` in `set_next_task_fair` of 7.3, one boot of 30.
#[must_use]
pub fn is_stale_breakpoint(excerpt: &str) -> bool {
    let mut lines = excerpt
        .lines()
        .skip_while(|line| !line.contains("int3: 0000 [#1]"));
    let code = lines.find_map(|line| line.split_once("Code: ").map(|(_, code)| code));
    code.and_then(|code| code.split_once(" <"))
        .and_then(|(before, _)| before.split_whitespace().next_back())
        .is_some_and(|executed| executed != BREAKPOINT)
}

/// The line by which the guest's init reports the end of its agent, if there is one.
#[must_use]
pub fn find_agent_lost(console: &str) -> Option<&str> {
    console.lines().find(|line| line.contains(AGENT_LOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(level: u8, text: &str) -> KernelRecord {
        KernelRecord {
            sequence: 0,
            level,
            time_us: 0,
            text: text.into(),
        }
    }

    #[test]
    fn a_quiet_log_is_no_splat() {
        let records = [
            record(6, "cowbird: snapshot 0 active"),
            record(4, "cowbird: loading out-of-tree module taints kernel."),
            record(4, "virtio_blk virtio1: some warning of another driver"),
            record(3, "Spectre V2 : WARNING: Unprivileged eBPF is enabled"),
        ];
        assert_eq!(find_splat(&records, None), None);
    }

    #[test]
    fn every_kind_of_splat_is_found() {
        for text in [
            "WARNING: CPU: 0 PID: 1 at kernel/x.c:12",
            "BUG: KASAN: use-after-free in f",
            "INFO: task cowbird blocked for more than 20 seconds",
            "WARNING: possible circular locking dependency detected",
        ] {
            let records = [
                record(6, "before"),
                record(4, text),
                record(4, "Call Trace:"),
            ];
            let splat = find_splat(&records, None).unwrap();
            assert_eq!(splat.headline, text);
            assert!(splat.excerpt.ends_with("Call Trace:"));
        }
    }

    #[test]
    fn a_warning_of_the_module_is_a_splat_and_its_notice_is_not() {
        assert!(find_splat(&[record(4, "cowbird: COW file full")], None).is_some());
        assert!(find_splat(&[record(3, "cowbird cowbird0: I/O error")], None).is_some());
        assert!(find_splat(&[record(5, "cowbird: loaded")], None).is_none());
        let failed = [record(3, "cowbird: snapshot 0 has failed")];
        assert!(find_splat(&failed, Some("has failed")).is_none());
        assert!(find_splat(&failed, Some("COW file full")).is_some());
        assert!(find_splat(&[record(3, "BUG: has failed")], Some("has failed")).is_some());
    }

    /// Goal: only a breakpoint that is not there is the emulator's fault. Method: the lines of a
    /// real one, and the same with the breakpoint in memory.
    #[test]
    fn a_breakpoint_that_is_not_in_memory_is_told_from_one_that_is() {
        let real = "[    1.411207] Oops: int3: 0000 [#1] SMP NOPTI\n\
            [    1.413161] RIP: 0010:set_next_task_fair+0x609/0x780\n\
            [    1.413161] Code: 47 c2 eb 6d 0f <1f> 44 00 00 48 8b 3c 24 4c\n\
            [    1.413161] Kernel panic - not syncing: Fatal exception in interrupt\n";
        assert!(is_stale_breakpoint(real));
        assert!(!is_stale_breakpoint(
            &real.replace("6d 0f <1f>", "6d cc <1f>")
        ));
        assert!(!is_stale_breakpoint(&real.replace("int3: 0000", "0002")));
    }

    #[test]
    fn a_panic_comes_with_what_led_to_it() {
        let console = "one\n[ 1.0] BUG: unable to handle\n[ 1.1] Kernel panic - not syncing: x\n";
        let panic = find_panic(console).unwrap();
        assert!(panic.headline.contains("not syncing: x"));
        assert!(panic.excerpt.contains("unable to handle"));
        assert_eq!(find_panic("all is well"), None);
    }
}
