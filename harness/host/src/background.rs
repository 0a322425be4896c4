//! Work that would hold up the other cells.

use tokio::task::spawn_blocking;

use crate::error::{HarnessError, HarnessResult};

/// Runs something that computes or does file I/O where it does not stop the other cells.
pub async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> HarnessResult<T> + Send + 'static,
) -> HarnessResult<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        let detail = format!("a part of the harness failed: {error}");
        Err(HarnessError::Plan { detail })
    })
}
