//! `cowbirdctl`: takes, shows and ends snapshots of block devices.

mod commands;
mod control;
mod cow_file;
mod info;
mod mounts;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Snapshots of live block devices by copy-on-write.
#[derive(Parser)]
#[command(name = "cowbirdctl", version, max_term_width = 100)]
struct Arguments {
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

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::SetupSnapshot(arguments) => commands::setup_snapshot(&arguments),
        Command::Destroy { minor } => commands::destroy(minor),
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
