//! Records what happens to every bio, and to every block that the module preserves, inside a
//! running kernel, and reads such recordings.
//!
//! What a trace holds is in `cowbird-events`. [`verify`] and [`report`] judge and draw what was recorded, and [`workload`]
//! makes of it what can be replayed. These need no kernel. [`probes`] loads the BPF programs and [`record`] writes what they
//! send.

pub mod output;
pub mod privileges;
pub mod probes;
pub mod record;
pub mod report;
pub mod top;
pub mod verify;
pub mod workload;
