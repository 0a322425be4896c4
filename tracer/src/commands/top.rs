//! `top`: what the running kernel does, in a terminal.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use cowbird_events::devices::{self, BlockDevice};
use cowbird_events::event::{DeviceNumber, Record, Sector};
use cowbird_outside::printable;
use cowbird_trace::privileges;
use cowbird_trace::probes::ProbeOptions;
use cowbird_trace::record::{DEFAULT_POLL, DEFAULT_RING_BYTES, Live, RecordError};
use cowbird_trace::top::{Losses, Pending, Window};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Outcome;

/// The other screen, without a cursor and without breaking long lines.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\r\n";
const CLEAR_BELOW: &str = "\x1b[J";

#[derive(Args)]
pub struct Options {
    /// Only this disk or partition
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Seconds between two pictures
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Stop after so many pictures
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Gives the terminal back, however the command ends.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(Self)
    }

    fn show(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(HOME.as_bytes())?;
        for line in text.lines() {
            write!(out, "{}{CLEAR_LINE}", printable(line))?;
        }
        out.write_all(CLEAR_BELOW.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // A terminal that is gone needs nothing back.
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
    }
}

/// Collects for one interval.
fn collect(
    live: &mut Live,
    pending: &mut Pending,
    interval: Duration,
    stop: &AtomicBool,
) -> Result<Window, RecordError> {
    let (mut window, begun) = (Window::default(), Instant::now());
    while begun.elapsed() < interval && !stop.load(Ordering::Relaxed) {
        let left = interval.saturating_sub(begun.elapsed());
        live.wait(left.min(DEFAULT_POLL))?;
        live.drain(|record: Record| {
            window.take(&record, pending);
            Ok(())
        })?;
    }
    Ok(window)
}

fn draw(window: &Window, live: &mut Live, seconds: f64) -> Result<String, RecordError> {
    let counters = live.counters()?;
    let snapshots = devices::snapshots();
    let all = devices::all();
    let fills: BTreeMap<_, _> = devices::fills().into_iter().collect();
    let losses = Losses {
        dropped: counters.iter().map(|cpu| cpu.dropped).sum(),
        skipped: live.skipped(),
    };
    let name = |disk| devices::name_of(&all, DeviceNumber(disk), Sector(u64::MAX));
    let origin = |minor| {
        let snapshot = snapshots.iter().find(|snapshot| snapshot.minor == minor)?;
        let disk = snapshot.origin.as_ref().and_then(BlockDevice::disk);
        disk.map(|disk| disk.0)
    };
    Ok(window.draw(seconds, losses, &fills, name, origin))
}

pub fn run(options: &Options) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    let device = options.device.as_deref().map(devices::find).transpose()?;
    let probes = ProbeOptions {
        device,
        ..ProbeOptions::plain(DEFAULT_RING_BYTES)
    };
    let mut live = Live::start(&probes)?;
    privileges::give_up().context("cannot give up privileges that are not needed any more")?;
    let screen = Screen::enter().context("cannot write to the terminal")?;
    let interval = Duration::from_secs(options.interval);
    let (mut pending, mut pictures) = (Pending::default(), 0);
    while !stop.load(Ordering::Relaxed) && options.count.is_none_or(|count| pictures < count) {
        let begun = Instant::now();
        let window = collect(&mut live, &mut pending, interval, &stop)?;
        let text = draw(&window, &mut live, begun.elapsed().as_secs_f64())?;
        screen.show(&text).context("cannot write to the terminal")?;
        pictures += 1;
    }
    Ok(Outcome::Done)
}
