//! What the control tool keeps of a series in the guest.

use std::path::Path;

/// Where the control tool remembers series.
pub(super) const RECORDS: &str = "/etc/cowbird";

/// What the control tool remembers of a series and its image for after a boot: names and content.
#[derive(Debug, Clone)]
pub struct SeriesRecord {
    pub(super) files: Vec<(String, String)>,
}

impl SeriesRecord {
    /// What is remembered of the series, as path in the guest and content.
    pub(crate) fn of_series(&self) -> impl Iterator<Item = &(String, String)> {
        self.files.iter().filter(|(path, _)| is_record(path))
    }
}

/// Whether a file is a record of the series, and not the label of its image.
pub(super) fn is_record(path: &str) -> bool {
    Path::new(path).starts_with(RECORDS)
}
