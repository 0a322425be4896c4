//! Puts the tracer on trial on the kernel that runs: its fingerprints against content that is
//! known, and its cost against the same writes without it. Runs on a host with a loop device and
//! in the guests of the harness. Overwrites the device.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cowbird_outside::{command_line, out};

mod background;
mod content;
mod fixed;
mod overhead;
mod recording;
mod target;

/// Tries the tracer; the devices that it is tried on lose their content.
#[derive(Parser)]
struct Options {
    /// The program under test
    #[arg(long, value_name = "FILE")]
    tracer: PathBuf,
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Subcommand)]
enum Trial {
    /// Every block that is written and read must be fingerprinted, and rightly
    Content {
        /// Block device of at least 48 MiB; overwritten
        device: String,
    },
    /// A fixed workload must give the events, in number, order and content, that it gives on every kernel; prints
    /// a line that is the same on all of them
    Fixed {
        /// Block device of at least 48 MiB; overwritten
        device: String,
    },
    /// What recording costs: 4 KiB random writes with and without, in turn
    Overhead(overhead::Options),
    /// Leave a recorder running behind, for whoever cannot wait for one
    RecordStart {
        /// Trace file
        file: PathBuf,
        /// Options of `record`
        #[arg(allow_hyphen_values = true)]
        record: Vec<String>,
    },
    /// End it
    RecordStop {
        /// Trace file
        file: PathBuf,
    },
}

/// As messages begin.
const PROGRAM: &str = "trial";

fn main() -> ExitCode {
    let options: Options = match command_line::parse(PROGRAM) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let result = match &options.trial {
        Trial::Content { device } => content::run(&options.tracer, device),
        Trial::Fixed { device } => fixed::run(&options.tracer, device),
        Trial::Overhead(load) => overhead::run(&options.tracer, load),
        Trial::RecordStart { file, record } => background::start(&options.tracer, file, record),
        Trial::RecordStop { file } => background::stop(file),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::complain(PROGRAM, format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    };
    command_line::finish(PROGRAM, code)
}
