//! Cases in which something fails, stops, runs short or goes away: disks, memory, power, the module, who uses it.

pub mod boot_loader;
pub mod boots;
pub mod exerciser;
pub mod f2fs_home;
pub mod faults;
pub mod freezing;
pub mod large;
pub mod many_snapshots;
pub mod mishaps;
pub mod not_taken_up;
pub mod other_namespace;
pub mod overwritten;
pub mod persistence;
pub mod power_cuts;
pub mod refusals;
pub mod root_volume;
pub mod stale_cache;
pub mod stuck;
pub mod throttled;
pub mod written_between;
