//! Plots as SVG, by hand: nothing that a page would have to load.

use std::fmt::Write;

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
    text: String,
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

impl Picture {
    /// An empty picture whose plotted area has this height.
    pub fn new(height: f64) -> Self {
        let (width, whole) = (LEFT + WIDTH + RIGHT, TOP + height + BOTTOM);
        Self {
            text: format!("<svg viewBox=\"0 0 {width} {whole}\" role=\"img\">"),
            height,
        }
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(part);
    }

    /// Scales: seconds below, up to `peak` at the left; an address scale runs downwards.
    pub fn scales(&mut self, seconds: f64, peak: f64, unit: &str, downwards: bool) {
        for line in 0..=LINES {
            let part = line as f64 / LINES as f64;
            let y = TOP + self.height * if downwards { part } else { 1.0 - part };
            let label = short(peak * part, unit);
            self.add(format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"scale\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{label}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                y + 4.0
            ));
        }
        for tick in 0..=8 {
            let part = f64::from(tick) / 8.0;
            let x = LEFT + WIDTH * part;
            let y = TOP + self.height + 16.0;
            self.add(format_args!(
                "<text class=\"scale\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{:.2} s</text>",
                seconds * part
            ));
        }
    }

    /// Bins of a heat map; the more in it, the more opaque.
    pub fn heat(&mut self, heat: &Heat, class: &str) {
        let peak = f64::from(heat.peak().max(1));
        let (width, height) = (WIDTH / COLUMNS as f64, self.height / ROWS as f64);
        self.add(format_args!("<g class=\"{class}\">"));
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let count = f64::from(heat.cell(column, row));
                if count > 0.0 {
                    // The root shows what is seldom beside what is frequent.
                    let opacity = 0.18 + 0.82 * (count / peak).sqrt();
                    self.add(format_args!(
                        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                         opacity=\"{opacity:.2}\"/>",
                        LEFT + width * column as f64,
                        TOP + height * row as f64,
                        width + 0.3,
                        height + 0.3
                    ));
                }
            }
        }
        self.add(format_args!("</g>"));
    }

    /// A line over time.
    pub fn line(&mut self, values: &[f64], peak: f64, class: &str) {
        let mut points = String::new();
        for (at, value) in values.iter().enumerate() {
            let x = LEFT + WIDTH * (at as f64 + 0.5) / values.len() as f64;
            let y = TOP + self.height * (1.0 - value / peak.max(f64::MIN_POSITIVE));
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        self.add(format_args!(
            "<polyline class=\"line {class}\" points=\"{points}\"/>"
        ));
    }

    /// Columns that stand on those drawn before; `floor` is where each begins and is moved up.
    pub fn stack(&mut self, values: &[u64], floor: &mut [f64], peak: f64, class: &str) {
        let width = WIDTH / values.len() as f64;
        self.add(format_args!("<g class=\"{class}\">"));
        for (at, value) in values.iter().enumerate().filter(|(_, value)| **value > 0) {
            let height = self.height * *value as f64 / peak.max(1.0);
            let below = self.height * floor[at] / peak.max(1.0);
            self.add(format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                LEFT + width * at as f64,
                TOP + self.height - below - height,
                width - 0.4
            ));
            floor[at] += *value as f64;
        }
        self.add(format_args!("</g>"));
    }

    /// A labelled bar from one part of the time to another, 0 to 1.
    pub fn bar(&mut self, from: f64, to: f64, label: &str, class: &str) {
        let (x, width) = (LEFT + WIDTH * from, (WIDTH * (to - from)).max(1.5));
        let height = self.height;
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\">\
             <title>{label}</title></rect>"
        ));
        if width > 60.0 {
            self.add(format_args!(
                "<text class=\"inside\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                x + 6.0,
                TOP + height / 2.0 + 4.0
            ));
        }
    }

    /// The whole picture.
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }
}
