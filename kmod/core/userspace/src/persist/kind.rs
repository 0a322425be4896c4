//! Kinds of metadata.

/// Kinds of metadata; `core/layout.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// The COW file's own extents.
    Extents = 1,
    /// The state.
    State,
    /// Marked regions.
    Regions,
    /// Changed blocks.
    Fine,
    /// Which block each slot keeps.
    Index,
    /// Samples of the origin.
    Samples,
}
