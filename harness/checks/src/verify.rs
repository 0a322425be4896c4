//! The evidence of a cell, put before the oracle.

use cowbird_host::error::HarnessResult;
use cowbird_host::files::CellFiles;
use cowbird_host::nature::{Nature, OriginKind};

use crate::claim::Evidence;
use crate::exhibits::{Opened, Testimony};
use crate::judgement::{Judgement, nothing_judged};
use crate::mirror;

/// Judges everything that a case claims, and what the nature of its disks asks for, whatever it claims.
///
/// # Errors
/// Only what makes a judgement impossible: unreadable files, missing tools, an untrustworthy
/// witness, or evidence that claims nothing and does not say that it means that.
pub fn judge(
    files: &CellFiles,
    nature: Nature,
    evidence: &Evidence,
    said: Testimony<'_>,
) -> HarnessResult<Judgement> {
    if evidence.claims.is_empty() && !evidence.unclaimed {
        return Err(nothing_judged("the case claims nothing"));
    }
    let opened = Opened::open(files, nature)?;
    let exhibits = opened.exhibits(said)?;
    let mut judgement = Judgement {
        expected_log: evidence.expected_log,
        ..Judgement::default()
    };
    if nature.kind == OriginKind::Mirror {
        mirror::check(&exhibits, &mut judgement)?;
    }
    for claim in &evidence.claims {
        claim.check(&exhibits, &mut judgement)?;
    }
    Ok(judgement)
}
