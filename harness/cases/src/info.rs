//! What a case is.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use cowbird_checks::claim::Evidence;
use cowbird_host::error::HarnessResult;
use cowbird_host::program::HostProgram;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{CaseResult, GuestSession};
use cowbird_vm::layout::Layout;
use serde::Serialize;

use crate::context::CaseContext;
use crate::topology::Topology;

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

/// What a case does in its guest.
pub type Act = for<'a> fn(&'a mut GuestSession<'_, '_>, &'a CaseContext) -> ActFuture<'a>;
/// A case under way.
pub type ActFuture<'a> = Pin<Box<dyn Future<Output = CaseResult<Evidence>> + Send + 'a>>;

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
    pub uses_module: bool,
    /// Whether the tracer goes into the guest.
    pub uses_tracer: bool,
    /// Programs of the host that go into the guest.
    pub programs: &'static [HostProgram],
    /// Other files of the host that do, as (path in the guest, path on the host).
    pub files: fn() -> HarnessResult<Vec<(String, PathBuf)>>,
    /// What is on its disks.
    pub layout: fn() -> Layout,
    /// What it is made of, if that is a topology; the layout is then that of the topology.
    pub topology: Option<&'static Topology>,
    /// What it makes go wrong. The guest session refuses any other fault.
    pub faults: &'static [Fault],
    /// What it does.
    pub act: Act,
}

impl CaseInfo {
    /// The case with the faults that it makes.
    pub const fn making(self, faults: &'static [Fault]) -> Self {
        Self { faults, ..self }
    }

    /// Does it.
    pub fn act<'a>(
        &self,
        guest: &'a mut GuestSession<'_, '_>,
        context: &'a CaseContext,
    ) -> ActFuture<'a> {
        (self.act)(guest, context)
    }
}

/// A case with the module under test, and with nothing else in its guest.
pub const fn case(
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
        faults: &[],
        act,
    }
}

/// The case with the tracer in its guest.
pub const fn traced(case: CaseInfo) -> CaseInfo {
    CaseInfo {
        uses_tracer: true,
        ..case
    }
}
