//! What commands do with a trace, and how they end.

use std::path::Path;

use anyhow::{Context, Result};
use cowbird_events::devices::{BlockDevice, Snapshot};
use cowbird_events::event::Record;
use cowbird_events::format::{Chunk, Footer, FormatError, Meta, TraceReader};
use cowbird_outside::foreign::Input;
use cowbird_trace::record::RecordError;
use cowbird_workload::recognise;

use crate::complain::complain;

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
            complain!("trace is not complete: {loss}");
        }
        match self.losses.is_empty() {
            true => Outcome::Done,
            false => Outcome::Incomplete,
        }
    }
}

/// Opens a trace or a workload; from a pipe as well.
pub fn open(path: &Path) -> Result<Input> {
    Input::open(path, |start| recognise(start).is_some())
}

/// Reads a whole trace and shows each intact event to `visit`.
pub fn read(input: &Input, mut visit: impl FnMut(&Record) -> Result<()>) -> Result<Overview> {
    let on_path = || format!("{}", input.path().display());
    let mut reader = TraceReader::new(input.rewound()?).with_context(on_path)?;
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
    let is = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        // These say the reason themselves, and therefore do not name it as their source.
        let trace = match cause.downcast_ref::<RecordError>() {
            Some(RecordError::Format(FormatError::Io { reason, .. })) => is(reason),
            _ => false,
        };
        trace || cause.downcast_ref::<std::io::Error>().is_some_and(is)
    })
}
