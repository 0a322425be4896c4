//! The page.

use std::fmt::Write;

use cowbird_events::event::{
    BLOCK_BYTES, EPOCH_STEPS, PHASES, READ_SOURCES, SECTOR_BYTES, name_of,
};
use hdrhistogram::Histogram;

use super::plot::{Picture, WIDTH, short};
use super::{COLUMNS, Collector, Direction, DiskStats, SnapshotStats};

const STYLE: &str = include_str!("style.css");

/// Bars of a latency plot: powers of two of microseconds.
const LATENCY_BINS: usize = 24;

/// What stands above the plots.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Name of the trace.
    pub title: String,
    /// Facts, each with its name.
    pub facts: Vec<(String, String)>,
    /// Why the trace is not complete; empty if it is.
    pub losses: Vec<String>,
}

/// Text that stands for itself in HTML.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn latency_line(name: &str, latency: &Histogram<u64>) -> String {
    if latency.is_empty() {
        return String::new();
    }
    let at = |part: f64| microseconds(latency.value_at_quantile(part));
    format!(
        "<tr><th>{name}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        latency.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        microseconds(latency.max()),
    )
}

fn latency_bins(latency: &Histogram<u64>) -> Vec<u64> {
    let mut bins = vec![0; LATENCY_BINS];
    for value in latency.iter_recorded() {
        let bin = value.value_iterated_to().max(1).ilog2() as usize;
        bins[bin.min(LATENCY_BINS - 1)] += value.count_at_value();
    }
    bins
}

/// Bars for reads beside bars for writes; each group is a power of two.
fn latency_picture(disk: &DiskStats) -> String {
    let bins = [
        ("read", latency_bins(&disk.read.latency)),
        ("write", latency_bins(&disk.write.latency)),
    ];
    let peak = bins.iter().flat_map(|(_, bins)| bins).max().copied();
    let peak = peak.unwrap_or(1).max(1) as f64;
    let (height, step) = (110.0, WIDTH / LATENCY_BINS as f64);
    let mut text = format!("<svg viewBox=\"0 0 {} 150\" role=\"img\">", WIDTH + 100.0);
    for (at, (class, bins)) in bins.iter().enumerate() {
        for (bin, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let bar = (height * *count as f64 / peak).max(1.0);
            let x = 70.0 + step * bin as f64 + at as f64 * step * 0.42;
            let _ = write!(
                text,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
                 height=\"{bar:.1}\"><title>{count}</title></rect>",
                8.0 + height - bar,
                step * 0.4
            );
        }
    }
    for bin in (0..LATENCY_BINS).step_by(2) {
        let _ = write!(
            text,
            "<text class=\"scale\" x=\"{:.1}\" y=\"136\">{}</text>",
            70.0 + step * bin as f64,
            microseconds(1 << bin),
        );
    }
    text + "</svg>"
}

/// A time in the unit that suits it.
fn microseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} us"),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

fn rates(direction: &Direction, seconds: f64) -> Vec<f64> {
    let bin = (seconds / COLUMNS as f64).max(f64::MIN_POSITIVE);
    let rate = direction.rate.iter();
    rate.map(|bytes| *bytes as f64 / bin).collect()
}

fn disk_section(name: &str, disk: &DiskStats, sectors: u64, seconds: f64) -> String {
    let mut text = format!("<section><h2>{}</h2>", plain(name));
    let sum = |direction: &Direction, what: &str| {
        format!(
            "{} {what} bios, {}",
            direction.bios,
            short(direction.bytes as f64, "B")
        )
    };
    let _ = write!(
        text,
        "<p>{} &middot; {} &middot; {} errors</p>\
         <h3>Where and when <i class=\"read\">read</i> <i class=\"write\">write</i></h3>",
        sum(&disk.read, "read"),
        sum(&disk.write, "write"),
        disk.errors
    );
    let mut picture = Picture::new(240.0);
    picture.scales(
        seconds,
        sectors.saturating_mul(SECTOR_BYTES) as f64,
        "B",
        true,
    );
    picture.heat(&disk.read.heat, "read");
    picture.heat(&disk.write.heat, "write");
    text += &picture.finish();
    let (read, write) = (rates(&disk.read, seconds), rates(&disk.write, seconds));
    let peak = read.iter().chain(&write).copied().fold(1.0, f64::max);
    text += "<h3>Throughput</h3>";
    let mut picture = Picture::new(110.0);
    picture.scales(seconds, peak, "B/s", false);
    picture.line(&read, peak, "read");
    picture.line(&write, peak, "write");
    text += &picture.finish();
    text += "<h3>Latency, from the driver's start to its end</h3>";
    text += &latency_picture(disk);
    let _ = write!(
        text,
        "<table><tr><th></th><th>requests</th><th>median</th><th>99 %</th><th>99.9 %</th>\
         <th>longest</th></tr>{}{}</table></section>",
        latency_line("read", &disk.read.latency),
        latency_line("write", &disk.write.latency)
    );
    text
}

