//! Rust bindings of the module's user-space ABI.
