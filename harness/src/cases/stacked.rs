//! Origins that are stacked on a partition. What reaches the disk below is what the witness sees, so
//! the truth is found at the partition's place; the writers and the snapshot know only the device on
//! top.

use cowbird_proto::message::StackKind;

use super::{ORIGIN, Setting, raw_writers};
use crate::driver::{CaseError, CaseResult, Driver};
use crate::verify::Evidence;

/// The first device that device-mapper makes.
const LINEAR: &str = "/dev/dm-0";

const LOOP: &str = "/dev/loop0";

pub(super) async fn act_linear(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    act(guest, setting, StackKind::Linear, LINEAR).await
}

pub(super) async fn act_loop(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
) -> CaseResult<Evidence> {
    act(guest, setting, StackKind::Loop, LOOP).await
}

async fn act(
    guest: &mut Driver<'_, '_>,
    setting: &Setting,
    kind: StackKind,
    expected: &'static str,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest).await?;
    let path = guest.stack(ORIGIN, kind).await?;
    if path != expected {
        return Err(CaseError::Failed(format!("{path} instead of {expected}")));
    }
    let spec = raw_writers::spec(expected);
    let evidence =
        raw_writers::write_across_the_instant(guest, setting, expected, spec, None).await?;
    guest.unstack(kind).await?;
    raw_writers::tear_down(guest).await?;
    Ok(evidence)
}
