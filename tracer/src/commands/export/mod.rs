//! `export`: a trace in the forms that other programs read.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cowbird_events::devices::{self, BlockDevice};
use cowbird_events::event::{Record, Sector};
use cowbird_outside::printable_json;

use super::Outcome;

mod fio;
mod perfetto;
mod text;
mod workload;

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON object a line, with the fields that the event has
    Jsonl,
    /// Comma separated, the same columns for every event
    Csv,
    /// Every bio as fio replays it (iolog version 3, `fio --read_iolog`)
    Fio,
    /// Trace Event JSON, for ui.perfetto.dev
    Perfetto,
    /// What was done to one device, for `cargo xtask test-matrix --workload`
    Workload,
}

#[derive(Args)]
pub struct Options {
    /// Trace file
    file: PathBuf,
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Only block events of this disk or partition; fio's offsets then count from its start, and a workload
    /// needs it if several disks were written to
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// Whether a block event lies on a device.
fn on(device: &BlockDevice, record: &Record) -> bool {
    let (first, end) = device.range();
    let sector = Sector(record.sector);
    record.disk() == device.disk() && first <= sector && sector < end
}

pub fn run(options: &Options) -> Result<Outcome> {
    match options.format {
        Format::Workload => workload::run(&options.file, options.device.as_ref()),
        Format::Jsonl | Format::Csv | Format::Fio | Format::Perfetto => by_event(options),
    }
}

/// The formats that have something for each event.
fn by_event(options: &Options) -> Result<Outcome> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    // Names of devices may stand at the end of the file.
    let input = super::open(&options.file)?;
    let overview = super::read(&input, |_| Ok(()))?;
    let find = |name: &String| devices::find_in(overview.devices(), name);
    let device = options.device.as_ref().map(find).transpose()?;
    let mut fio = fio::Iolog::new(&overview, device);
    let mut perfetto = perfetto::Writer::new(&overview);
    let sealed = (overview.meta.as_ref()).is_some_and(|meta| meta.fingerprints_sealed);
    let writing = "cannot write to standard output";
    match options.format {
        Format::Jsonl | Format::Fio | Format::Workload => {}
        Format::Csv => writeln!(out, "{}", text::CSV_HEADER).context(writing)?,
        Format::Perfetto => perfetto.begin(&mut out).context(writing)?,
    }
    super::read(&input, |record| {
        if record.kind.is_block_layer() && device.is_some_and(|device| !on(device, record)) {
            return Ok(());
        }
        match options.format {
            Format::Jsonl => writeln!(
                out,
                "{}",
                printable_json(&text::to_json(record, sealed).to_string())
            ),
            Format::Csv => writeln!(out, "{}", text::to_csv(record)),
            Format::Fio => fio.put(&mut out, record),
            Format::Perfetto => perfetto.put(&mut out, record),
            Format::Workload => Ok(()),
        }
        .context(writing)
    })?;
    match options.format {
        Format::Jsonl | Format::Csv | Format::Workload => Ok(()),
        Format::Fio => fio.end(&mut out),
        Format::Perfetto => perfetto.end(&mut out),
    }
    .context(writing)?;
    out.flush().context(writing)?;
    Ok(overview.warn())
}
