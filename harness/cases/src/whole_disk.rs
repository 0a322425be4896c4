//! A whole disk as origin. It is written through its partitions only: through one by raw writers,
//! through the other by the filesystem that also holds the COW file and has to be frozen.

use cowbird_checks::claim::Evidence;
use cowbird_host::nature::OriginKind;
use cowbird_session::guest::{CaseResult, GuestSession};
use cowbird_vm::layout::Layout;

use crate::context::CaseContext;
use crate::info::{CaseTier, case};
use crate::modules::GUEST_MODULES;
use crate::raw_writers;
use crate::subject::{CasesOf, Subject};

/// The case of this file.
pub static CASES: CasesOf = Subject::Disks.cases(&[case(
    "whole-disk",
    "a whole disk that is written through its partitions, COW file on one of them",
    CaseTier::Daily,
    &GUEST_MODULES,
    layout,
    |guest, context| Box::pin(act(guest, context)),
)]);

/// The first disk.
const DISK: &str = "/dev/vda";

/// The disks of `whole-disk`.
pub fn layout() -> Layout {
    Layout {
        kind: OriginKind::WholeDisk,
        ..raw_writers::layout()
    }
}

/// Plays `whole-disk`.
async fn act(guest: &mut GuestSession<'_, '_>, context: &CaseContext) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    let cow_home_at = context
        .layout
        .cow_home
        .map(|home| u64::from(home.start) * 512);
    let spec = raw_writers::spec(DISK);
    let evidence =
        raw_writers::write_across_the_instant(guest, context, context.origin(), spec, cow_home_at)
            .await?;
    raw_writers::tear_down(guest).await?;
    Ok(evidence)
}
