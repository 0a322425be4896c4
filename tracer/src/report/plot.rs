//! Plots as SVG: nothing that a page would have to load.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use super::{COLUMNS, Heat, ROWS};

/// Size of the plotted area, and of the margins for the scales.
pub const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 8.0;
const RIGHT: f64 = 30.0;

/// Lines of the scale to the left.
const LINES: usize = 4;

/// A picture that grows.
pub struct Picture {
    markup: String,
    height: f64,
}

/// A number with the suffix that keeps it short.
pub fn short(value: f64, unit: &str) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (scale, suffix) = steps
        .into_iter()
        .find(|(scale, _)| value.abs() >= *scale)
        .unwrap_or((1.0, ""));
    let scaled = value / scale;
    let digits = usize::from(scaled.abs() < 10.0 && scaled.fract() != 0.0);
    format!("{scaled:.digits$} {suffix}{unit}")
}

/// A number as coordinates have it.
pub fn rounded(number: f64) -> String {
    format!("{number:.1}")
}

impl Picture {
    /// An empty picture whose plotted area has this height.
    pub fn new(height: f64) -> Self {
        Self {
            markup: String::new(),
            height,
        }
    }

    fn add(&mut self, part: Markup) {
        self.markup += &part.into_string();
    }

    /// Scales: seconds below, up to `peak` at the left; an address scale runs downwards.
    pub fn scales(&mut self, seconds: f64, peak: f64, unit: &str, downwards: bool) {
        for line in 0..=LINES {
            let part = line as f64 / LINES as f64;
            let y = TOP + self.height * if downwards { part } else { 1.0 - part };
            self.add(html! {
                line class="grid" x1=(LEFT) x2=(LEFT + WIDTH) y1=(rounded(y)) y2=(rounded(y)) {}
                text class="scale" text-anchor="end" x=(LEFT - 6.0) y=(rounded(y + 4.0)) {
                    (short(peak * part, unit))
                }
            });
        }
        for tick in 0..=8 {
            let part = f64::from(tick) / 8.0;
            let (x, y) = (LEFT + WIDTH * part, TOP + self.height + 16.0);
            self.add(html! {
                text class="scale" text-anchor="middle" x=(rounded(x)) y=(rounded(y)) {
                    (format!("{:.2} s", seconds * part))
                }
            });
        }
    }

    /// Bins of a heat map; the more in it, the more opaque.
    pub fn heat(&mut self, heat: &Heat, class: &str) {
        let peak = f64::from(heat.peak().max(1));
        let (width, height) = (WIDTH / COLUMNS as f64, self.height / ROWS as f64);
        let bins = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        let filled = bins.filter(|(row, column)| heat.cell(*column, *row) > 0);
        self.add(html! {
            g class=(class) {
                @for (row, column) in filled {
                    // The root shows what is seldom beside what is frequent.
                    @let part = (f64::from(heat.cell(column, row)) / peak).sqrt();
                    rect x=(rounded(LEFT + width * column as f64)) y=(rounded(TOP + height * row as f64))
                        width=(rounded(width + 0.3)) height=(rounded(height + 0.3))
                        opacity=(format!("{:.2}", 0.18 + 0.82 * part)) {}
                }
            }
        });
    }

    /// A line over time.
    pub fn line(&mut self, values: &[f64], peak: f64, class: &str) {
        let mut points = String::new();
        for (at, value) in values.iter().enumerate() {
            let x = LEFT + WIDTH * (at as f64 + 0.5) / values.len() as f64;
            let y = TOP + self.height * (1.0 - value / peak.max(f64::MIN_POSITIVE));
            // Writing to a string cannot fail.
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        self.add(html! { polyline class={ "line " (class) } points=(points) {} });
    }

    /// Columns that stand on those drawn before; `floor` is where each begins and is moved up.
    pub fn stack(&mut self, values: &[u64], floor: &mut [f64], peak: f64, class: &str) {
        let width = WIDTH / values.len() as f64;
        let scale = self.height / peak.max(1.0);
        let columns = values.iter().zip(floor.iter()).enumerate();
        self.add(html! {
            g class=(class) {
                @for (at, (value, floor)) in columns.filter(|(_, (value, _))| **value > 0) {
                    @let height = scale * *value as f64;
                    rect x=(rounded(LEFT + width * at as f64)) y=(rounded(TOP + self.height - scale * floor - height))
                        width=(rounded(width - 0.4)) height=(rounded(height)) {}
                }
            }
        });
        for (floor, value) in floor.iter_mut().zip(values) {
            *floor += *value as f64;
        }
    }

    /// A labelled bar from one part of the time to another, 0 to 1.
    pub fn bar(&mut self, from: f64, to: f64, label: &str, class: &str) {
        let (x, width) = (LEFT + WIDTH * from, (WIDTH * (to - from)).max(1.5));
        let height = self.height;
        self.add(html! {
            rect class=(class) x=(rounded(x)) y=(TOP) width=(rounded(width)) height=(height) { title { (label) } }
            @if width > 60.0 {
                text class="inside" x=(rounded(x + 6.0)) y=(rounded(TOP + height / 2.0 + 4.0)) { (label) }
            }
        });
    }

    /// The whole picture.
    pub fn finish(self) -> Markup {
        let (width, height) = (LEFT + WIDTH + RIGHT, TOP + self.height + BOTTOM);
        html! {
            svg viewBox={ "0 0 " (width) " " (height) } role="img" { (PreEscaped(self.markup)) }
        }
    }
}
