//! The report of a failed cell as a page of HTML that needs nothing else: a picture of the bad blocks over
//! address and time, and the text below it.
//!
//! Across is the origin, down is the guest's time. Every operation of the journal that has a place on the
//! origin is a dash: dark where it touches a bad block, pale otherwise. A bad block is a stripe from top to
//! bottom in the colour of its class, because the witness has no clock: when its content was written is told
//! by the dark dashes on it. What was asked of the module is a line from side to side.

use std::collections::BTreeSet;

use cowbird_model::{BadBlock, Class};
use cowbird_proto::message::Event;
use cowbird_workload::{BLOCK_SECTORS, Extent, Task};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::reproducer::{self, Timeline};

/// Size of the picture.
const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 520.0;

/// Room to the left for names.
const LEFT: f64 = 150.0;

/// Dashes that are drawn at most; those on bad blocks come first.
const MAX_DASHES: usize = 6000;

/// Smallest width and height of anything drawn.
const LEAST: f64 = 1.5;

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem }
h1 { font-size: 1.4rem } pre { font-size: .85rem; overflow-x: auto; line-height: 1.35 }
svg { width: 100%; height: auto; background: #fff; border: 1px solid #d0d7de; border-radius: 4px }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin: 0 .4rem 0 1rem }
";

/// Colour of a class.
fn colour(class: Class) -> &'static str {
    match class {
        Class::Future => "#cf222e",
        Class::Stale => "#bc4c00",
        Class::Torn => "#8250df",
        Class::Misplaced => "#0969da",
        Class::Zeroed => "#57606a",
        Class::Foreign => "#bf3989",
        Class::MissedChange => "#1a7f37",
    }
}

/// Tasks and when they were issued.
type Timed<'a> = Vec<&'a (u64, Task)>;

/// What the page shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// The first line.
    pub(crate) title: &'a str,
    /// The report as text.
    pub(crate) report: &'a str,
    /// The first bad blocks.
    pub(crate) bad: &'a [BadBlock],
    /// The journal.
    pub(crate) events: &'a [Event],
    /// Size of the origin, where operations of the journal have places on it.
    pub(crate) volume_sectors: Option<u64>,
}

/// The page.
pub(crate) fn page(shown: &Shown<'_>) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (shown.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (shown.title) }
                (picture(shown))
                pre { (shown.report) }
            }
        }
    };
    page.into_string()
}

fn picture(shown: &Shown<'_>) -> Markup {
    let Some(volume_sectors) = shown.volume_sectors.filter(|_| !shown.bad.is_empty()) else {
        return Markup::default();
    };
    let timeline = reproducer::timeline(shown.events, volume_sectors);
    let scale = Scale {
        sectors: volume_sectors.max(1) as f64,
        from_ns: timeline.tasks.first().map_or(0, |(at_ns, _)| *at_ns),
        to_ns: timeline.tasks.last().map_or(0, |(at_ns, _)| *at_ns),
    };
    let view = format!("0 0 {:.0} {:.0}", LEFT + WIDTH + 10.0, HEIGHT + 30.0);
    let (right, y) = (LEFT + WIDTH, HEIGHT + 22.0);
    html! {
        (key(shown.bad))
        svg viewBox=(view) role="img" aria-label="bad blocks over address and time" {
            (stripes(shown.bad, &scale))
            (dashes(&timeline, shown.bad, &scale))
            (controls(&timeline, &scale))
            text x=(LEFT) y=(y) font-size="13" { "0" }
            text x=(right) y=(y) font-size="13" text-anchor="end" {
                (volume_sectors / 2048) " MiB of the origin"
            }
        }
    }
}

/// Where things lie.
struct Scale {
    sectors: f64,
    from_ns: u64,
    to_ns: u64,
}

impl Scale {
    fn x(&self, sector: u64) -> f64 {
        LEFT + WIDTH * sector as f64 / self.sectors
    }

    fn width(&self, sectors: u64) -> f64 {
        (WIDTH * sectors as f64 / self.sectors).max(LEAST)
    }

    fn y(&self, at_ns: u64) -> f64 {
        let span = self.to_ns.saturating_sub(self.from_ns).max(1) as f64;
        let at = at_ns.clamp(self.from_ns, self.to_ns.max(self.from_ns)) - self.from_ns;
        HEIGHT * at as f64 / span
    }
}

/// A number as coordinates have it.
fn rounded(number: f64) -> String {
    format!("{number:.1}")
}

fn stripes(bad: &[BadBlock], scale: &Scale) -> Markup {
    html! {
        @for bad in bad {
            rect x=(rounded(scale.x(bad.block.0 * BLOCK_SECTORS))) y="0" width=(rounded(scale.width(BLOCK_SECTORS)))
                height=(HEIGHT) fill=(colour(bad.class)) fill-opacity=".25"
            {
                title { "block " (bad.block) ": " (bad.class) " " (bad.detail) }
            }
        }
    }
}

