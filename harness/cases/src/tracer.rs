//! The tracer on trial on a guest's kernel, without any snapshot: whatever way content takes to the
//! disk and back, each block's fingerprint must be there once and be that of its content. What is
//! written is the same on every kernel.

use cowbird_checks::claim::Evidence;
use cowbird_host::initramfs::{TRACER, TRACER_TRIAL};
use cowbird_session::guest::{CaseResult, GuestSession};
use cowbird_vm::layout::Layout;

use crate::info::{CaseInfo, CaseTier, case, traced};
use crate::modules::GUEST_MODULES;
use crate::names::ORIGIN;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Tracing.cases(&[traced(CaseInfo {
    uses_module: false,
    ..case(
        "tracer",
        "the tracer's fingerprints of direct, cached and misaligned I/O, block by block",
        CaseTier::Daily,
        &GUEST_MODULES,
        layout,
        |guest, _| Box::pin(act(guest)),
    )
})]);

/// What the trial needs.
const ORIGIN_MIB: u32 = 48;

/// The disks of `tracer`.
fn layout() -> Layout {
    Layout::raw_without_cow(ORIGIN_MIB)
}

/// Plays `tracer`.
async fn act(guest: &mut GuestSession<'_, '_>) -> CaseResult<Evidence> {
    guest.expect_tracer().await?;
    guest.phase("trial");
    let arguments = ["--tracer", TRACER, "content", ORIGIN];
    guest.run(TRACER_TRIAL, &arguments).await?;
    // The line is worked out from the workload too, and compared with what the trace has; as a note, it can be
    // compared between kernels.
    let arguments = ["--tracer", TRACER, "fixed", ORIGIN];
    let events = guest.run(TRACER_TRIAL, &arguments).await?;
    guest.note(format!("fixed workload: {}", events.trim()));
    Ok(Evidence::witness_only())
}
