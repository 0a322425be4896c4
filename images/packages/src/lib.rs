//! What archives and packages say of themselves: package indexes and the order of versions, Release files, digests, and what a
//! kernel module's file says that it needs.
//!
//! **Architecture invariant:** bytes in, data out. Only [`digest`] reads a file, to hash it; nothing here fetches, unpacks or runs
//! anything, or knows which kernels there are.

pub mod deb822;
pub mod digest;
pub mod modinfo;
pub mod parsers;
pub mod release;
pub mod version;
