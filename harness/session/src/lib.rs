//! A cell under way: what it is to do, its machine, and what a case can do to its guest.

pub mod boot_hooks;
pub mod fault;
pub mod guest;
pub mod input;
pub mod machine;
pub mod phases;
pub mod plan;