/// Phases as bars, steps of the cut as marks over them.
fn phases_picture(snapshot: &SnapshotStats, collector: &Collector) -> String {
    let span = collector.span();
    let part = |time_ns: u64| {
        time_ns.saturating_sub(span.start_ns) as f64 / 1e9 / span.seconds().max(1e-9)
    };
    let mut picture = Picture::new(34.0);
    for (at, (time_ns, phase)) in snapshot.phases.iter().enumerate() {
        let end = snapshot.phases.get(at + 1).map_or(1.0, |next| part(next.0));
        let name = name_of(&PHASES, *phase);
        picture.bar(part(*time_ns), end, &name, &format!("phase {name}"));
    }
    for (time_ns, step) in &snapshot.epochs {
        let name = format!("cut: {}", name_of(&EPOCH_STEPS, *step));
        picture.bar(part(*time_ns), part(*time_ns), &name, "cut");
    }
    picture.finish()
}

fn reads_picture(snapshot: &SnapshotStats, seconds: f64) -> String {
    let mut sums = vec![0_u64; COLUMNS];
    for source in &snapshot.reads {
        for (sum, count) in sums.iter_mut().zip(source) {
            *sum += count;
        }
    }
    let peak = sums.iter().max().copied().unwrap_or(0).max(1) as f64;
    let mut picture = Picture::new(110.0);
    picture.scales(seconds, peak, "", false);
    let mut floor = vec![0.0; COLUMNS];
    for (source, values) in snapshot.reads.iter().enumerate() {
        picture.stack(values, &mut floor, peak, &format!("source-{source}"));
    }
    picture.finish()
}

fn snapshot_section(minor: u32, snapshot: &SnapshotStats, collector: &Collector) -> String {
    let blocks = collector.origins.get(&minor).copied().unwrap_or(0);
    let seconds = collector.span().seconds();
    let bytes = |blocks: u64| short((blocks * BLOCK_BYTES) as f64, "B");
    let mut text = format!("<section><h2>Snapshot {minor}</h2>");
    let _ = write!(
        text,
        "<p>{} writes had to wait &middot; {} preserved &middot; {} stored in the COW file &middot; \
         {} reads overtaken by a write &middot; {} overflows{}</p><h3>Phases</h3>",
        snapshot.intercepted,
        bytes(snapshot.preserved_blocks),
        bytes(snapshot.stored_blocks),
        snapshot.overtaken,
        snapshot.overflows,
        match snapshot.error {
            0 => String::new(),
            error => format!(
                " &middot; <b class=\"bad\">failed with errno {}</b>",
                -error
            ),
        }
    );
    text += &phases_picture(snapshot, collector);
    text += "<h3>Copy-on-write: blocks preserved, over the origin</h3>";
    let mut picture = Picture::new(240.0);
    picture.scales(seconds, (blocks * BLOCK_BYTES) as f64, "B", true);
    picture.heat(&snapshot.preserved, "cow");
    text += &picture.finish();
    text += "<h3>Blocks read from the snapshot, by source";
    for (source, name) in READ_SOURCES.iter().enumerate() {
        let _ = write!(text, " <i class=\"source-{source}\">{name}</i>");
    }
    text += "</h3>";
    text += &reads_picture(snapshot, seconds);
    text + "</section>"
}

/// Draws everything; `name` names a disk.
#[must_use]
pub fn page(head: &Head, collector: &Collector, name: impl Fn(u32) -> String) -> String {
    let title = plain(&head.title);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\
         <body><h1>{title}</h1>"
    );
    match head.losses.is_empty() {
        true => text += "<p class=\"good\">The trace is complete.</p>",
        false => {
            text += "<div class=\"bad\"><b>The trace is not complete.</b> What is shown happened; \
                     more may have.<ul>";
            for loss in &head.losses {
                let _ = write!(text, "<li>{}</li>", plain(loss));
            }
            text += "</ul></div>";
        }
    }
    text += "<dl>";
    for (name, value) in &head.facts {
        let _ = write!(text, "<dt>{}</dt><dd>{}</dd>", plain(name), plain(value));
    }
    text += "</dl>";
    for (minor, snapshot) in &collector.snapshots {
        text += &snapshot_section(*minor, snapshot, collector);
    }
    let seconds = collector.span().seconds();
    let mut disks: Vec<_> = collector.disks.iter().collect();
    disks.sort_by_key(|(_, disk)| std::cmp::Reverse(disk.read.bios + disk.write.bios));
    for (number, disk) in disks {
        let sectors = disk.read.heat.end;
        text += &disk_section(&name(*number), disk, sectors, seconds);
    }
    text + "</body></html>\n"
}
