//! The page.

use cowbird_events::event::{
    BLOCK_BYTES, EPOCH_STEPS, PHASES, READ_SOURCES, SECTOR_BYTES, name_of,
};
use hdrhistogram::Histogram;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plot::{Picture, WIDTH, rounded, short};
use super::{COLUMNS, Collector, Direction, DiskStats, SnapshotStats};

const STYLE: &str = include_str!("style.css");

/// Stands between the numbers of a paragraph.
const BETWEEN: &str = " \u{b7} ";

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

fn latency_line(name: &str, latency: &Histogram<u64>) -> Markup {
    if latency.is_empty() {
        return Markup::default();
    }
    let at = |part: f64| microseconds(latency.value_at_quantile(part));
    html! {
        tr {
            th { (name) }
            td { (latency.len()) }
            td { (at(0.5)) }
            td { (at(0.99)) }
            td { (at(0.999)) }
            td { (microseconds(latency.max())) }
        }
    }
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
fn latency_picture(disk: &DiskStats) -> Markup {
    let bins = [
        ("read", latency_bins(&disk.read.latency)),
        ("write", latency_bins(&disk.write.latency)),
    ];
    let peak = bins.iter().flat_map(|(_, bins)| bins).max().copied();
    let peak = peak.unwrap_or(1).max(1) as f64;
    let (height, step) = (110.0, WIDTH / LATENCY_BINS as f64);
    let bar = |count: u64| (height * count as f64 / peak).max(1.0);
    html! {
        svg viewBox={ "0 0 " (WIDTH + 100.0) " 150" } role="img" {
            @for (at, (class, bins)) in bins.iter().enumerate() {
                @for (bin, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
                    @let x = 70.0 + step * bin as f64 + at as f64 * step * 0.42;
                    rect class=(class) x=(rounded(x)) y=(rounded(8.0 + height - bar(*count)))
                        width=(rounded(step * 0.4)) height=(rounded(bar(*count))) { title { (count) } }
                }
            }
            @for bin in (0..LATENCY_BINS).step_by(2) {
                text class="scale" x=(rounded(70.0 + step * bin as f64)) y="136" { (microseconds(1 << bin)) }
            }
        }
    }
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

fn disk_section(name: &str, disk: &DiskStats, sectors: u64, seconds: f64) -> Markup {
    let sum = |direction: &Direction, what: &str| {
        format!(
            "{} {what} bios, {}",
            direction.bios,
            short(direction.bytes as f64, "B")
        )
    };
    let mut places = Picture::new(240.0);
    places.scales(
        seconds,
        sectors.saturating_mul(SECTOR_BYTES) as f64,
        "B",
        true,
    );
    places.heat(&disk.read.heat, "read");
    places.heat(&disk.write.heat, "write");
    let (read, write) = (rates(&disk.read, seconds), rates(&disk.write, seconds));
    let peak = read.iter().chain(&write).copied().fold(1.0, f64::max);
    let mut throughput = Picture::new(110.0);
    throughput.scales(seconds, peak, "B/s", false);
    throughput.line(&read, peak, "read");
    throughput.line(&write, peak, "write");
    html! {
        section {
            h2 { (name) }
            p {
                (sum(&disk.read, "read")) (BETWEEN) (sum(&disk.write, "write")) (BETWEEN) (disk.errors) " errors"
            }
            h3 { "Where and when " i class="read" { "read" } " " i class="write" { "write" } }
            (places.finish())
            h3 { "Throughput" }
            (throughput.finish())
            h3 { "Latency, from the driver's start to its end" }
            (latency_picture(disk))
            table {
                tr {
                    th {}
                    @for head in ["requests", "median", "99 %", "99.9 %", "longest"] { th { (head) } }
                }
                (latency_line("read", &disk.read.latency))
                (latency_line("write", &disk.write.latency))
            }
        }
    }
}

/// Phases as bars, steps of the cut as marks over them.
fn phases_picture(snapshot: &SnapshotStats, collector: &Collector) -> Markup {
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

fn reads_picture(snapshot: &SnapshotStats, seconds: f64) -> Markup {
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

fn snapshot_section(minor: u32, snapshot: &SnapshotStats, collector: &Collector) -> Markup {
    let blocks = collector.origins.get(&minor).copied().unwrap_or(0);
    let seconds = collector.span().seconds();
    let bytes = |blocks: u64| short((blocks * BLOCK_BYTES) as f64, "B");
    let mut preserved = Picture::new(240.0);
    preserved.scales(seconds, (blocks * BLOCK_BYTES) as f64, "B", true);
    preserved.heat(&snapshot.preserved, "cow");
    html! {
        section {
            h2 { "Snapshot " (minor) }
            p {
                (snapshot.intercepted) " writes had to wait" (BETWEEN)
                (bytes(snapshot.preserved_blocks)) " preserved" (BETWEEN)
                (bytes(snapshot.stored_blocks)) " stored in the COW file" (BETWEEN)
                (snapshot.overtaken) " reads overtaken by a write" (BETWEEN)
                (snapshot.overflows) " overflows"
                @if snapshot.error != 0 {
                    (BETWEEN) b class="bad" { "failed with errno " (-snapshot.error) }
                }
            }
            h3 { "Phases" }
            (phases_picture(snapshot, collector))
            h3 { "Copy-on-write: blocks preserved, over the origin" }
            (preserved.finish())
            h3 {
                "Blocks read from the snapshot, by source"
                @for (source, name) in READ_SOURCES.iter().enumerate() {
                    " " i class={ "source-" (source) } { (name) }
                }
            }
            (reads_picture(snapshot, seconds))
        }
    }
}

/// Draws everything; `name` names a disk.
#[must_use]
pub fn page(head: &Head, collector: &Collector, name: impl Fn(u32) -> String) -> String {
    let seconds = collector.span().seconds();
    let mut disks: Vec<_> = collector.disks.iter().collect();
    disks.sort_by_key(|(_, disk)| std::cmp::Reverse(disk.read.bios + disk.write.bios));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (head.title) }
                meta name="viewport" content="width=device-width";
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (head.title) }
                @if head.losses.is_empty() {
                    p class="good" { "The trace is complete." }
                } @else {
                    div class="bad" {
                        b { "The trace is not complete." }
                        " What is shown happened; more may have."
                        ul { @for loss in &head.losses { li { (loss) } } }
                    }
                }
                dl { @for (name, value) in &head.facts { dt { (name) } dd { (value) } } }
                @for (minor, snapshot) in &collector.snapshots {
                    (snapshot_section(*minor, snapshot, collector))
                }
                @for (number, disk) in disks {
                    (disk_section(&name(*number), disk, disk.read.heat.end, seconds))
                }
            }
        }
    };
    page.into_string() + "\n"
}
