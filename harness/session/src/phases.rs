//! The phases of a cell, and how long each takes.

use std::time::Duration;

/// Told when a cell enters a phase.
pub trait CellProgress: Send + Sync {
    /// `name` is one of the phases that the outcome of the cell will list.
    fn phase(&self, name: &str);
}

impl<F: Fn(&str) + Send + Sync> CellProgress for F {
    fn phase(&self, name: &str) {
        self(name);
    }
}

/// Measures the phases.
pub struct PhaseClock<'a> {
    progress: &'a dyn CellProgress,
    start: std::time::Instant,
    phase_start: std::time::Instant,
    current: Option<&'static str>,
    done: Vec<(String, Duration)>,
}

impl<'a> PhaseClock<'a> {
    /// Begins to measure.
    #[must_use]
    pub fn new(progress: &'a dyn CellProgress) -> Self {
        let now = std::time::Instant::now();
        Self {
            progress,
            start: now,
            phase_start: now,
            current: None,
            done: Vec::new(),
        }
    }

    /// Ends the phase before and begins this one.
    pub fn enter(&mut self, name: &'static str) {
        self.close();
        self.progress.phase(name);
        self.current = Some(name);
    }

    fn close(&mut self) {
        let now = std::time::Instant::now();
        if let Some(name) = self.current.take() {
            self.done.push((name.to_owned(), now - self.phase_start));
        }
        self.phase_start = now;
    }

    /// Ends the last phase: all phases in order, and seconds since the start.
    #[must_use]
    pub fn finish(mut self) -> (Vec<(String, Duration)>, f64) {
        self.close();
        (self.done, self.start.elapsed().as_secs_f64())
    }
}
