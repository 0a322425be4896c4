//! What a plan names: its case, its disks and its workload.

use cowbird_cases::begin;
use cowbird_cases::context::CaseContext;
use cowbird_cases::info::CaseInfo;
use cowbird_checks::recorded::Recorded;
use cowbird_host::background::in_background;
use cowbird_host::error::{HarnessError, HarnessResult};
use cowbird_session::plan::CellPlan;
use cowbird_vm::layout::Layout;

use crate::catalogue;

/// The case of a plan.
pub(crate) fn find_case(plan: &CellPlan) -> HarnessResult<&'static CaseInfo> {
    catalogue::find(&plan.case).ok_or_else(|| HarnessError::Plan {
        detail: format!("there is no case {}", plan.case),
    })
}

/// What a case is played with; `recorded` is the recorded workload of the plan, if it is known.
pub(crate) fn context_of(
    plan: &CellPlan,
    case: &'static CaseInfo,
    recorded: Option<&Recorded>,
) -> CaseContext {
    let replay = recorded.map(|recorded| recorded.replay);
    begin::context(case, plan.seed, &plan.input, replay)
}

/// Size of the volume of a cell whose workload writes to the origin itself; none for all other cells.
#[must_use]
pub fn volume_sectors(plan: &CellPlan) -> Option<u64> {
    let case = catalogue::find(&plan.case)?;
    let context = context_of(plan, case, None);
    let layout = context.layout();
    let sectors = u64::from(layout.origin().sectors);
    (layout.is_plain() && sectors > 0).then_some(sectors)
}

/// The disks of a cell.
pub(crate) async fn layout_of(plan: &CellPlan) -> HarnessResult<Layout> {
    let case = find_case(plan)?;
    let recorded = load_workload(plan).await?;
    let context = context_of(plan, case, recorded.as_ref());
    Ok(*context.layout())
}

/// Its recorded workload, if it has one.
pub(crate) async fn load_workload(plan: &CellPlan) -> HarnessResult<Option<Recorded>> {
    let (workload, seed) = (plan.input.workload().cloned(), plan.seed);
    in_background(move || {
        workload
            .map(|workload| Recorded::load(&workload, seed))
            .transpose()
    })
    .await
}
