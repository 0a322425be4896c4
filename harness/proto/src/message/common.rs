//! What several messages have: numbers, and an operation that failed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a request, chosen by the host, returned with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Number of a running workload, chosen by the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadId(pub u32);

/// An operation that failed in the guest: an answer, not a fault of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestError {
    /// Operation and object, with the reason.
    pub message: String,
    /// The errno when the kernel refused.
    pub errno: Option<i32>,
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for GuestError {}
