//! `record`: from the running kernel into a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use cowbird_events::devices;
use cowbird_events::format::Meta;
use cowbird_outside::out;
use cowbird_trace::record::{self, DEFAULT_POLL, DEFAULT_RING_BYTES, RecordOptions};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::complain::complain;

use super::Outcome;

const MIN_RING_BYTES: u64 = 4096;
const MAX_RING_BYTES: u64 = 1 << 30;

#[derive(Args)]
pub struct Options {
    /// Trace file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Only block events of this disk or partition; the module's events are always recorded
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Stop after this time
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Stop when the file has this size; suffixes K, M, G
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    size_limit: Option<u64>,
    /// Ring buffer between kernel and recorder, a power of two of at least 4K; suffixes K, M, G
    #[arg(long, value_name = "BYTES", value_parser = parse_ring)]
    ring_size: Option<u64>,
    /// Take events after so many milliseconds at the latest; sooner if there are many [default: 100]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    poll_ms: Option<u64>,
    /// Fingerprint the content of every write and read, 4 KiB by 4 KiB
    #[arg(long)]
    fingerprints: bool,
    /// Do not seal fingerprints with a random key, so that whoever has the trace can look for contents that he knows; for tests
    #[arg(long, requires = "fingerprints")]
    plain_fingerprints: bool,
    /// Leave out, and count, what exceeds so many events in a second; each CPU has its share
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    rate_limit: Option<u64>,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        other => return Err(format!("unknown suffix {other}; use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

fn parse_ring(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if !bytes.is_power_of_two() || !(MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes) {
        return Err("must be a power of two from 4K to 1G".to_owned());
    }
    Ok(bytes)
}

fn announce(meta: &Meta, output: &str) {
    let module = match meta.module_events {
        true => "with the module's events",
        false => "without the module's events (cowbird is not loaded)",
    };
    let what = meta.filter.as_deref().unwrap_or("all block devices");
    out::note(format_args!(
        "recording {what} to {output}, {module}; stop with Ctrl-C"
    ));
}

pub fn run(options: &Options) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    let ring = options.ring_size.map(u32::try_from).transpose()?;
    let settings = RecordOptions {
        output: options.output.clone(),
        device: options.device.as_deref().map(devices::find).transpose()?,
        duration: options.seconds.map(Duration::from_secs),
        size_limit: options.size_limit,
        ring_bytes: ring.unwrap_or(DEFAULT_RING_BYTES),
        fingerprints: options.fingerprints,
        plain_fingerprints: options.plain_fingerprints,
        rate_limit: options.rate_limit,
        poll: options.poll_ms.map_or(DEFAULT_POLL, Duration::from_millis),
    };
    let output = options.output.display().to_string();
    let summary = record::record(&settings, &stop, |meta| announce(meta, &output))
        .with_context(|| format!("cannot record to {output}"))?;
    let footer = summary.footer;
    out::note(format_args!(
        "stopped by {}: {} events in {} bytes",
        footer.stopped_by, footer.received, summary.file_bytes
    ));
    let losses = footer.losses();
    for loss in &losses {
        complain!("trace is not complete: {loss}");
    }
    Ok(match losses.is_empty() {
        true => Outcome::Done,
        false => Outcome::Incomplete,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_bounds() {
        assert_eq!(parse_size("10M"), Ok(10 << 20));
        assert_eq!(parse_ring("4K"), Ok(4096));
        for wrong in ["", "M", "1T", "-1", "1MK", "99999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        for wrong in ["2K", "5000", "2G"] {
            assert!(parse_ring(wrong).is_err(), "{wrong}");
        }
    }
}
