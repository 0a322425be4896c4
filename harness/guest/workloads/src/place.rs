//! Where a file lies.

use std::fs::File;
use std::ops::Range;

use cowbird_guest_system::sys::{self, FIEMAP_EXTENT_NOWHERE};

/// Where on the device the start of a range of a file lies, as far as it lies in one piece; bytes.
/// `None` when it has no place yet, or it cannot be found out: then it is not chased.
pub fn place_of(file: &File, offset: u64, length: u64) -> Option<Range<u64>> {
    let (extents, _) = sys::fiemap(file, offset, false).ok()?;
    let extent = extents.first()?;
    let inside = offset.checked_sub(extent.logical)?;
    let known = extent.flags & FIEMAP_EXTENT_NOWHERE == 0 && inside < extent.length;
    let start = extent.physical + inside;
    known.then(|| start..start + length.min(extent.length - inside))
}
