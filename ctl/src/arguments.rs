//! Arguments that several commands have, or that are taken apart elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};

/// Options of `setup-snapshot` and `setup-snapshots`.
#[derive(clap::Args)]
pub struct SetupOptions {
    /// Memory for preserved blocks that are not yet in the COW file, in MiB, for each snapshot
    #[arg(
        short = 'c',
        long = "cache-size",
        value_name = "MB",
        default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub cache_mb: u64,
    /// Size of a COW file in MiB; by default 10 % of the device, at most 10 GiB
    #[arg(short = 'f', long = "fallocate", value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
    pub cow_mb: Option<u64>,
    /// Longest time for which writes may be held while the snapshot is taken, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout_ms: u32,
    /// Keep blocks of an encrypted device in a COW file that is not encrypted
    #[arg(long)]
    pub plaintext_cow_file: bool,
}

/// Arguments that make no sense, in a way that clap does not see.
#[derive(Debug)]
pub struct Misuse(pub String);

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// The number of a snapshot.
///
/// # Errors
/// When the argument is none.
pub fn minor_of(argument: &Path) -> Result<u32, Misuse> {
    let number = argument.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Misuse(format!("{argument:?} is not the number of a snapshot")))
}

/// Arguments of `reload-snapshot` and `reload-incremental`.
#[derive(clap::Args)]
pub struct ReloadOne {
    /// Memory for preserved blocks that are not yet in the COW file, in MiB
    #[arg(
        short = 'c',
        long = "cache-size",
        value_name = "MB",
        default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub cache_mb: u64,
    /// The origin
    pub block_device: PathBuf,
    /// Its COW file, by the name that it has when its filesystem is mounted
    pub cow_file: PathBuf,
    /// Number of the snapshot, as in /dev/cowbird<MINOR>
    pub minor: u32,
}

/// Arguments of `transition-to-snapshot`.
#[derive(clap::Args)]
#[command(
    override_usage = "cowbirdctl transition-to-snapshot [OPTIONS] [COW_FILE] <MINOR>\n       \
                      cowbirdctl transition-to-snapshot [OPTIONS] <MINOR>..."
)]
pub struct TransitionToSnapshot {
    /// Memory for preserved blocks that are not yet in the COW file, in MiB
    #[arg(
        short = 'c',
        long = "cache-size",
        value_name = "MB",
        default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub cache_mb: u64,
    /// Longest time for which writes may be held while the snapshot is taken, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout_ms: u32,
    /// The numbers of the snapshots; of a single one its COW file may come first
    #[arg(value_name = "MINOR", num_args = 1.., required = true)]
    pub what: Vec<PathBuf>,
}

impl TransitionToSnapshot {
    /// The COW file, if it was named, and the minors. A COW file that is named like a number is
    /// given with its folder.
    ///
    /// # Errors
    /// When one of the minors is no number.
    pub fn parse(&self) -> Result<(Option<&Path>, Vec<u32>), Misuse> {
        let (cow_file, minors) = match self.what.as_slice() {
            [first, minor] if minor_of(first).is_err() => {
                (Some(first.as_path()), std::slice::from_ref(minor))
            }
            minors => (None, minors),
        };
        let minors = minors.iter().map(|minor| minor_of(minor));
        Ok((cow_file, minors.collect::<Result<_, _>>()?))
    }
}
