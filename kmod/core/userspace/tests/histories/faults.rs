//! Rules of the module and the tool, each of which a run of the histories leaves out.

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Writes go before their marks are stable.
    MarkAfterWrite,
    /// Marks are written to the cache.
    MarkInCache,
    /// Writes do not wait until the disk says that it is clean no more.
    CleanNotCleared,
    /// A clean save writes empty maps.
    SaveEmptyMap,
    /// The state of a save reaches the disk before its maps.
    SaveUnflushed,
    /// The origin is not flushed at the instant of a snapshot.
    OriginUnflushed,
    /// Nor before the state of a clean save.
    OriginUnflushedAtSave,
    /// The next epoch begins before its header is on disk.
    BeginBeforeHeader,
    /// A loss is told once, and not again before a reboot.
    TellLossOnce,
    /// A reload does not ask whether the series is the one that is recorded.
    ReloadTakesAnySeries,
    /// A reload does not ask whether the origin's disk is the one that is recorded.
    ReloadTakesAnyDisk,
    /// A reload that is refused leaves the COW file as it was.
    RefusalIsNotTold,
    /// A reload does not ask whether the record has a boot in which nobody tracked.
    RecordForgetsBoots,
    /// A reload believes whatever the state says.
    ReloadTrustsAll,
    /// What was tracked so far is forgotten when a snapshot is given up.
    ForgetAtTransition,
    /// A reload takes marks for those of the epoch before.
    ReloadForgetsMarks,
    /// A reload does not look at what was written last.
    SamplesIgnored,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::MarkAfterWrite,
        Self::MarkInCache,
        Self::CleanNotCleared,
        Self::SaveEmptyMap,
        Self::SaveUnflushed,
        Self::OriginUnflushed,
        Self::OriginUnflushedAtSave,
        Self::BeginBeforeHeader,
        Self::TellLossOnce,
        Self::ReloadTakesAnySeries,
        Self::ReloadTakesAnyDisk,
        Self::RefusalIsNotTold,
        Self::RecordForgetsBoots,
        Self::ReloadTrustsAll,
        Self::ForgetAtTransition,
        Self::ReloadForgetsMarks,
        Self::SamplesIgnored,
    ];

    /// What it must lead to.
    pub fn harm(self) -> &'static str {
        match self {
            // Nothing is missed: what the origin has lost is in the map. But its head is another.
            Self::OriginUnflushedAtSave => "tracking ends after PowerCut",
            // The samples that the state names are not there.
            Self::SaveUnflushed => "tracking ends after PowerCut",
            _ => "was missed",
        }
    }
}
