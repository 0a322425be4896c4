//! The programs of the host by which kernels are fetched, unpacked and built for: each run for a bounded time with its output in
//! a file, ended when whoever started it ends, and named together with the package that brings it when it is not there.
//!
//! **Architecture invariant:** what the programs are run for is not known here: no archive, no cache, no kernel.

pub mod error;
pub mod host;
pub mod install;
pub mod locks;
pub mod tool;

pub use error::{Ending, Error, Excerpt, Result};
pub use host::{HostPackage, missing_host_packages};
pub use tool::Tool;
