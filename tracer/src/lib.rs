//! Records what happens to every bio, and to every block that the module preserves, inside a
//! running kernel, and reads such recordings.
//!
//! [`format`] is the trace file, [`event`] what it holds, [`kernel`] how an event of one kernel
//! becomes one that means the same on all; [`verify`] and [`report`] judge and draw what was
//! recorded; [`workload`] makes of it what can be replayed. These need no kernel. [`probes`] loads the BPF programs and [`record`] writes what they
//! send.

pub mod btf;
pub mod decoder;
pub mod devices;
pub mod event;
pub mod format;
pub mod kernel;
pub mod output;
mod pairing;
pub mod prints;
pub mod privileges;
pub mod probes;
pub mod record;
pub mod report;
pub mod top;
pub mod verify;
pub mod workload;
