//! Progress of what takes long, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// How far something of so many bytes is, for whoever looks at a terminal.
pub fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}
