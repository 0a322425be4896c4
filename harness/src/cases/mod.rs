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
mod kinds;
mod large;
mod layout;
mod many_cuts;
mod many_snapshots;
mod mishaps;
mod mixed_sectors;
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

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;

use crate::driver::{CaseResult, Driver};
use crate::error::HarnessResult;
use crate::program::HostProgram;
use crate::recorded::Replay;
use crate::trials::TrialPlan;
use crate::verify::Evidence;
pub(crate) use layout::{Layout, Setting};
use topology::Topology;

/// The origin in the guest.
const ORIGIN: &str = "/dev/vda1";

/// The second partition of the first disk: where the COW file is, when it is not on the origin.
const COW_HOME: &str = "/dev/vda2";

/// Where [`COW_HOME`] is mounted.
const COW_MOUNT: &str = "/mnt/cow";

/// The snapshot device.
const SNAPSHOT: &str = "/dev/cowbird0";

/// Number of [`SNAPSHOT`].
const MINOR: u32 = 0;

/// The second disk: the image.
const IMAGE: &str = "/dev/vdb";

/// How often a case is worth its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseTier {
    /// For every change.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

/// The case that runs the shrunk cells of the past. It comes first.
pub const REGRESSIONS: &str = "regressions";

type Act = for<'a> fn(&'a mut Driver<'_, '_>, &'a Setting) -> ActFuture<'a>;
type ActFuture<'a> = Pin<Box<dyn Future<Output = CaseResult<Evidence>> + Send + 'a>>;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct CaseInfo {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// What it is for, in one sentence.
    pub summary: &'static str,
    /// How often it runs.
    pub tier: CaseTier,
    /// Modules of the kernel that it needs; those that are built in count as there.
    pub needs_modules: &'static [&'static str],
    /// Whether the module under test and the control tool go into the guest.
    pub(crate) uses_module: bool,
    /// Whether the tracer goes into the guest.
    pub(crate) uses_tracer: bool,
    /// Programs of the host that go into the guest.
    pub programs: &'static [HostProgram],
    /// Other files of the host that do, as (path in the guest, path on the host).
    pub(crate) files: fn() -> HarnessResult<Vec<(String, PathBuf)>>,
    layout: fn() -> Layout,
    /// What it is made of, if that is a topology; the layout is then that of the topology.
    topology: Option<&'static Topology>,
    act: Act,
}

impl CaseInfo {
    /// What is on the disks: with a recorded workload or with scripts, the volume that they need. `soak`: how
    /// long the long load goes on; `cuts`: how many snapshot instants the cases made of topologies have.
    pub(crate) fn setting(
        &self,
        seed: u64,
        replay: Option<Replay>,
        soak: Option<Duration>,
        trials: &[TrialPlan],
        cuts: Option<u32>,
    ) -> Setting {
        let layout = match &replay {
            Some(replay) => recorded::layout(replay),
            None if trials.is_empty() => self.topology.map_or_else(self.layout, Topology::layout),
            None => regressions::layout(trials),
        };
        Setting {
            layout,
            seed,
            replay,
            soak,
            trials: trials.to_vec(),
            topology: self.topology,
            cuts,
        }
    }

    /// Does it.
    pub(crate) fn act<'a>(
        &self,
        driver: &'a mut Driver<'_, '_>,
        setting: &'a Setting,
    ) -> ActFuture<'a> {
        (self.act)(driver, setting)
    }
}

/// Modules that every guest needs, whether built in or not. What they depend on softly (ext4 on
/// crc32c, under a name that changes between kernels) the store adds.
const GUEST_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_blk", "ext4"];

/// [`GUEST_MODULES`] and at most four more; a name may be there twice.
const fn modules<const N: usize>(more: [&'static str; N]) -> [&'static str; 8] {
    let [pci, console, blk, ext4] = GUEST_MODULES;
    let mut all = [pci, console, blk, ext4, ext4, ext4, ext4, ext4];
    let mut index = 0;
    while index < N {
        all[GUEST_MODULES.len() + index] = more[index];
        index += 1;
    }
    all
}

const fn case(
    name: &'static str,
    summary: &'static str,
    tier: CaseTier,
    needs_modules: &'static [&'static str],
    layout: fn() -> Layout,
    act: Act,
) -> CaseInfo {
    CaseInfo {
        name,
        summary,
        tier,
        needs_modules,
        uses_module: true,
        uses_tracer: false,
        programs: &[],
        files: || Ok(Vec::new()),
        layout,
        topology: None,
        act,
    }
}

/// The case with the tracer in its guest.
const fn traced(case: CaseInfo) -> CaseInfo {
    CaseInfo {
        uses_tracer: true,
        ..case
    }
}

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

/// A case that exercised nothing must not pass.
fn vacuous(what: &str) -> crate::driver::CaseError {
    let detail = format!("the case tested nothing: {what}; the host may be too slow");
    crate::error::HarnessError::Plan { detail }.into()
}
