//! What is left of a cell: nothing when it passed, a bundle with all evidence otherwise.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::{disk, foreign};
use cowbird_model::BadBlock;
use cowbird_proto::message::{Event, KernelRecord};
use cowbird_session::plan::{CellPlan, check_plan};
use cowbird_vm::agent::GuestRecord;
use serde::Serialize;

use crate::artifacts::CellArtifacts;
use crate::html_report::{self, Shown};
use crate::outcome::CellOutcome;
use crate::planned;

/// Name of the plan in a bundle.
pub const PLAN_FILE: &str = "plan.json";

/// Name of the journal in a bundle: one event of the guest on each line.
pub const JOURNAL_FILE: &str = "journal.jsonl";

/// Name of the list of bad blocks in a bundle: the first ones that the oracle named.
pub const BAD_BLOCKS_FILE: &str = "bad-blocks.json";

/// Name of the report in a bundle.
pub const REPORT_FILE: &str = "report.txt";

/// Name of the same with a picture.
pub const PAGE_FILE: &str = "report.html";

/// Writes the artifacts beside the files of the guest and moves all of it to the bundle folder.
///
/// # Errors
/// When a file cannot be written or moved.
pub fn write(
    plan: &CellPlan,
    outcome: &CellOutcome,
    artifacts: &CellArtifacts,
) -> HarnessResult<PathBuf> {
    let dir = &plan.work_dir;
    put(dir, PLAN_FILE, &to_json(plan)?)?;
    put(dir, "dmesg.txt", dmesg(&artifacts.kernel_log).as_bytes())?;
    if let Some(info) = &artifacts.info {
        put(dir, "info.json", info.as_bytes())?;
    }
    if let Some(leaks) = &artifacts.leaks {
        put(dir, "kmemleak.txt", leaks.as_bytes())?;
    }
    write_journal(dir, &artifacts.record)?;
    if !artifacts.bad.is_empty() {
        put(dir, BAD_BLOCKS_FILE, &to_json(&artifacts.bad)?)?;
    }
    let report = report(plan, outcome, artifacts);
    put(dir, REPORT_FILE, report.as_bytes())?;
    let page = html_report::page(&Shown {
        title: &title(plan, outcome),
        report: &report,
        bad: &artifacts.bad,
        events: &artifacts.record.events,
        volume_sectors: planned::volume_sectors(plan),
    });
    put(dir, PAGE_FILE, page.as_bytes())?;
    // Made again from the files that the plan names, and large.
    let initramfs = dir.join(cowbird_host::files::INITRAMFS_FILE);
    if initramfs.exists() {
        fs::remove_file(&initramfs).on("remove", &initramfs)?;
    }
    move_folder(dir, &plan.bundle_dir)?;
    Ok(plan.bundle_dir.clone())
}

/// Reads the plan of a bundle back. The bundle may have come from elsewhere: the files that its plan names are the business
/// of the machine that wrote it, and mean nothing here.
///
/// # Errors
/// When the folder is not a bundle, or its plan says what no plan says.
pub fn read_plan(bundle: &Path) -> HarnessResult<CellPlan> {
    let path = bundle.join(PLAN_FILE);
    let text = foreign::read_text(&path)?;
    let plan = serde_json::from_str(&text).map_err(|error| not_of(&path, "plan", &error))?;
    check_plan(&plan)?;
    Ok(plan)
}

/// Reads the journal of a bundle back: what the guest told, in order of arrival.
///
/// # Errors
/// When it is not there any more, or not a journal.
pub fn read_journal(bundle: &Path) -> HarnessResult<Vec<Event>> {
    let path = bundle.join(JOURNAL_FILE);
    let text = foreign::read_text(&path)?;
    let events = text.lines().map(serde_json::from_str);
    events
        .collect::<Result<_, _>>()
        .map_err(|error| not_of(&path, "journal", &error))
}

