//! Why a case did not come to its end.

use cowbird_host::error::HarnessError;
use cowbird_vm::{CallError, End};
use thiserror::Error;

/// Why a case did not come to its end.
#[derive(Debug, Error)]
pub enum CaseError {
    /// There is no guest any more.
    #[error(transparent)]
    Ended(#[from] End),
    /// The module did not do what it must.
    #[error("{0}")]
    Failed(String),
    /// This kernel cannot run this case.
    #[error("{0}")]
    Unsupported(String),
}

impl From<HarnessError> for CaseError {
    fn from(error: HarnessError) -> Self {
        Self::Ended(End::Infrastructure(error))
    }
}

/// Result of a step of a case.
pub type CaseResult<T> = Result<T, CaseError>;

/// The same of a call that ends a boot: a guest that says no then is a fault of the protocol.
pub fn shut_down_error(error: CallError) -> CaseError {
    match error {
        CallError::Ended(end) => end.into(),
        CallError::Guest { error } => HarnessError::Protocol {
            detail: format!("at the end of the case: {error}"),
        }
        .into(),
    }
}

/// A case that exercised nothing must not pass.
pub fn vacuous(what: &str) -> CaseError {
    let detail = format!("the case tested nothing: {what}; the host may be too slow");
    HarnessError::Plan { detail }.into()
}
