//! What the control tool keeps of a series in the guest.

use std::path::Path;

use cowbird_host::error::HarnessError;

/// Where the control tool remembers series.
pub(super) const RECORDS: &str = "/etc/cowbird";

/// What the control tool remembers of a series and its image for after a boot: names and content.
#[derive(Debug, Clone)]
pub struct SeriesRecord {
    pub(super) files: Vec<(String, String)>,
}

impl SeriesRecord {
    /// The UUID of the series, in hexadecimal.
    ///
    /// # Errors
    /// When nothing is remembered of the series.
    pub fn uuid(&self) -> Result<String, HarnessError> {
        let (path, _) = self.of_series().next().ok_or_else(nothing)?;
        let stem = Path::new(path).file_stem().ok_or_else(nothing)?;
        Ok(stem.to_string_lossy().into_owned())
    }

    /// The same with another text in names and contents, wherever it is.
    ///
    /// # Errors
    /// When the text is nowhere.
    pub fn replaced(&self, text: &str, by: &str) -> Result<Self, HarnessError> {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(path, content)| (path.replace(text, by), content.replace(text, by)))
            .collect();
        if files == self.files {
            let detail = format!("the record of a series does not have {text:?}: {files:?}");
            return Err(HarnessError::Plan { detail });
        }
        Ok(Self { files })
    }

    /// What is remembered of the series, as path in the guest and content.
    pub(crate) fn of_series(&self) -> impl Iterator<Item = &(String, String)> {
        self.files.iter().filter(|(path, _)| is_record(path))
    }
}

/// Whether a file is a record of the series, and not the label of its image.
pub(super) fn is_record(path: &str) -> bool {
    Path::new(path).starts_with(RECORDS)
}

fn nothing() -> HarnessError {
    HarnessError::Plan {
        detail: "nothing is remembered of the series".to_owned(),
    }
}
