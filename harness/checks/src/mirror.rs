//! An origin that is a mirror: its halves, at the end.

use cowbird_host::error::HarnessResult;
use cowbird_model::{Sector, SectorRange};

use crate::exhibits::Exhibits;
use crate::judgement::Judgement;
use crate::mapped::of_range;

/// Both halves of a mirror end equal. That each of them is what its own witness says is known already.
pub(crate) fn check(exhibits: &Exhibits<'_>, judgement: &mut Judgement) -> HarnessResult<()> {
    let first = exhibits.nature.first;
    let range = SectorRange::new(Sector(first.start.into()), first.sectors.into());
    let (one, other) = (exhibits.first.end, exhibits.copy()?.end);
    if of_range(one, range) != of_range(other, range) {
        judgement.fault("the two halves of the mirror differ at the end".to_owned());
    }
    Ok(())
}
