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
const SPLAT_STARTS: [&str; 4] = [
    "WARNING: ",
    "Oops: ",
    "------------[ cut here ]",
    "BUG ", // the slab allocator: "BUG kmalloc-64 (Not tainted): Poison overwritten"
];

/// Texts that no healthy kernel prints, whoever is to blame.
const SPLATS: [&str; 19] = [
    "BUG: ",
    "kernel BUG at",
    "general protection fault",
    "INFO: task ", // hung task
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "rcu: INFO: ",      // RCU stall
    "INFO: rcu_tasks ", // the same of another kind of RCU
    "blocked for more than",
    "refcount_t: ",
    "UBSAN: ",
    "list_add corruption",
    "list_del corruption",
    "pagealloc: ", // poison overwritten
    "INFO: trying to register non-static key",
    // A checker that gave up finds nothing any more.
    "turning off the locking correctness validator",
    "ODEBUG: ",
    "kmemleak: Kernel memory leak detector disabled",
];

/// How the memory leak detector begins a report.
const LEAK_START: &str = "unreferenced object ";

/// How it marks a call in the module under test.
const MODULE_FRAME: &str = "[cowbird]";

/// How it prints an address that belongs to no function, as those of a module that was unloaded. No other
/// module is ever unloaded in a guest.
const FRAME_WITHOUT_SYMBOL: &str = "0x";

/// Texts on the console after which the kernel is gone.
const PANICS: [&str; 2] = ["Kernel panic - not syncing", "end Kernel panic"];

/// How the kernel numbers the first oops, on its first line.
const FIRST_OOPS: &str = "[#1]";

/// So far above a panic its first oops is looked for.
const OOPS_LINES: usize = 500;

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

