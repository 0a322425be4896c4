//! How a guest ends.

use cowbird_host::error::HarnessError;
use cowbird_host::kernel_log::Splat;
use thiserror::Error;

/// Why a guest will not answer any more.
#[derive(Debug, Error)]
pub enum End {
    /// The kernel panicked.
    #[error("kernel panic: {}", .0.headline)]
    Panic(Splat),
    /// QEMU runs but the guest does not answer.
    #[error("{reason}")]
    Hang {
        /// What was waited for, and how long.
        reason: String,
    },
    /// QEMU ended although nobody of ours asked for it.
    #[error("{reason}")]
    Lost {
        /// How it ended.
        reason: String,
    },
    /// The host's side failed.
    #[error(transparent)]
    Infrastructure(#[from] HarnessError),
}
