//! The cases: what is done in the guest, told as a story, and what must then be true.

mod above;
mod amplified;
mod boots;
mod catalogue;
mod chain;
mod databases;
mod exerciser;
mod expand;
mod faults;
mod fio_profiles;
mod freezing;
mod fs_churn;
mod hot_read;
mod incremental;
mod info;
mod kinds;
mod large;
mod many_cuts;
mod many_snapshots;
mod mishaps;
mod mixed_sectors;
mod modules;
mod names;
mod other_namespace;
mod persistence;
mod power_cuts;
mod raw_writers;
mod reconfigure;
mod recorded;
mod refusals;
mod regressions;
mod restored;
mod root_volume;
mod self_test;
mod series;
mod setting;
mod soak;
mod stacked;
mod stale_cache;
mod stuck;
mod sync_above;
mod throttled;
mod throttled_set;
mod topology;
mod tracer;
mod two_volumes;
mod whole_disk;

use info::{Act, ActFuture, case, traced};
pub use info::{CaseInfo, CaseTier, REGRESSIONS};
use modules::{GUEST_MODULES, modules};
use names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
pub(crate) use setting::Setting;

use cowbird_session::driver::vacuous;
use cowbird_vm::layout::Layout;

/// All cases.
#[must_use]
pub fn cases() -> &'static [CaseInfo] {
    &catalogue::ALL
}

/// The case of that name, self-tests included.
#[must_use]
pub fn find(name: &str) -> Option<&'static CaseInfo> {
    cases()
        .iter()
        .chain(&self_test::CASES)
        .chain([&catalogue::RECORDED])
        .find(|case| case.name == name)
}

/// The case that replays a recorded workload. It belongs to no matrix without one.
#[must_use]
pub fn recorded_case() -> &'static CaseInfo {
    &catalogue::RECORDED
}

/// Cases that put the harness itself on trial. They need no module, and belong to no matrix.
#[must_use]
pub fn self_test_cases() -> &'static [CaseInfo] {
    &self_test::CASES
}
