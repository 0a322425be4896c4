//! How long steps report what they do. No terminal code lives here: the front end decides what it shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells the reports of concurrent tasks apart; unique within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(u64);

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was to do.
    Done,
    /// It was given up; the error that says why goes to the caller.
    Failed,
}

/// Receives what long steps report. Every task starts once and finishes once, also when it fails.
pub trait Progress: Send + Sync {
    /// A task begins, as `bullseye-5.10-cloud: fetch 5 packages (24 MiB)`.
    fn start(&self, task: TaskId, what: &str);
    /// A task has come to a new step.
    fn step(&self, task: TaskId, message: &str);
    /// A task ended.
    fn finish(&self, task: TaskId, outcome: Outcome);
    /// Something the user should know that does not stop the work.
    fn warning(&self, message: &str);
}

/// Reports to nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: TaskId, _: &str) {}
    fn step(&self, _: TaskId, _: &str) {}
    fn finish(&self, _: TaskId, _: Outcome) {}
    fn warning(&self, _: &str) {}
}

/// A running task; one that is dropped without `done` is reported as failed.
pub(crate) struct Task {
    progress: Arc<dyn Progress>,
    id: TaskId,
    outcome: Outcome,
}

impl Task {
    pub(crate) fn start(progress: &Arc<dyn Progress>, what: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = TaskId(NEXT.fetch_add(1, Ordering::Relaxed));
        progress.start(id, what);
        Self {
            progress: Arc::clone(progress),
            id,
            outcome: Outcome::Failed,
        }
    }

    pub(crate) fn step(&self, message: &str) {
        self.progress.step(self.id, message);
    }

    pub(crate) fn done(mut self) {
        self.outcome = Outcome::Done;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.progress.finish(self.id, self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Progress for Recorder {
        fn start(&self, _: TaskId, what: &str) {
            self.0.lock().unwrap().push(format!("start {what}"));
        }
        fn step(&self, _: TaskId, message: &str) {
            self.0.lock().unwrap().push(format!("step {message}"));
        }
        fn finish(&self, _: TaskId, outcome: Outcome) {
            self.0.lock().unwrap().push(format!("finish {outcome:?}"));
        }
        fn warning(&self, _: &str) {}
    }

    /// Goal: a task that is abandoned by an early return is still finished, as failed.
    #[test]
    fn every_task_finishes() {
        let recorder = Arc::new(Recorder::default());
        let progress: Arc<dyn Progress> = recorder.clone();
        let task = Task::start(&progress, "a");
        task.step("half");
        task.done();
        drop(Task::start(&progress, "b"));
        let seen = recorder.0.lock().unwrap().clone();
        assert_eq!(
            seen,
            [
                "start a",
                "step half",
                "finish Done",
                "start b",
                "finish Failed"
            ]
        );
    }
}
