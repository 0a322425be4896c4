//! Cases that are recorded by the tracer even when nobody asks for it.

use super::scope::*;

pub(super) static CASES: &[CaseInfo] = &[
    traced(CaseInfo {
        uses_module: false,
        ..case(
            "tracer",
            "the tracer's fingerprints of direct, cached and misaligned I/O, block by block",
            CaseTier::Daily,
            &GUEST_MODULES,
            tracer::layout,
            |driver, _| Box::pin(tracer::act(driver)),
        )
    }),
    traced(case(
        "hot-read-traced",
        "as hot-read, and the tracer must name the same wrong blocks without the witness",
        CaseTier::Daily,
        &GUEST_MODULES,
        hot_read::layout,
        |driver, setting| Box::pin(hot_read::act_traced(driver, setting)),
    )),
];
