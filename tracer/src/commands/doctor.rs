//! `doctor`: what this machine allows.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use cowbird_events::kernel::KernelError;
use cowbird_outside::say;
use cowbird_trace::probes::{self, ProbeError, ProbeOptions, Probes};
use cowbird_trace::record::DEFAULT_RING_BYTES;

use super::Outcome;

#[derive(Args)]
pub struct Options {}

/// What a finding means for recording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finding {
    Good,
    /// Recording works, with less in it.
    Note,
    /// Recording does not work.
    Bad,
}

#[derive(Default)]
struct Report {
    bad: bool,
    harmful: bool,
}

impl Report {
    fn line(&mut self, finding: Finding, what: &str, detail: &str) {
        let sign = match finding {
            Finding::Good => "ok  ",
            Finding::Note => "note",
            Finding::Bad => "FAIL",
        };
        self.bad |= finding == Finding::Bad;
        say!("{sign}  {what:<14} {detail}");
    }
}

fn privileges(report: &mut Report) -> bool {
    match probes::missing_capabilities() {
        Ok(missing) if missing.is_empty() => {
            report.line(
                Finding::Good,
                "capabilities",
                "CAP_BPF and CAP_PERFMON, or more",
            );
            true
        }
        Ok(missing) => {
            let detail = format!(
                "missing {}; run as root, or `setcap cap_bpf,cap_perfmon+ep` on the program",
                missing.join(", ")
            );
            report.line(Finding::Bad, "capabilities", &detail);
            false
        }
        Err(error) => {
            let detail = format!("cannot read /proc/self/status: {error}; mount /proc");
            report.line(Finding::Bad, "capabilities", &detail);
            false
        }
    }
}

fn programs(report: &mut Report) {
    let facts = match probes::kernel_facts() {
        Ok(facts) => facts,
        Err(error) => {
            report.harmful = matches!(error, ProbeError::Kernel(KernelError::SleepingRing));
            return report.line(Finding::Bad, "kernel's types", &error.to_string());
        }
    };
    let detail = format!(
        "BTF read; bio is argument {} of block_bio_queue, request argument {} of block_rq_issue, \
         completions carry {}",
        facts.bio_queue_argument,
        facts.rq_issue_argument,
        if facts.rq_status_is_errno {
            "an errno"
        } else {
            "a blk_status_t"
        }
    );
    report.line(Finding::Good, "block layer", &detail);
    let options = ProbeOptions::plain(DEFAULT_RING_BYTES);
    let mut running = match Probes::start(&options, &facts) {
        Ok(running) => running,
        Err(error) => return report.line(Finding::Bad, "programs", &error.to_string()),
    };
    let detail = format!("{} loaded and attached", running.programs().len());
    report.line(Finding::Good, "programs", &detail);
    match running.recursion_misses() {
        Some(_) => report.line(Finding::Good, "skipped runs", "counted by the kernel"),
        None => report.line(
            Finding::Good,
            "skipped runs",
            "none: no guard against recursion",
        ),
    }
    match running.has_module() {
        true => report.line(Finding::Good, "module", "cowbird's events attached"),
        false => report.line(
            Finding::Note,
            "module",
            "cowbird is not loaded; block events only. Load it before recording",
        ),
    }
}

fn tracefs(report: &mut Report) {
    match Path::new("/sys/kernel/tracing/events").exists() {
        true => report.line(Finding::Good, "tracefs", "mounted (not needed)"),
        false => report.line(
            Finding::Note,
            "tracefs",
            "not mounted (not needed; `mount -t tracefs tracefs /sys/kernel/tracing`)",
        ),
    }
}

pub fn run(_options: &Options) -> Result<Outcome> {
    let mut report = Report::default();
    let system = rustix::system::uname();
    let kernel = format!(
        "{} {}",
        system.release().to_string_lossy(),
        system.machine().to_string_lossy()
    );
    report.line(Finding::Good, "kernel", &kernel);
    if let Ok(lockdown) = fs::read_to_string("/sys/kernel/security/lockdown") {
        let finding = match lockdown.contains("[confidentiality]") {
            true => Finding::Bad, // forbids BPF to read kernel memory
            false => Finding::Good,
        };
        report.line(finding, "lockdown", lockdown.trim());
    }
    if privileges(&mut report) {
        programs(&mut report);
    }
    tracefs(&mut report);
    Ok(match (report.harmful, report.bad) {
        (true, _) => Outcome::MustNotRecord,
        (false, true) => Outcome::CannotRecord,
        (false, false) => Outcome::Done,
    })
}
