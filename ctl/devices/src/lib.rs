//! What the kernel says of block devices, of the filesystems on them, and of its boot. Nothing here asks the module.

pub mod boot;
pub mod discards;
pub mod identity;
pub mod mounts;
pub mod probe;
pub mod removal;
pub mod signature;
pub mod topology;
