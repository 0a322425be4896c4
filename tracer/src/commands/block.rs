//! `block`: everything that happened to one block of a device.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use cowbird_events::devices::{self, BlockDevice};
use cowbird_events::event::{
    BlockIndex, IoId, Kind, READ_SOURCES, Record, SECTOR_BYTES, Sector, name_of,
};
use cowbird_outside::say;

use super::{Outcome, Overview};

#[derive(Args)]
pub struct Options {
    /// Number of the block: 4096 bytes each, counted from the start of the device
    block: u64,
    /// Trace file
    file: PathBuf,
    /// Disk or partition; default: the one to which the recording was limited
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// What is looked for, in sectors of a whole disk.
struct Wanted<'a> {
    device: &'a BlockDevice,
    first: Sector,
    end: Sector,
    /// Origins by minor.
    origins: HashMap<u32, &'a BlockDevice>,
}

impl Wanted<'_> {
    fn overlaps(&self, first: Sector, end: Sector) -> bool {
        first < self.end && self.first < end
    }

    fn touches(&self, record: &Record) -> bool {
        if let Some(disk) = record.disk() {
            let range = record.disk_range();
            return Some(disk) == self.device.disk()
                && range.is_some_and(|(first, end)| self.overlaps(first, end));
        }
        let Some(origin) = record.minor().and_then(|minor| self.origins.get(&minor)) else {
            return false;
        };
        if origin.disk() != self.device.disk() {
            return false;
        }
        if let Some((first, last)) = record.origin_blocks() {
            let (first, _) = origin.block_range(first);
            let (_, end) = origin.block_range(last);
            return self.overlaps(first, end);
        }
        record
            .disk_range()
            .is_some_and(|(first, end)| self.overlaps(first, end))
    }
}

fn wanted<'a>(options: &Options, overview: &'a Overview) -> Result<Wanted<'a>> {
    let filter = overview
        .meta
        .as_ref()
        .and_then(|meta| meta.filter.as_deref());
    let Some(name) = options.device.as_deref().or(filter) else {
        bail!("the trace has several devices; name the one that is meant with --device");
    };
    let device = devices::find_in(overview.devices(), name)?;
    let (first, end) = device.block_range(BlockIndex(options.block));
    if first >= device.range().1 {
        bail!(
            "{} has {} blocks of 4096 bytes; there is no block {}",
            device.name,
            device.sectors.saturating_mul(SECTOR_BYTES).div_ceil(4096),
            options.block
        );
    }
    let origin = |path: &str| devices::find_in(overview.devices(), path).ok();
    let origins = overview
        .snapshots()
        .filter_map(|snapshot| {
            let known = snapshot.origin.as_ref();
            Some((snapshot.minor, known.or(origin(&snapshot.block_device))?))
        })
        .collect();
    Ok(Wanted {
        device,
        first,
        end,
        origins,
    })
}

/// The range of an event in blocks, as `first` or `first..last`.
fn blocks(record: &Record) -> String {
    match record.origin_blocks() {
        Some((first, last)) if first != last => format!("blocks {}..{}", first.0, last.0),
        Some((first, _)) => format!("block {}", first.0),
        None => String::new(),
    }
}

fn detail(record: &Record) -> String {
    let status = match record.status {
        0 => String::new(),
        errno => format!(" failed with errno {}", -errno),
    };
    match record.kind {
        Kind::PreserveStore => format!("{} to slot {}", blocks(record), record.amount),
        Kind::SnapshotRead => {
            let source = name_of(&READ_SOURCES, record.amount);
            format!("{} found in {source}", blocks(record))
        }
        Kind::PreserveBegin | Kind::PreserveComplete => blocks(record),
        Kind::Intercept => format!("{} {} {}", record.op.name(), record.flags, blocks(record)),
        _ => format!(
            "{} {} sector {} + {} bytes{status}",
            record.op.name(),
            record.flags,
            record.sector,
            record.amount
        ),
    }
}

fn print(record: &Record, start_ns: u64, begun: &mut HashMap<IoId, u64>) {
    let seconds = record.time_ns.saturating_sub(start_ns) as f64 / 1e9;
    let after = match record.kind {
        Kind::BioQueue | Kind::RqIssue => {
            begun.insert(record.io, record.time_ns);
            String::new()
        }
        Kind::RqComplete | Kind::BioComplete => begun
            .get(&record.io)
            .map(|begin| record.time_ns.saturating_sub(*begin) / 1000)
            .map_or_else(String::new, |us| format!(" after {us} us")),
        _ => String::new(),
    };
    let io = match (record.io, record.parent) {
        (IoId(0), _) => String::new(),
        (io, IoId(0)) => format!(" [io {}]", io.0),
        (io, parent) => format!(" [io {} of {}]", io.0, parent.0),
    };
    say!(
        "{seconds:>14.6} cpu{:<3} {:<25} {}{after}{io} {}({})",
        record.cpu,
        record.kind.name(),
        detail(record),
        record.comm(),
        record.tid
    );
}

pub fn run(options: &Options) -> Result<Outcome> {
    // Devices and snapshots may stand at the end of the file, hence two passes.
    let input = super::open(&options.file)?;
    let overview = super::read(&input, |_| Ok(()))?;
    let wanted = wanted(options, &overview)?;
    let (mut events, mut begun) = (0_u64, HashMap::new());
    super::read(&input, |record| {
        if wanted.touches(record) {
            events += 1;
            print(record, overview.start_ns(), &mut begun);
        }
        Ok(())
    })?;
    say!(
        "{events} events of block {} of {} (sectors {}..{} of the disk)",
        options.block,
        wanted.device.name,
        wanted.first.0,
        wanted.end.0
    );
    Ok(overview.warn())
}
