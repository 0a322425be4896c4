//! `export`: a trace as text.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cowbird_trace::event::{EPOCH_STEPS, Kind, Marks, PHASES, READ_SOURCES, Record, name_of};
use serde_json::{Map, Value, json};

use super::Outcome;

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON object a line, with the fields that the event has
    Jsonl,
    /// Comma separated, the same columns for every event
    Csv,
}

#[derive(Args)]
pub struct Options {
    /// Trace file
    file: PathBuf,
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

const CSV_HEADER: &str = "sequence,time_ns,event,cpu,disk_or_minor,bdev_or_from,op,flags,opf,\
                          sector_or_first,second,amount,status,io,parent,tgid,tid,marks,comm";

fn marks(record: &Record) -> Vec<&'static str> {
    let names = [
        (Marks::READ_FAULT, "read_fault"),
        (Marks::FROM_QUEUE, "from_queue"),
        (Marks::RESCUED, "rescued"),
    ];
    let set = names.iter().filter(|(bit, _)| record.marks.has(*bit));
    set.map(|(_, name)| *name).collect()
}

/// Fields by the names that they have in this kind of event.
fn fields(record: &Record) -> Value {
    match record.kind {
        Kind::BioQueue | Kind::RqIssue | Kind::RqComplete | Kind::BioComplete => json!({
            "disk": record.disk(),
            "bdev": (record.bdev != 0)
                .then_some(cowbird_trace::event::DeviceNumber(record.bdev)),
            "op": record.op,
            "flags": record.flags.to_string(),
            "opf": record.opf,
            "sector": record.sector,
            "bytes": record.amount,
            "status": record.status,
            "io": record.io,
            "parent": record.parent,
        }),
        Kind::Intercept => json!({
            "op": record.op, "flags": record.flags.to_string(), "opf": record.opf,
            "first_block": record.sector, "last_block": record.second,
        }),
        Kind::PreserveBegin => json!({"first_block": record.sector, "blocks": record.amount}),
        Kind::PreserveComplete => json!({"block": record.sector}),
        Kind::PreserveStore => json!({"block": record.sector, "slot": record.amount}),
        Kind::Release => json!({
            "op": record.op, "flags": record.flags.to_string(), "opf": record.opf,
            "sector": record.sector, "bytes": record.amount,
        }),
        Kind::SnapshotRead => json!({
            "block": record.sector, "source": name_of(&READ_SOURCES, record.amount),
        }),
        Kind::Epoch => json!({
            "epoch": record.sector, "step": name_of(&EPOCH_STEPS, record.amount),
        }),
        Kind::State => json!({
            "from": name_of(&PHASES, record.bdev), "to": name_of(&PHASES, record.amount),
        }),
        Kind::Overflow => json!({"value": record.sector, "bound": record.second}),
        Kind::Error => json!({"error": record.status}),
    }
}

fn to_json(record: &Record) -> Value {
    let mut all = Map::new();
    let common = json!({
        "sequence": record.sequence,
        "time_ns": record.time_ns,
        "event": record.kind,
        "cpu": record.cpu,
        "tgid": record.tgid,
        "tid": record.tid,
        "comm": record.comm(),
        "marks": marks(record),
        "minor": record.minor(),
    });
    for part in [common, fields(record)] {
        if let Value::Object(part) = part {
            all.extend(part.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    Value::Object(all)
}

/// A thread may give itself any name; in CSV, quotes are doubled and the whole is quoted.
fn quoted(text: &str) -> String {
    format!(
        "\"{}\"",
        text.replace('"', "\"\"").replace(['\n', '\r'], " ")
    )
}

fn to_csv(r: &Record) -> String {
    let disk = r
        .disk()
        .map_or_else(|| r.disk.to_string(), |disk| disk.to_string());
    format!(
        "{},{},{},{},{disk},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
        r.sequence,
        r.time_ns,
        r.kind.name(),
        r.cpu,
        r.bdev,
        r.op.name(),
        r.flags,
        r.opf,
        r.sector,
        r.second,
        r.amount,
        r.status,
        r.io.0,
        r.parent.0,
        r.tgid,
        r.tid,
        marks(r).join("|"),
        quoted(&r.comm()),
    )
}

pub fn run(options: &Options) -> Result<Outcome> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    if matches!(options.format, Format::Csv) {
        writeln!(out, "{CSV_HEADER}").context("cannot write to standard output")?;
    }
    let overview = super::read(&options.file, |record| {
        match options.format {
            Format::Jsonl => writeln!(out, "{}", to_json(record)),
            Format::Csv => writeln!(out, "{}", to_csv(record)),
        }
        .context("cannot write to standard output")
    })?;
    out.flush().context("cannot write to standard output")?;
    Ok(overview.warn())
}