fn dashes(timeline: &Timeline, bad: &[BadBlock], scale: &Scale) -> Markup {
    let blocks: BTreeSet<u64> = bad.iter().map(|bad| bad.block.0).collect();
    let on_bad = |extent: &Extent| {
        let last = extent.end().0.saturating_sub(1) / BLOCK_SECTORS;
        blocks
            .range(extent.start.0 / BLOCK_SECTORS..=last)
            .next()
            .is_some()
    };
    let (dark, pale): (Timed<'_>, Timed<'_>) = timeline
        .tasks
        .iter()
        .partition(|(_, task)| on_bad(&task.extent));
    let room = MAX_DASHES.saturating_sub(dark.len());
    let pale_step = pale.len().div_ceil(room.max(1)).max(1);
    let pale = pale
        .into_iter()
        .step_by(pale_step)
        .map(|task| (task, "#afb8c1"));
    let dark = dark
        .into_iter()
        .take(MAX_DASHES)
        .map(|task| (task, "#1f2328"));
    html! {
        @for ((at_ns, task), fill) in pale.chain(dark) {
            rect x=(rounded(scale.x(task.extent.start.0))) y=(rounded(scale.y(*at_ns)))
                width=(rounded(scale.width(task.extent.sectors))) height="2" fill=(fill) {}
        }
    }
}

fn controls(timeline: &Timeline, scale: &Scale) -> Markup {
    html! {
        @for (at_ns, step) in &timeline.controls {
            @let y = scale.y(*at_ns);
            line x1=(LEFT) x2=(LEFT + WIDTH) y1=(rounded(y)) y2=(rounded(y)) stroke="#0969da"
                stroke-dasharray="6 3" {}
            text x=(LEFT - 6.0) y=(rounded((y + 4.0).max(12.0))) font-size="13" fill="#0969da"
                text-anchor="end" { (step) }
        }
    }
}

fn key(bad: &[BadBlock]) -> Markup {
    let classes: BTreeSet<Class> = bad.iter().map(|bad| bad.class).collect();
    html! {
        p {
            "Across: the origin. Down: the guest's time. Stripes: the first " (bad.len()) " bad blocks. Dashes: what \
             the workload changed, dark where a block is bad."
            @for class in classes {
                span class="key" style={ "background:" (colour(class)) } {}
                (class)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowbird_model::BlockIndex;
    use cowbird_proto::message::{JournalEntry, Operation, WorkloadId};

    fn bad(block: u64) -> BadBlock {
        BadBlock {
            block: BlockIndex(block),
            class: Class::Future,
            culprit: None,
            distance_sectors: None,
            detail: "<script>".into(),
        }
    }

    fn journal() -> Vec<Event> {
        let discard = |at_ns, block: u64| JournalEntry::Issued {
            op: at_ns,
            at_ns,
            what: Operation::Discard {
                offset: block * 4096,
                length: 4096,
            },
        };
        vec![
            Event::Journal {
                workload: WorkloadId(1),
                thread: 0,
                entries: vec![discard(100, 3), discard(300, 5)],
            },
            Event::Ran {
                command: "/bin/cowbirdctl setup-snapshot /dev/vda1 /x 0".into(),
                started_ns: 200,
                ended_ns: 210,
            },
        ]
    }

    fn page_of(bad: &[BadBlock], volume_sectors: Option<u64>) -> String {
        page(&Shown {
            title: "mismatch & more",
            report: "1 < 2",
            bad,
            events: &journal(),
            volume_sectors,
        })
    }

    #[test]
    fn the_picture_has_what_touches_the_bad_block() {
        let page = page_of(&[bad(5)], Some(64));
        assert_eq!(page.matches("fill=\"#1f2328\"").count(), 1);
        assert_eq!(page.matches("fill=\"#afb8c1\"").count(), 1);
        assert!(page.contains(">snapshot</text>") && page.contains("block 5: future"));
        // Block 5 of 8, and the later of two operations at the bottom.
        assert!(page.contains(
            "<rect x=\"837.5\" y=\"520.0\" width=\"137.5\" height=\"2\" fill=\"#1f2328\"></rect>"
        ));
    }

    #[test]
    fn the_page_is_whole_without_a_picture_and_fetches_nothing() {
        for page in [
            page_of(&[bad(5)], None),
            page_of(&[], Some(64)),
            page_of(&[bad(5)], Some(64)),
        ] {
            assert!(page.contains("mismatch &amp; more") && page.contains("1 &lt; 2"));
            assert!(page.ends_with("</html>") && !page.contains("<script"));
            for fetched in ["http:", "https:", "src=", "url(", "@import"] {
                assert!(!page.contains(fetched), "{fetched}");
            }
        }
        assert!(!page_of(&[], Some(64)).contains("<svg"));
    }
}
