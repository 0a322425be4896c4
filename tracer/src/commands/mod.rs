//! The commands, one file each.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use cowbird_trace::devices::{BlockDevice, Snapshot};
use cowbird_trace::event::Record;
use cowbird_trace::format::{Chunk, Footer, Meta, TraceReader};

pub mod block;
pub mod doctor;
pub mod export;
pub mod info;
pub mod record;
pub mod report;
pub mod top;
pub mod verify;

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// Events are missing from the trace, or may be.
    Incomplete,
    /// `verify` has found broken invariants.
    Broken,
    /// `doctor` has found that this machine cannot be recorded.
    CannotRecord,
    /// `doctor` has found that recording would harm this machine.
    MustNotRecord,
}

/// What a trace says about itself.
#[derive(Debug)]
pub struct Overview {
    pub meta: Option<Meta>,
    pub footer: Option<Footer>,
    /// Every reason why events are missing or may be; empty for a complete trace.
    pub losses: Vec<String>,
}

impl Overview {
    /// Block devices, as they were when the recording ended.
    pub fn devices(&self) -> &[BlockDevice] {
        let at_end = self
            .footer
            .as_ref()
            .and_then(|footer| footer.devices.as_deref());
        let at_start = self.meta.as_ref().map(|meta| meta.devices.as_slice());
        at_end.or(at_start).unwrap_or_default()
    }

    /// Snapshots during the recording; without a footer, those at its start.
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        let at_start = self.meta.iter().flat_map(|meta| &meta.snapshots);
        at_start.chain(self.footer.iter().flat_map(|footer| &footer.snapshots))
    }

    /// When recording began, as `CLOCK_MONOTONIC` nanoseconds.
    pub fn start_ns(&self) -> u64 {
        self.meta.as_ref().map_or(0, |meta| meta.start_ns)
    }

    /// Says on standard error what is missing.
    pub fn warn(&self) -> Outcome {
        for loss in &self.losses {
            eprintln!("cowbird-trace: trace is not complete: {loss}");
        }
        match self.losses.is_empty() {
            true => Outcome::Done,
            false => Outcome::Incomplete,
        }
    }
}

/// Reads a whole trace and shows each intact event to `visit`.
pub fn read(path: &Path, mut visit: impl FnMut(&Record) -> Result<()>) -> Result<Overview> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let on_path = || format!("{}", path.display());
    let mut reader = TraceReader::new(file).with_context(on_path)?;
    let (mut meta, mut footer) = (None, None);
    while let Some(chunk) = reader.next_chunk().with_context(on_path)? {
        match chunk {
            Chunk::Meta(found) => meta = Some(*found),
            Chunk::Footer(found) => footer = Some(*found),
            Chunk::Events(records) => records.iter().try_for_each(&mut visit)?,
        }
    }
    let mut losses = reader.defects();
    if meta.is_none() {
        losses.push("what was known at the start is lost: devices have no names".to_owned());
    }
    losses.extend(footer.iter().flat_map(Footer::losses));
    Ok(Overview {
        meta,
        footer,
        losses,
    })
}

/// Whether the reader of the output has gone away, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
