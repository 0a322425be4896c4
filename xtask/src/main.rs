//! The developer's front door: `cargo xtask --help` lists what it can do.

mod cli;
mod commands;
mod failure;
mod host;
mod options;
mod repo;
mod run;
mod ui;

use std::process::ExitCode;

use cowbird_outside::command_line;

use crate::cli::{Cli, Command};
use crate::commands::{
    bench, fresh, fuzz, gen_abi, gen_docs, lists, merge, mutants, new, prune, replay, scale, setup,
    shell, shrink, test, test_matrix,
};
use crate::ui::Ui;

/// The exit code when a command could not do its work, whatever the verdicts might have been.
const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let cli: Cli = match command_line::parse("xtask") {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    raise_open_files();
    let ui = Ui::new();
    let done = match &cli.command {
        Command::TestMatrix(args) => test_matrix::command(args, &ui),
        Command::Test(args) => test::command(args, &ui),
        Command::Kernels(args) if args.prune => prune::command(*args, &ui),
        Command::Kernels(args) => lists::kernels(args.json, &ui),
        Command::Cases(args) => lists::cases(*args),
        Command::Mutants(args) => mutants::command(args, &ui),
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
        Command::Fuzz(args) => fuzz::command(args, &ui),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui.line(&format!("error: {}", failure::describe(&error)));
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Open files that a run may need: one for each module that is in use, of all mutants on all kernels, and a dozen for each guest.
const OPEN_FILES: u64 = 8192;

/// Raises this program's limit of open files as far as it may, and no further than it needs: some programs that it starts go through all
/// numbers below the limit.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < OPEN_FILES) {
        limit.current = Some(
            limit
                .maximum
                .map_or(OPEN_FILES, |most| most.min(OPEN_FILES)),
        );
        // With the old limit most runs work as well.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
