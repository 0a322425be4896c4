//! The threads that commands run guests on.

use anyhow::{Context, Result};

/// Starts them.
pub fn start() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the harness")
}
