//! What is going on, as text for a terminal: counted over a window of time, then forgotten.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use cowbird_events::devices::Fill;
use cowbird_events::event::{BLOCK_BYTES, IoId, Kind, Op, READ_SOURCES, Record, SECTOR_BYTES};
use hdrhistogram::Histogram;

/// Bytes of the ranges that the hottest are chosen of.
const RANGE_BYTES: u64 = 1 << 20;

/// Ranges that are shown.
const SHOWN_RANGES: usize = 5;

/// Ranges that are counted in one window; more are left out.
const MAX_RANGES: usize = 1 << 16;

/// Requests that are waited for; what is forgotten has no latency.
const MAX_PENDING: usize = 1 << 16;

/// Bars of a latency histogram: powers of two from 1 us.
const BARS: usize = 20;

/// Longest latency that is told apart.
const MAX_LATENCY_US: u64 = 1_000_000_000;

/// One direction of a disk in a window.
#[derive(Debug)]
struct Flow {
    bios: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl Flow {
    fn new() -> Self {
        Self {
            bios: 0,
            bytes: 0,
            latency: Histogram::new_with_max(MAX_LATENCY_US, 2)
                .expect("a maximum above 1 and 2 digits are allowed"),
        }
    }
}

/// What a snapshot did in a window.
#[derive(Debug, Default)]
struct Copying {
    intercepted: u64,
    preserved: u64,
    stored: u64,
    reads: [u64; READ_SOURCES.len()],
}

/// Events lost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// The ring buffer was full.
    pub dropped: u64,
    /// Programs were skipped.
    pub skipped: u64,
}

/// A window of time.
#[derive(Debug, Default)]
pub struct Window {
    flows: BTreeMap<(u32, bool), Flow>,
    copying: BTreeMap<u32, Copying>,
    ranges: HashMap<(u32, u64), u64>,
    events: u64,
}

/// Requests under way, from one window to the next.
#[derive(Debug, Default)]
pub struct Pending(HashMap<IoId, u64>);

impl Window {
    /// Takes the next record.
    pub fn take(&mut self, record: &Record, pending: &mut Pending) {
        self.events += 1;
        match record.kind {
            Kind::BioQueue => self.queued(record, pending),
            Kind::RqIssue => pending.begin(record),
            Kind::RqComplete | Kind::BioComplete => {
                let begun = pending.0.remove(&record.io);
                pending.0.remove(&record.parent);
                if let (Some(begun), true) = (begun, record.amount > 0) {
                    let us = record.time_ns.saturating_sub(begun) / 1000;
                    self.flow(record).latency.saturating_record(us.max(1));
                }
            }
            _ => self.module_event(record),
        }
    }

    fn flow(&mut self, record: &Record) -> &mut Flow {
        let key = (record.disk, record.op != Op::Read);
        self.flows.entry(key).or_insert_with(Flow::new)
    }

    fn queued(&mut self, record: &Record, pending: &mut Pending) {
        pending.begin(record);
        let flow = self.flow(record);
        flow.bios += 1;
        flow.bytes += u64::from(record.amount);
        let range = (record.disk, record.sector * SECTOR_BYTES / RANGE_BYTES);
        if self.ranges.len() < MAX_RANGES || self.ranges.contains_key(&range) {
            *self.ranges.entry(range).or_default() += 1;
        }
    }

