//! Recorded workloads: their file, their importers, and how they are moved and replayed.

mod common;
mod file;
mod imports;
mod moved;
mod replayed;
mod script;
