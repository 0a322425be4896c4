//! Runs planned cells, so many at a time, and collects one result for each, whatever happens.

use std::sync::Arc;

use cowbird_model::{CellResult, Verdict};
use tokio::sync::{Semaphore, mpsc};

use crate::plan::PlannedCell;

/// Runs `cells` with `run`, `jobs` at a time, started in their order. Each result goes to `report`
/// as soon as it is there, with its place in the plan; the return value is in the order of the plan.
///
/// A cell whose task panics still has a result: *infrastructure*, with the panic as the reason.
pub async fn run_cells<F, R>(
    cells: &[PlannedCell],
    jobs: usize,
    run: F,
    mut report: impl FnMut(usize, &CellResult),
) -> Vec<CellResult>
where
    F: Fn(PlannedCell) -> R + Clone + Send + 'static,
    R: Future<Output = CellResult> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(cells.len().max(1));
    // Beside the loop below, which reports while later cells still wait for their slot.
    tokio::spawn(feed(cells.to_vec(), jobs, run, sender));
    let mut results: Vec<Option<CellResult>> = vec![None; cells.len()];
    while let Some((at, result)) = receiver.recv().await {
        report(at, &result);
        results[at] = Some(result);
    }
    results.into_iter().flatten().collect()
}

/// Starts the cells one after the other, each when it has a slot, and sends their results.
async fn feed<F, R>(
    cells: Vec<PlannedCell>,
    jobs: usize,
    run: F,
    sender: mpsc::Sender<(usize, CellResult)>,
) where
    F: Fn(PlannedCell) -> R + Clone + Send + 'static,
    R: Future<Output = CellResult> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(jobs.max(1)));
    for (at, cell) in cells.into_iter().enumerate() {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let (sender, run) = (sender.clone(), run.clone());
        tokio::spawn(async move {
            let id = cell.clone();
            // A task of its own, so that a panic ends this cell and not the others.
            let result = match tokio::spawn(run(cell)).await {
                Ok(result) => result,
                Err(error) => {
                    let reason = format!("the harness failed: {error}");
                    id.result(Verdict::Infrastructure, reason)
                }
            };
            drop(slot);
            // The channel has room for every result, and its receiver waits for all of them.
            let _ = sender.send((at, result)).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn cells() -> Vec<PlannedCell> {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        plan(
            &names(&["k1", "k2", "k3"]),
            &names(&["a", "b", "panics"]),
            &[],
            1,
        )
    }

    /// Goal: as many results as cells, in the order of the plan; cells begin in that order, never
    /// more at once than allowed; and a panic is one cell's business. Method: cells that end in another order than they began,
    /// one of three panicking.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn every_cell_has_a_result() {
        let cells = cells();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&running), Arc::clone(&most));
        let begun = Arc::new(Mutex::new(Vec::new()));
        let beginnings = Arc::clone(&begun);
        let run = move |cell: PlannedCell| {
            let (running, most) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
            // At the call, which is in the order of the slots; the futures run as they like.
            beginnings
                .lock()
                .expect("nobody panicked with it")
                .push(cell.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(cell.seed % 20)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                assert_ne!(cell.id.case, "panics", "on purpose");
                cell.result(Verdict::Pass, String::new())
            }
        };
        let mut reported = Vec::new();
        let results = run_cells(&cells, 2, run, |at, result| {
            reported.push((at, result.case.clone()));
        })
        .await;
        assert_eq!(results.len(), cells.len());
        for (cell, result) in cells.iter().zip(&results) {
            assert_eq!(
                (&cell.id.kernel, &cell.id.case),
                (&result.kernel, &result.case)
            );
            assert_eq!(cell.seed, result.seed);
            let panicked = cell.id.case == "panics";
            assert_eq!(result.verdict == Verdict::Infrastructure, panicked);
            assert_eq!(
                result.reason.contains("panic"),
                panicked,
                "{}",
                result.reason
            );
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
        // Two tasks may call in either order, so a cell may begin one place early or late.
        let begun = begun.lock().expect("nobody panicked with it");
        for (at, cell) in begun.iter().enumerate() {
            let planned = cells
                .iter()
                .position(|planned| planned == cell)
                .expect("it is planned");
            assert!(
                planned.abs_diff(at) <= 1,
                "cell {planned} began as number {at}"
            );
        }
        reported.sort();
        assert_eq!(reported.len(), cells.len());
        assert!(
            reported
                .iter()
                .enumerate()
                .all(|(at, (reported, _))| at == *reported)
        );
    }

    #[tokio::test]
    async fn no_cells_are_no_results() {
        let run = |cell: PlannedCell| async move { cell.result(Verdict::Pass, String::new()) };
        assert!(run_cells(&[], 4, run, |_, _| {}).await.is_empty());
    }
}
