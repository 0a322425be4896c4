//! `cowbird-trace`: records block layer and snapshot events, and reads such recordings.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;
mod complain;

use cowbird_outside::command_line;

use complain::{PROGRAM, complain};

use commands::{Outcome, block, doctor, export, info, record, report, top, verify};

/// Records what happens to every bio and every preserved block, and reads such recordings.
///
/// Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, but the trace is not complete,
/// or nothing can be concluded from it; 4 the module broke an invariant; 5 nobody should record on this kernel.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record until SIGINT, SIGTERM or a limit
    Record(record::Options),
    /// Show in a terminal what is going on
    Top(top::Options),
    /// Convert a trace for other programs: JSON lines, CSV, fio, Perfetto, a workload to replay
    Export(export::Options),
    /// Print the life of one 4 KiB block of a device
    Block(block::Options),
    /// Say what this kernel allows, and what is missing
    Doctor(doctor::Options),
    /// Print what a trace holds, and whether it is complete
    Info(info::Options),
    /// Draw a trace as one HTML page that needs nothing else
    Report(report::Options),
    /// Check the module's invariants by a trace with fingerprints
    Verify(verify::Options),
}

fn main() -> ExitCode {
    let options: Options = match command_line::parse(PROGRAM) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let code = match run(&options.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::from(3),
        Ok(Outcome::Broken) => ExitCode::from(4),
        Ok(Outcome::CannotRecord) => ExitCode::FAILURE,
        Ok(Outcome::MustNotRecord) => ExitCode::from(5),
        Err(error) if commands::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("{error:#}");
            ExitCode::FAILURE
        }
    };
    command_line::finish(PROGRAM, code)
}

fn run(command: &Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Record(options) => record::run(options),
        Command::Export(options) => export::run(options),
        Command::Block(options) => block::run(options),
        Command::Doctor(options) => doctor::run(options),
        Command::Info(options) => info::run(options),
        Command::Top(options) => top::run(options),
        Command::Report(options) => report::run(options),
        Command::Verify(options) => verify::run(options),
    }
}
