//! Typed host-guest protocol.
