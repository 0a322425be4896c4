//! `cowbirdctl`: takes, shows and ends snapshots of block devices.

mod change_map;
mod commands;
mod control;
mod cow_file;
mod image;
mod info;
mod mounts;
mod reload;
mod series;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Snapshots of live block devices by copy-on-write.
#[derive(Parser)]
#[command(name = "cowbirdctl", version, max_term_width = 100)]
struct Arguments {
    /// Where it is remembered which series there are, for after a boot
    #[arg(long, global = true, value_name = "DIR", default_value = series::DEFAULT_FOLDER)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take a snapshot of a block device and offer it as /dev/cowbird<MINOR>
    SetupSnapshot(SetupSnapshot),
    /// End a snapshot and remove its COW file
    Destroy {
        /// Number of the snapshot, as in /dev/cowbird<MINOR>
        minor: u32,
    },
    /// Give a snapshot up, and track from now on which blocks change
    TransitionToIncremental {
        /// Number of the snapshot
        minor: u32,
    },
    /// Take the next snapshot of a series; the changes since the last one become known
    TransitionToSnapshot(TransitionToSnapshot),
    /// Show which blocks changed between the snapshot before and this one
    Changes {
        /// Number of the snapshot
        minor: u32,
        /// Print ranges as JSON
        #[arg(long, conflicts_with = "output")]
        json: bool,
        /// Write the map to a file, for update-image
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Copy a snapshot to a new image
    CopyImage {
        /// /dev/cowbird<MINOR>
        snapshot: PathBuf,
        /// New file, or a block device that may be overwritten
        image: PathBuf,
    },
    /// Bring an image up to date by copying only the blocks that changed
    UpdateImage {
        /// /dev/cowbird<MINOR>
        snapshot: PathBuf,
        /// Written by `changes --output`
        change_map: PathBuf,
        /// Image of the snapshot before
        image: PathBuf,
    },
    /// Take a snapshot up again that was saved before a reboot or unload; run before its origin is
    /// mounted
    ReloadSnapshot(ReloadOne),
    /// Take the tracking of changes up again after a reboot, a power cut or an unload; run before
    /// its origin is mounted
    ReloadIncremental(ReloadOne),
    /// Take up again all that is remembered
    Reload {
        /// All series, each as what it was
        #[arg(long, required = true)]
        all: bool,
    },
    /// Hand over the COW file again after its filesystem was mounted
    Verify {
        /// All snapshots whose COW file can be reached
        #[arg(long, conflicts_with = "minor")]
        all: bool,
        /// Number of the snapshot
        #[arg(required_unless_present = "all")]
        minor: Option<u32>,
    },
    /// Save a snapshot and remove it from memory, so that the module can be unloaded; its origin
    /// must not be mounted
    Suspend {
        /// Number of the snapshot
        minor: u32,
    },
    /// Show the snapshots that exist
    Info {
        /// Print the module's report as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `setup-snapshot`.
#[derive(clap::Args)]
struct SetupSnapshot {
    /// Memory for preserved blocks that are not yet in the COW file, in MiB
    #[arg(
        short = 'c',
        long = "cache-size",
        value_name = "MB",
        default_value_t = 64
    )]
    cache_mb: u64,
    /// Size of the COW file in MiB; by default 10 % of the device, at most 10 GiB
    #[arg(short = 'f', long = "fallocate", value_name = "MB")]
    cow_mb: Option<u64>,
    /// Longest time for which writes may be held while the snapshot is taken, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u32,
    /// Device to take the snapshot of
    block_device: PathBuf,
    /// File that will keep the preserved blocks; must not exist
    cow_file: PathBuf,
    /// Number of the snapshot, as in /dev/cowbird<MINOR>
    minor: u32,
}

/// Arguments of `reload-snapshot` and `reload-incremental`.
#[derive(clap::Args)]
struct ReloadOne {
    /// Memory for preserved blocks that are not yet in the COW file, in MiB
    #[arg(
        short = 'c',
        long = "cache-size",
        value_name = "MB",
        default_value_t = 64
    )]
    cache_mb: u64,
    /// The origin
    block_device: PathBuf,
    /// Its COW file, by the name that it has when its filesystem is mounted
    cow_file: PathBuf,
    /// Number of the snapshot, as in /dev/cowbird<MINOR>
    minor: u32,
}

/// Arguments of `transition-to-snapshot`.
#[derive(clap::Args)]
#[command(override_usage = "cowbirdctl transition-to-snapshot [OPTIONS] [COW_FILE] <MINOR>")]
struct TransitionToSnapshot {
    /// Memory for preserved blocks that are not yet in the COW file, in MiB
    #[arg(
        short = 'c',
        long = "cache-size",
        value_name = "MB",
        default_value_t = 64
    )]
    cache_mb: u64,
    /// Longest time for which writes may be held while the snapshot is taken, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u32,
    /// The series' COW file, which may be left out, and the number of the snapshot
    #[arg(value_name = "COW_FILE> <MINOR", num_args = 1..=2, required = true)]
    what: Vec<PathBuf>,
}

impl TransitionToSnapshot {
    fn cow_file(&self) -> Option<&PathBuf> {
        if self.what.len() == 2 {
            self.what.first()
        } else {
            None
        }
    }

    fn minor(&self) -> anyhow::Result<u32> {
        let text = self
            .what
            .last()
            .and_then(|minor| minor.to_str())
            .unwrap_or_default();
        text.parse()
            .map_err(|_| anyhow::anyhow!("{text:?} is not the number of a snapshot"))
    }
}

fn main() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let result = match command {
        Command::SetupSnapshot(arguments) => commands::setup_snapshot(&arguments, &config),
        Command::Destroy { minor } => commands::destroy(minor, &config),
        Command::ReloadSnapshot(arguments) => reload::one(&arguments, true, &config),
        Command::ReloadIncremental(arguments) => reload::one(&arguments, false, &config),
        Command::Reload { all: _ } => reload::all(&config),
        Command::Verify {
            all: _,
            minor: Some(minor),
        } => reload::verify(minor),
        Command::Verify {
            all: _,
            minor: None,
        } => reload::verify_all(),
        Command::Suspend { minor } => reload::suspend(minor),
        Command::TransitionToIncremental { minor } => commands::transition_to_incremental(minor),
        Command::TransitionToSnapshot(arguments) => commands::transition_to_snapshot(&arguments),
        Command::Changes {
            minor,
            json,
            output,
        } => commands::changes(minor, json, output.as_deref()),
        Command::CopyImage { snapshot, image } => image::copy(&snapshot, &image),
        Command::UpdateImage {
            snapshot,
            change_map,
            image,
        } => image::update(&snapshot, &change_map, &image),
        Command::Info { json } => commands::info(json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cowbirdctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
