//! Why there is no list.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no list.
#[derive(Debug, Error)]
pub enum ListError {
    /// Something cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is not Rust.
    #[error("{file} cannot be understood: {error}")]
    Syntax {
        /// The file, from the root of the checkout.
        file: String,
        /// Why.
        error: syn::Error,
    },
    /// Cases that would be in no list.
    #[error("{file}: {what}")]
    Unlisted {
        /// The file, from the root of the checkout.
        file: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A constant that is excepted and is not there.
    #[error("there is no `{0}`, which the build script excepts from the list of cases")]
    NoException(String),
}
