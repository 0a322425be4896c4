//! `cowbirdctl`: takes, shows and ends snapshots of block devices.
//!
//! The program is [`main`] alone. A library besides, so that [`parsers`] can be given whatever others may have written.

mod allocate;
mod arguments;
mod auto_expand;
mod change_map;
mod commands;
mod control;
mod cow_file;
mod durable;
mod every;
mod fiemap;
mod image;
mod in_place;
mod info;
mod module;
mod mount;
mod names;
mod out;
mod overlap;
pub mod parsers;
mod placement;
mod progress;
mod record_lock;
mod reload;
mod remember;
mod series;
mod setup;
mod target;
mod untracked;
mod verify;
mod watch;
mod way;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cowbird_devices::{boot, discards, identity, mounts, probe, removal, signature, topology};

use arguments::{Misuse, ReloadOne, SetupOptions, TransitionToSnapshot, minor_of};
use auto_expand::AutoExpand;
use module::Loaded;
use setup::Volume;

/// Snapshots of live block devices by copy-on-write.
#[derive(Parser)]
#[command(name = "cowbirdctl", version, max_term_width = 100)]
struct Arguments {
    /// Directory of series records, read by reload and verify after a reboot
    #[arg(long, global = true, value_name = "DIR", default_value = series::DEFAULT_FOLDER)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take a snapshot of a block device and offer it as /dev/cowbird<MINOR>
    SetupSnapshot(SetupSnapshot),
    /// Take snapshots of several block devices at one instant: all of them, or none
    SetupSnapshots(SetupSnapshots),
    /// End a snapshot and remove its COW file
    Destroy {
        /// Overwrite the COW file with zeros before it is removed, so that blocks of the origin are not left on its disk
        #[arg(long)]
        wipe: bool,
        /// Number of the snapshot, as in /dev/cowbird<MINOR>
        minor: u32,
    },
    /// Drop a snapshot, and go on tracking which blocks change
    TransitionToIncremental {
        /// Number of the snapshot
        minor: u32,
    },
    /// Take the next snapshot of a series, or of several at one instant; the changes since the last
    /// one become known
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
        /// New file, or a block device that nobody uses
        image: PathBuf,
        /// Overwrite what is recognised on a block device; it must not be in use even so
        #[arg(long)]
        force: bool,
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
    /// Bring an image up to date by comparing all of it, where changes are not known: everything is read, and only
    /// what differs is written
    CompareImage {
        /// /dev/cowbird<MINOR>
        snapshot: PathBuf,
        /// Image of the same volume, of whatever series and epoch
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
    /// Give the module its COW file again once that file's filesystem is mounted
    Verify {
        /// All snapshots whose COW file can be reached
        #[arg(long, conflicts_with = "minor")]
        all: bool,
        /// Number of the snapshot
        #[arg(required_unless_present = "all")]
        minor: Option<u32>,
    },
    /// Run as a service, and record the loss of a series' tracking, which a COW file whose disk does not answer
    /// cannot
    Watch,
    /// Save a snapshot and remove it from memory, so that the module can be unloaded; its origin
    /// must not be mounted. Reload it before the machine reboots, or it needs a full backup
    Suspend {
        /// Number of the snapshot
        minor: u32,
    },
    /// Change the bound of preserved blocks in memory of an active snapshot
    Reconfigure {
        /// The bound, in MiB
        #[arg(short = 'c', long = "cache-size", value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
        cache_mb: u64,
        /// Number of the snapshot
        minor: u32,
    },
    /// Give the preserved blocks of an active snapshot more room, until it ends
    ExpandCowFile {
        /// So much more, in MiB
        #[arg(long = "size", value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
        size_mb: u64,
        /// Number of the snapshot
        minor: u32,
    },
    /// Expand the COW file of an active snapshot whenever it is about to be full, until the snapshot ends
    ReconfigureAutoExpand(AutoExpand),
    /// Show the snapshots that exist
    Info {
        /// Print the module's report as JSON
        #[arg(long)]
        json: bool,
        /// Show a report that was saved with --json, instead of the module's
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Mount the filesystem of a snapshot, read-only and beside its origin; umount ends that
    Mount {
        /// Number of the snapshot
        minor: u32,
        /// Where to
        folder: PathBuf,
    },
}

/// Arguments of `setup-snapshot`.
#[derive(clap::Args)]
struct SetupSnapshot {
    #[command(flatten)]
    options: SetupOptions,
    /// Device to take the snapshot of
    block_device: PathBuf,
    /// File that will keep the preserved blocks; must not exist
    cow_file: PathBuf,
    /// Number of the snapshot, as in /dev/cowbird<MINOR>
    minor: u32,
}

/// Arguments of `setup-snapshots`.
#[derive(clap::Args)]
#[command(
    override_usage = "cowbirdctl setup-snapshots [OPTIONS] <BLOCK_DEVICE> <COW_FILE> <MINOR> \
                      [<BLOCK_DEVICE> <COW_FILE> <MINOR>]..."
)]
struct SetupSnapshots {
    #[command(flatten)]
    options: SetupOptions,
    /// For each snapshot what `setup-snapshot` takes: device, new file and number
    #[arg(value_name = "BLOCK_DEVICE> <COW_FILE> <MINOR", num_args = 3.., required = true)]
    what: Vec<PathBuf>,
}

