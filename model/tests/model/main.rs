//! The oracle on trial: real and damaged logs, hand-made images, and a naive reference.

mod agreement;
mod change_map;
mod classes;
mod common;
mod lockstep_writers;
mod power_cut;
mod reference;
mod shrink;
mod witness;
