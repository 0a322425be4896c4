//! The commands, one file each.

pub mod block;
pub mod doctor;
pub mod export;
pub mod info;
pub mod record;
pub mod report;
pub mod top;
mod trace;
pub mod verify;

pub use trace::{Outcome, Overview, is_broken_pipe, open, read};