/// Reads the list of bad blocks of a bundle back; empty when no block was bad.
///
/// # Errors
/// When the file is not such a list.
pub fn read_bad_blocks(bundle: &Path) -> HarnessResult<Vec<BadBlock>> {
    let path = bundle.join(BAD_BLOCKS_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = foreign::read_text(&path)?;
    serde_json::from_str(&text).map_err(|error| not_of(&path, "list of bad blocks", &error))
}

fn not_of(path: &Path, what: &str, error: &serde_json::Error) -> HarnessError {
    HarnessError::Plan {
        detail: format!("{} is not the {what} of a cell: {error}", path.display()),
    }
}

fn to_json(value: &impl Serialize) -> HarnessResult<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| HarnessError::Plan {
        detail: format!("the evidence cannot be written as JSON: {error}"),
    })
}

/// The command that runs the cell of a bundle again.
#[must_use]
pub fn replay_command(bundle: &Path) -> String {
    format!("cargo xtask replay {}", bundle.display())
}

fn title(plan: &CellPlan, outcome: &CellOutcome) -> String {
    let mutant = plan.mutant.iter().map(|mutant| format!(" + {mutant}"));
    let verdict = outcome.verdict;
    format!("{} {}", plan.kernel_name, plan.case)
        + &mutant.collect::<String>()
        + &format!(": {verdict}")
}

fn report(plan: &CellPlan, outcome: &CellOutcome, artifacts: &CellArtifacts) -> String {
    let mut text = format!(
        "{}: {}\nkernel {} ({}), case {}, mutant {}, seed {}, {} CPUs, {:?}\n",
        outcome.verdict,
        outcome.reason,
        plan.kernel_name,
        plan.kernel_release,
        plan.case,
        plan.mutant.as_deref().unwrap_or("none"),
        plan.seed,
        plan.cpus,
        plan.accel,
    );
    let phases: Vec<String> = outcome
        .phases
        .iter()
        .map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64()))
        .collect();
    text += &format!("{:.1} s: {}\n", outcome.seconds, phases.join(", "));
    if artifacts.record.dropped > 0 {
        text += &format!(
            "{} events of the guest were dropped\n",
            artifacts.record.dropped
        );
    }
    for part in [&artifacts.report, &artifacts.excerpt] {
        if !part.is_empty() {
            text += &format!("\n{}\n", part.trim_end());
        }
    }
    text += &format!("\nAgain: {}\n", replay_command(&plan.bundle_dir));
    text
}

fn dmesg(records: &[KernelRecord]) -> String {
    records
        .iter()
        .map(|record| {
            let seconds = record.time_us / 1_000_000;
            let micros = record.time_us % 1_000_000;
            format!(
                "<{}>[{seconds:>5}.{micros:06}] {}\n",
                record.level, record.text
            )
        })
        .collect()
}

fn write_journal(dir: &Path, record: &GuestRecord) -> HarnessResult<()> {
    let path = dir.join(JOURNAL_FILE);
    let file = fs::File::create(&path).on("create", &path)?;
    let mut out = BufWriter::new(file);
    let observations = record.observations.iter().cloned().map(Event::Observation);
    for event in record.events.iter().cloned().chain(observations) {
        serde_json::to_writer(&mut out, &event)
            .map_err(std::io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .on("write", &path)?;
    }
    out.flush().on("write", &path)
}

fn put(dir: &Path, name: &str, content: &[u8]) -> HarnessResult<()> {
    let path = dir.join(name);
    fs::write(&path, content).on("write", &path)
}

/// Moves a folder; copies its files, leaving holes, when the target is on another filesystem.
fn move_folder(from: &Path, to: &Path) -> HarnessResult<()> {
    if to.exists() {
        fs::remove_dir_all(to).on("remove the old", to)?;
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).on("create", parent)?;
    }
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    fs::create_dir_all(to).on("create", to)?;
    for entry in fs::read_dir(from).on("list", from)? {
        let entry = entry.on("list", from)?;
        let kind = entry.file_type().on("look at", &entry.path())?;
        let target = to.join(entry.file_name());
        if kind.is_file() {
            disk::copy_sparse(&entry.path(), &target)?;
        } else if kind.is_dir() {
            move_folder(&entry.path(), &target)?;
        }
    }
    fs::remove_dir_all(from).on("remove", from)
}