/// The first record that no passing cell may have, if any. The module may warn with the texts that
/// are expected.
#[must_use]
pub fn find_splat(records: &[KernelRecord], expected: &[&str]) -> Option<Splat> {
    let is_expected = |record: &KernelRecord| {
        record.text.starts_with(MODULE_PREFIX)
            && expected.iter().any(|text| record.text.contains(text))
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

/// The records before the module under test was first loaded, and those since. What the kernel says of
/// itself before, nobody but the host is to blame for: a host that is too busy to run the guest looks
/// like a lockup in it (seen with 6.12 under emulation: a stall during boot with 18 processes waiting
/// for two CPUs).
#[must_use]
pub fn split_at_module(records: &[KernelRecord]) -> (&[KernelRecord], &[KernelRecord]) {
    let loaded = |record: &KernelRecord| {
        record.text.starts_with(MODULE_PREFIX) && record.text.contains(LOADER_NOTICES[0])
    };
    let at = records.iter().position(loaded).unwrap_or(records.len());
    records.split_at(at)
}

/// The first report of the memory leak detector that has a call of the module under test in its
/// backtrace, if any. What the kernel itself leaks is not the module's fault.
#[must_use]
pub fn find_leak(text: &str) -> Option<Splat> {
    let lines: Vec<&str> = text.lines().collect();
    let mut reports = lines.chunk_by(|_, next| !next.starts_with(LEAK_START));
    let report = reports.find(|report| report.iter().any(|line| is_module_frame(line)))?;
    Some(Splat {
        headline: format!("kmemleak: {}", report[0]),
        excerpt: report
            .iter()
            .take(EXCERPT_LINES)
            .copied()
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

/// Since 6.6 a frame stands alone on its line; before, its address in brackets comes first.
fn is_module_frame(line: &str) -> bool {
    let frame = line.trim_start();
    let frame = match frame.strip_prefix("[<") {
        Some(rest) => rest.split_once(">] ").map_or("", |(_, frame)| frame),
        None => frame,
    };
    frame.contains(MODULE_FRAME) || frame.starts_with(FRAME_WITHOUT_SYMBOL)
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

/// The console text from the oops that led to the first panic line, or some lines before that, to its end,
/// if there is one. With several CPUs in trouble the first one's oops may be far up.
#[must_use]
pub fn find_panic(console: &str) -> Option<Splat> {
    let lines: Vec<&str> = console.lines().collect();
    let at = lines
        .iter()
        .position(|line| PANICS.iter().any(|panic| line.contains(panic)))?;
    let far = at.saturating_sub(OOPS_LINES);
    let oops = lines[far..at]
        .iter()
        .position(|line| line.contains(FIRST_OOPS));
    let near = at.saturating_sub(EXCERPT_LINES);
    let from = oops.map_or(near, |oops| near.min(far + oops));
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
        .skip_while(|line| !(line.contains("int3: 0000") && line.contains(FIRST_OOPS)));
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
        assert_eq!(find_splat(&records, &[]), None);
    }

    #[test]
    fn every_kind_of_splat_is_found() {
        for text in [
            "WARNING: CPU: 0 PID: 1 at kernel/x.c:12",
            "BUG: KASAN: use-after-free in f",
            "INFO: task cowbird blocked for more than 20 seconds",
            "WARNING: possible circular locking dependency detected",
            "WARNING: possible recursive locking detected",
            "WARNING: inconsistent lock state",
            "WARNING: suspicious RCU usage",
            "WARNING: bad unlock balance detected!",
            "WARNING: held lock freed!",
            "[ BUG: Invalid wait context ]",
            "BUG: sleeping function called from invalid context at mm/x.c:1",
            "BUG: scheduling while atomic: swapper/0/0/0x00000002",
            "BUG: using smp_processor_id() in preemptible [00000000] code: x/1",
            "INFO: trying to register non-static key.",
            "BUG: MAX_LOCKDEP_ENTRIES too low!",
            "turning off the locking correctness validator.",
            "list_add corruption. prev->next should be next (1), but was 2. (prev=3).",
            "list_del corruption, 1->next is LIST_POISON1 (2)",
            "ODEBUG: free active (active state 0) object: 1 object type: work_struct hint: f+0x0",
            "BUG kmalloc-64 (Tainted: G           O): Poison overwritten",
            "pagealloc: memory corruption",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 30s!",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: rcu_tasks detected stalls on tasks:",
            "kmemleak: Kernel memory leak detector disabled",
            "kernel BUG at fs/x.c:12!",
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
            "refcount_t: underflow; use-after-free.",
            "UBSAN: shift-out-of-bounds in x.c:1:2",
        ] {
            let records = [
                record(6, "before"),
                record(4, text),
                record(4, "Call Trace:"),
            ];
            let splat = find_splat(&records, &[]).unwrap();
            assert_eq!(splat.headline, text);
            assert!(splat.excerpt.ends_with("Call Trace:"));
        }
    }

    /// Goal: what the kernel said before the module was there is told from what it said since. Method: the
    /// same splat before, after, and where the module was never loaded.
    #[test]
    fn splats_before_the_module_are_told_apart() {
        let splat = record(
            0,
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
        );
        let load = record(4, "cowbird: loading out-of-tree module taints kernel.");
        let found = |records: &[KernelRecord]| {
            let (before, since) = split_at_module(records);
            (
                find_splat(before, &[]).is_some(),
                find_splat(since, &[]).is_some(),
            )
        };
        assert_eq!(found(&[splat.clone(), load.clone()]), (true, false));
        assert_eq!(found(&[load.clone(), splat.clone()]), (false, true));
        assert_eq!(
            found(&[splat.clone(), load.clone(), splat.clone(), load]),
            (true, true)
        );
        assert_eq!(found(&[splat]), (true, false));
    }

    #[test]
    fn a_warning_of_the_module_is_a_splat_and_its_notice_is_not() {
        assert!(find_splat(&[record(4, "cowbird: COW file full")], &[]).is_some());
        assert!(find_splat(&[record(3, "cowbird cowbird0: I/O error")], &[]).is_some());
        assert!(find_splat(&[record(5, "cowbird: loaded")], &[]).is_none());
        let failed = [record(3, "cowbird: snapshot 0 has failed")];
        assert!(find_splat(&failed, &["has failed"]).is_none());
        assert!(find_splat(&failed, &["COW file full"]).is_some());
        assert!(find_splat(&[record(3, "BUG: has failed")], &["has failed"]).is_some());
    }

    /// Goal: leaks of the module are found, before and after it was unloaded, and the kernel's own are not its
    /// fault. Method: reports as 6.12 and as 6.1 print them.
    #[test]
    fn leaks_of_the_module_are_found() {
        let own = "unreferenced object 0xffff888003a0 (size 64):\n  comm \"init\", pid 1, jiffies 4294\n  \
            hex dump (first 32 bytes):\n    00 00 00 00  ....\n  backtrace (crc 0):\n    __kmalloc+0x1/0x2\n    \
            kernel_init+0x1e/0x140\n";
        let loaded = "unreferenced object 0xffff888004b0 (size 32):\n  comm \"x\", pid 9, jiffies 1\n  \
            backtrace (crc 0):\n    __kmalloc+0x1/0x2\n    cb_engine_start+0x5/0x9 [cowbird]\n";
        let unloaded = loaded.replace("cb_engine_start+0x5/0x9 [cowbird]", "0xffffffffa0001234");
        let old = "unreferenced object 0xffff888004b0 (size 32):\n  comm \"x\", pid 9, jiffies 1\n  backtrace:\n    \
            [<00000000a1b2c3d4>] __kmalloc+0x1/0x2\n    [<00000000a1b2c3d5>] 0xffffffffc0123456\n";
        assert_eq!(find_leak(""), None);
        assert_eq!(find_leak(own), None);
        for leak in [loaded, &unloaded, old] {
            let found = find_leak(&format!("{own}{leak}{own}")).unwrap();
            assert_eq!(
                found.headline,
                "kmemleak: unreferenced object 0xffff888004b0 (size 32):"
            );
            assert_eq!(found.excerpt.trim_end(), leak.trim_end());
        }
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

    /// Goal: the oops of one CPU is not lost behind those of others. Method: a hundred lines in between.
    #[test]
    fn a_panic_begins_with_the_first_oops() {
        let between = "[    5.4] x+0x1/0x2\n".repeat(100);
        let console = format!(
            "[ 5.0] before\n[ 5.3] Oops: int3: 0000 [#1] SMP\n[ 5.3] Code: 1e fa e8 <37> 81\n{between}\
             [ 5.5] Oops: int3: 0000 [#2] SMP\n[ 5.6] Kernel panic - not syncing: x\n"
        );
        let panic = find_panic(&console).unwrap();
        assert!(
            panic.excerpt.starts_with("[ 5.3] Oops"),
            "{}",
            panic.excerpt
        );
        assert!(is_stale_breakpoint(&panic.excerpt));
    }
}
