//! The developer's front door: `cargo xtask --help` lists what it can do.

mod apt_get;
mod bench;
mod cli;
mod failure;
mod fresh;
mod fuzz;
mod gen_abi;
mod gen_docs;
mod guest;
mod host;
mod lists;
mod matrix;
mod merge;
mod mutant_trial;
mod new;
mod options;
mod prepare;
mod prune;
mod replay;
mod repo;
mod rooms;
mod run;
mod run_context;
mod runtime;
mod scale;
mod script_runner;
mod setup;
mod shell;
mod shrink;
mod tape;
mod test;
mod ui;
mod workload;

use std::process::ExitCode;

use cowbird_outside::command_line;

use crate::cli::{Cli, Command};
use crate::ui::Ui;

/// The exit code when a command could not do its work, whatever the verdicts might have been.
const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let cli: Cli = match command_line::parse("xtask") {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let ui = Ui::new();
    let done = match &cli.command {
        Command::TestMatrix(args) => matrix::command(args, &ui),
        Command::Test(args) => test::command(args, &ui),
        Command::Kernels(args) if args.prune => prune::command(*args, &ui),
        Command::Kernels(args) => lists::kernels(args.json, &ui),
        Command::Cases(args) => lists::cases(*args),
        Command::Mutants(args) => mutant_trial::command(args, &ui),
        Command::Bench(args) => bench::command(args, &ui),
        Command::Merge(args) => merge::command(args),
        Command::Durations(args) => merge::record_durations(args, &ui),
        Command::Replay(args) => replay::command(args, &ui),
        Command::Scale(args) => scale::command(args, &ui),
        Command::Shell(args) => shell::command(args, &ui),
        Command::Shrink(args) => shrink::command(args, &ui),
        Command::Setup(args) => setup::command(args, &ui),
        Command::New(args) => new::command(args),
        Command::Fresh(args) => fresh::command(args, &ui),
        Command::GenAbi(args) => gen_abi::command(*args),
        Command::GenDocs(args) => gen_docs::command(*args),
        Command::Fuzz(args) => fuzz::command(args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui.line(&format!("error: {}", failure::describe(&error)));
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
