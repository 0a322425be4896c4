//! Every event as a line of text.

use cowbird_events::event::{EPOCH_STEPS, Kind, Marks, PHASES, READ_SOURCES, Record, name_of};
use cowbird_outside::printable;
use serde_json::{Map, Value, json};

pub const CSV_HEADER: &str = "sequence,time_ns,event,cpu,disk_or_minor,bdev_or_from,op,flags,opf,\
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

/// Nobody shall take one for the other.
fn print_name(sealed: bool) -> &'static str {
    if sealed { "sealed" } else { "xxh64" }
}

/// Fields by the names that they have in this kind of event.
fn fields(record: &Record, sealed: bool) -> Value {
    match record.kind {
        Kind::BioQueue | Kind::RqIssue | Kind::RqComplete | Kind::BioComplete => json!({
            "disk": record.disk(),
            "bdev": (record.bdev != 0)
                .then_some(cowbird_events::event::DeviceNumber(record.bdev)),
            "op": record.op,
            "flags": record.flags.to_string(),
            "opf": record.opf,
            "sector": record.sector,
            "bytes": record.amount,
            "status": record.status,
            "io": record.io,
            "parent": record.parent,
        }),
        Kind::Fingerprint => json!({
            "disk": record.disk(),
            "op": record.op,
            "sector": record.sector,
            "bytes": record.amount,
            print_name(sealed): format!("{:016x}", record.second),
            "io": record.io,
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
            "overtaken": record.bdev != 0,
        }),
        Kind::Epoch => json!({
            "epoch": record.sector, "step": name_of(&EPOCH_STEPS, record.amount),
        }),
        Kind::State => json!({
            "from": name_of(&PHASES, record.bdev), "to": name_of(&PHASES, record.amount),
        }),
        Kind::Overflow => json!({"value": record.sector, "bound": record.second}),
        Kind::Error => json!({"error": record.status}),
        Kind::Change => json!({"first_block": record.sector, "last_block": record.second}),
    }
}

/// `sealed`: what is recorded of contents is no plain fingerprint.
pub fn to_json(record: &Record, sealed: bool) -> Value {
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
    for part in [common, fields(record, sealed)] {
        if let Value::Object(part) = part {
            all.extend(part.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    Value::Object(all)
}

/// A thread may give itself any name; in CSV, quotes are doubled, control characters escaped and the whole quoted.
fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text).replace('"', "\"\""))
}

pub fn to_csv(r: &Record) -> String {
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
