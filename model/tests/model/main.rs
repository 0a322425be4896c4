//! The oracle on trial: real and damaged logs.

mod common;
mod witness;