    fn module_event(&mut self, record: &Record) {
        let Some(minor) = record.minor() else { return };
        let copying = self.copying.entry(minor).or_default();
        match record.kind {
            Kind::Intercept => copying.intercepted += 1,
            Kind::PreserveComplete => copying.preserved += 1,
            Kind::PreserveStore => copying.stored += 1,
            Kind::SnapshotRead => {
                if let Some(count) = copying.reads.get_mut(record.amount as usize) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }

    /// Draws the window, which took so many seconds. `name` names a disk, `origin` the disk of a
    /// snapshot's origin.
    #[must_use]
    pub fn draw(
        &self,
        seconds: f64,
        losses: Losses,
        fills: &BTreeMap<u32, Fill>,
        name: impl Fn(u32) -> String,
        origin: impl Fn(u32) -> Option<u32>,
    ) -> String {
        let rate = |count: u64| count as f64 / seconds.max(f64::MIN_POSITIVE);
        let mut text = format!(
            "{:.0} events/s   dropped {}   skipped {}\n\n{:<14}{:<7}{:>10}{:>12}{:>10}{:>10}{:>10}  \
             latency 1us{:>20}\n",
            rate(self.events),
            losses.dropped,
            losses.skipped,
            "device",
            "",
            "bios/s",
            "MB/s",
            "median us",
            "99 % us",
            "max us",
            "1s"
        );
        for ((disk, write), flow) in &self.flows {
            let at = |part| flow.latency.value_at_quantile(part);
            let _ = writeln!(
                text,
                "{:<14}{:<7}{:>10.0}{:>12.1}{:>10}{:>10}{:>10}  {}",
                name(*disk),
                if *write { "write" } else { "read" },
                rate(flow.bios),
                rate(flow.bytes) / 1e6,
                at(0.5),
                at(0.99),
                flow.latency.max(),
                bars(&flow.latency)
            );
        }
        for (minor, copying) in &self.copying {
            text += &self.draw_snapshot(*minor, copying, fills.get(minor), rate, origin(*minor));
        }
        text += "\nhottest MiB\n";
        let mut ranges: Vec<_> = self.ranges.iter().collect();
        ranges.sort_by_key(|(range, count)| (std::cmp::Reverse(**count), **range));
        for ((disk, range), count) in ranges.into_iter().take(SHOWN_RANGES) {
            let _ = writeln!(
                text,
                "  {:<12} at {range:>8} MiB {:>10.0} bios/s",
                name(*disk),
                rate(*count)
            );
        }
        text
    }

    fn draw_snapshot(
        &self,
        minor: u32,
        copying: &Copying,
        fill: Option<&Fill>,
        rate: impl Fn(u64) -> f64,
        origin: Option<u32>,
    ) -> String {
        let written = origin
            .and_then(|disk| self.flows.get(&(disk, true)))
            .map_or(0, |flow| flow.bytes);
        // What copying adds: each block is read once and stored once.
        let copied = (copying.preserved + copying.stored) * BLOCK_BYTES;
        let amplification = match written {
            0 => "-".to_owned(),
            written => format!("{:.2}", copied as f64 / written as f64),
        };
        let mut text = format!(
            "\nsnapshot {minor}: {:.0} writes held/s, {:.0} blocks preserved/s, {:.0} stored/s, {} \
             bytes copied per byte written\n  blocks read/s:",
            rate(copying.intercepted),
            rate(copying.preserved),
            rate(copying.stored),
            amplification
        );
        for (source, count) in READ_SOURCES.iter().zip(copying.reads) {
            let _ = write!(text, " {source} {:.0}", rate(count));
        }
        text.push('\n');
        if let Some(fill) = fill {
            let _ = writeln!(
                text,
                "  memory {}   COW file {}",
                gauge(fill.memory_blocks, fill.memory_limit_blocks),
                gauge(fill.slots_used, fill.slots)
            );
        }
        text
    }
}

impl Pending {
    fn begin(&mut self, record: &Record) {
        if self.0.len() < MAX_PENDING {
            self.0.insert(record.io, record.time_ns);
        }
    }
}

/// A histogram in one line, a character for each power of two.
fn bars(latency: &Histogram<u64>) -> String {
    const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut bins = [0_u64; BARS];
    for value in latency.iter_recorded() {
        let bin = value.value_iterated_to().max(1).ilog2() as usize;
        bins[bin.min(BARS - 1)] += value.count_at_value();
    }
    let peak = bins.iter().copied().max().unwrap_or(0).max(1);
    bins.iter()
        .map(|count| {
            HEIGHTS[usize::try_from((count * 8).div_ceil(peak))
                .unwrap_or(8)
                .min(8)]
        })
        .collect()
}

/// How much of a whole is used.
fn gauge(used: u64, whole: u64) -> String {
    const WIDTH: u64 = 20;
    let full = (used * WIDTH).checked_div(whole).unwrap_or(0).min(WIDTH) as usize;
    let percent = (used * 100).checked_div(whole).unwrap_or(0);
    format!(
        "[{}{}] {percent} % of {whole} blocks",
        "#".repeat(full),
        ".".repeat(WIDTH as usize - full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_rates_latency_and_copying() {
        let (mut window, mut pending) = (Window::default(), Pending::default());
        let block = |kind, time_ns, io| Record {
            kind,
            op: Op::Write,
            time_ns,
            disk: 8 << 20,
            sector: 4096,
            amount: 8192,
            io: IoId(io),
            ..Record::default()
        };
        let module = |kind, amount| Record {
            kind,
            amount,
            ..Record::default()
        };
        let records = [
            block(Kind::BioQueue, 0, 1),
            block(Kind::RqIssue, 1000, 2),
            block(Kind::RqComplete, 101_000, 2),
            module(Kind::Intercept, 0),
            module(Kind::PreserveComplete, 0),
            module(Kind::PreserveStore, 0),
            module(Kind::SnapshotRead, 2),
        ];
        for record in &records {
            window.take(record, &mut pending);
        }
        let fill = Fill {
            memory_blocks: 5,
            memory_limit_blocks: 10,
            slots_used: 1,
            slots: 4,
        };
        let losses = Losses {
            dropped: 3,
            skipped: 0,
        };
        let fills = BTreeMap::from([(0, fill)]);
        let text = window.draw(0.5, losses, &fills, |_| "sda".into(), |_| Some(8 << 20));
        let line = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            line("sda")[..7],
            ["sda", "write", "2", "0.0", "100", "100", "100"]
        );
        assert_eq!(line("14 events/s")[3], "3");
        assert!(
            text.contains("1.00 bytes copied per byte written"),
            "{text}"
        );
        assert!(text.contains("cow_file 2"), "{text}");
        assert!(text.contains("50 % of 10 blocks") && text.contains("25 % of 4 blocks"));
        assert!(text.contains("sda          at        2 MiB"), "{text}");
    }
}
