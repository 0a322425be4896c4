//! Progress for people: bars on a terminal, plain lines otherwise. Always on standard error, so that
//! standard output carries nothing but results.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use cowbird_images::{Outcome, Progress, TaskId};
use cowbird_matrix::output;
use cowbird_outside::{out, printable};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

/// How often a bar's time is redrawn.
const TICK: Duration = Duration::from_millis(200);

/// Prints a result for people; names in it may come from anywhere. A reader that closes the pipe early, as `head`
/// does, has what it wanted.
pub fn print(text: &str) -> Result<()> {
    out::lines(text);
    out::finish()
}

/// Prints a result for programs.
pub fn print_json<T: Serialize>(value: &T) -> Result<()> {
    out::json(&output::to_json(value)?);
    out::finish()
}

/// Where progress goes.
#[derive(Debug)]
pub struct Ui {
    started: Instant,
    bars: Option<MultiProgress>,
}

impl Ui {
    /// Bars when standard error is a terminal that can draw them.
    pub fn new() -> Arc<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = std::io::stderr().is_terminal() && !dumb;
        Arc::new(Self {
            started: Instant::now(),
            bars: terminal.then(MultiProgress::new),
        })
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bars {
            // A bar may be drawn at this moment; the line goes above it.
            Some(bars) => bars.suspend(|| out::note_lines(text)),
            None => out::note_lines(text),
        }
    }

    fn timed_line(&self, text: &str) {
        self.line(&format!(
            "[{:7.1}s] {text}",
            self.started.elapsed().as_secs_f64()
        ));
    }

    /// Something that takes time, begun.
    pub fn task(self: &Arc<Self>, what: &str) -> Task {
        let bar = match &self.bars {
            Some(bars) => bars.add(ProgressBar::new_spinner()),
            None => ProgressBar::hidden(),
        };
        bar.set_style(style("{spinner} {prefix} {wide_msg} {elapsed:>4}"));
        bar.set_prefix(printable(what));
        if self.bars.is_some() {
            bar.enable_steady_tick(TICK);
        } else {
            self.timed_line(what);
        }
        Task {
            ui: Arc::clone(self),
            bar,
            what: what.to_owned(),
        }
    }

    /// A count of `total` things to be done.
    pub fn counter(&self, total: u64, what: &'static str) -> ProgressBar {
        let bar = match &self.bars {
            Some(bars) => bars.add(ProgressBar::new(total)),
            None => ProgressBar::hidden(),
        };
        bar.set_style(style("{bar:30} {pos}/{len} {msg} {elapsed:>4}"));
        bar.set_message(what);
        if self.bars.is_some() {
            bar.enable_steady_tick(TICK);
        }
        bar
    }
}

/// A style from a template of this file.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Something that takes time; it leaves the screen when dropped.
#[derive(Debug)]
pub struct Task {
    ui: Arc<Ui>,
    bar: ProgressBar,
    what: String,
}

impl Task {
    /// It has come to a new step. Only bars show it: in a log the steps of several tasks would mix.
    pub fn step(&self, message: &str) {
        self.bar.set_message(printable(message));
    }

    /// It ended, and this is to stay on the screen.
    pub fn end(self, result: &str) {
        let line = format!("{}: {result}", self.what);
        let ui = Arc::clone(&self.ui);
        drop(self);
        ui.timed_line(&line);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Shows what the store of kernels reports.
#[derive(Debug)]
pub struct StoreProgress {
    ui: Arc<Ui>,
    tasks: Mutex<HashMap<TaskId, Task>>,
}

impl StoreProgress {
    /// Reports to `ui`.
    pub fn new(ui: &Arc<Ui>) -> Arc<Self> {
        Arc::new(Self {
            ui: Arc::clone(ui),
            tasks: Mutex::default(),
        })
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for StoreProgress {
    fn start(&self, task: TaskId, what: &str) {
        let shown = self.ui.task(what);
        self.tasks().insert(task, shown);
    }

    fn step(&self, task: TaskId, message: &str) {
        if let Some(task) = self.tasks().get(&task) {
            task.step(message);
        }
    }

    fn finish(&self, task: TaskId, outcome: Outcome) {
        let shown = self.tasks().remove(&task);
        if let Some(shown) = shown
            && outcome == Outcome::Failed
        {
            shown.end("failed");
        }
    }

    fn warning(&self, message: &str) {
        self.ui.line(&format!("warning: {message}"));
    }
}