impl SetupSnapshots {
    fn volumes(&self) -> Result<Vec<Volume>, Misuse> {
        let (threes, rest) = self.what.as_chunks::<3>();
        if !rest.is_empty() {
            let takes = "each snapshot takes three arguments: <BLOCK_DEVICE> <COW_FILE> <MINOR>";
            return Err(Misuse(takes.to_owned()));
        }
        threes
            .iter()
            .map(|[block_device, cow_file, minor]| {
                Ok(Volume {
                    block_device: block_device.clone(),
                    cow_file: cow_file.clone(),
                    minor: minor_of(minor)?,
                })
            })
            .collect()
    }
}

/// What the exit code says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    Success = 0,
    /// Nothing was done, or what was done is of no use.
    Failure = 1,
    /// The command makes no sense; clap's choice.
    Usage = 2,
    /// Of several things some were done.
    Partly = 3,
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<every::Partly>() {
        Exit::Partly
    } else if error.is::<Misuse>() {
        Exit::Usage
    } else {
        Exit::Failure
    }
}

/// The program.
pub fn main() -> ExitCode {
    let mut exit = match Arguments::try_parse() {
        Ok(Arguments { config, command }) => match run(command, &config) {
            Ok(()) => Exit::Success,
            Err(error) => {
                out::complain(format_args!("{error:#}"));
                exit_of(&error)
            }
        },
        Err(error) if error.use_stderr() => {
            // If that fails there is nobody left to tell.
            let _ = error.print();
            Exit::Usage
        }
        Err(help) => {
            out::text(&help.render().to_string());
            Exit::Success
        }
    };
    if let Err(error) = out::finish() {
        out::complain(format_args!("{error:#}"));
        if exit == Exit::Success {
            exit = Exit::Failure;
        }
    }
    ExitCode::from(exit as u8)
}

fn run(command: Command, config: &Path) -> Result<()> {
    match command {
        Command::SetupSnapshot(SetupSnapshot {
            options,
            block_device,
            cow_file,
            minor,
        }) => {
            let volume = Volume {
                block_device,
                cow_file,
                minor,
            };
            setup::first(&[volume], &options, config)
        }
        Command::SetupSnapshots(arguments) => {
            setup::first(&arguments.volumes()?, &arguments.options, config)
        }
        Command::Destroy { minor, wipe } => commands::destroy(minor, wipe, config),
        Command::ReloadSnapshot(arguments) => reload::one(&arguments, true, config, &Loaded),
        Command::ReloadIncremental(arguments) => reload::one(&arguments, false, config, &Loaded),
        Command::Reload { all: _ } => every::reload(config, &Loaded),
        Command::Verify {
            all: _,
            minor: Some(minor),
        } => reload::verify(minor, &Loaded),
        Command::Verify {
            all: _,
            minor: None,
        } => every::verify(config, &Loaded),
        Command::Watch => watch::command(config),
        Command::Suspend { minor } => reload::suspend(minor, config, &Loaded),
        Command::Reconfigure { cache_mb, minor } => commands::reconfigure(minor, cache_mb, config),
        Command::ExpandCowFile { size_mb, minor } => commands::expand_cow_file(minor, size_mb),
        Command::ReconfigureAutoExpand(arguments) => auto_expand::command(&arguments),
        Command::TransitionToIncremental { minor } => commands::transition_to_incremental(minor),
        Command::TransitionToSnapshot(arguments) => setup::next(&arguments),
        Command::Changes {
            minor,
            json,
            output,
        } => commands::changes(minor, json, output.as_deref()),
        Command::CopyImage {
            snapshot,
            image,
            force,
        } => image::copy(&snapshot, &image, force),
        Command::UpdateImage {
            snapshot,
            change_map,
            image,
        } => image::update(&snapshot, &change_map, &image),
        Command::CompareImage { snapshot, image } => image::update_by_comparing(&snapshot, &image),
        Command::Info { json, from } => commands::info(json, from.as_deref()),
        Command::Mount { minor, folder } => mount::command(minor, &folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Command {
        Arguments::try_parse_from(line.split(' ')).unwrap().command
    }

    #[test]
    fn a_set_is_given_in_threes() {
        let Command::SetupSnapshots(set) =
            parse("cowbirdctl setup-snapshots -c 8 /dev/a /srv/a 0 /dev/b:1 /srv/b 1")
        else {
            panic!("another command");
        };
        let volumes = set.volumes().unwrap();
        assert_eq!(volumes.len(), 2);
        assert_eq!(
            volumes[1],
            Volume {
                block_device: "/dev/b:1".into(),
                cow_file: "/srv/b".into(),
                minor: 1
            }
        );
        for wrong in ["/dev/a /srv/a 0 /dev/b", "/dev/a /srv/a b"] {
            let Command::SetupSnapshots(set) =
                parse(&format!("cowbirdctl setup-snapshots {wrong}"))
            else {
                panic!("another command");
            };
            assert!(set.volumes().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_transition_takes_a_cow_file_or_several_minors() {
        let parsed = |line: &str| {
            let Command::TransitionToSnapshot(arguments) =
                parse(&format!("cowbirdctl transition-to-snapshot {line}"))
            else {
                panic!("another command");
            };
            let parsed = arguments.parse();
            parsed
                .map(|(file, minors)| (file.map(Path::to_path_buf), minors))
                .ok()
        };
        assert_eq!(parsed("3"), Some((None, vec![3])));
        assert_eq!(
            parsed("/srv/cow 3"),
            Some((Some("/srv/cow".into()), vec![3]))
        );
        assert_eq!(parsed("./0 3"), Some((Some("./0".into()), vec![3])));
        assert_eq!(parsed("0 1"), Some((None, vec![0, 1])));
        assert_eq!(parsed("0 1 2"), Some((None, vec![0, 1, 2])));
        assert_eq!(parsed("/srv/cow 1 2"), None);
    }
}
