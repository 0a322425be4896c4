//! `fuzz`: builds the parsers so that it is counted which of their code has run, and gives them bad input.

use anyhow::{Context, Result};
use clap::Args;

use crate::host::rooms::Rooms;
use crate::repo;
use crate::ui::Ui;

/// The program that does it.
const PROGRAM: &str = "cowbird-fuzz";

/// rustc refuses these as "for nightly" only under other names: passes and options of LLVM are its own, and stable takes them.
const COUNT_EDGES: [&str; 3] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-trace-pc-guard",
];

/// What the build script of the C core asks.
const COUNT_EDGES_OF_CORE: &str = "COWBIRD_CORE_COVERAGE";

/// Flags that are given only for a named target are not those of build scripts, which nobody could link.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Arguments of `fuzz`.
#[derive(Clone, Debug, Args)]
pub struct FuzzArgs {
    /// Parsers; all of them where none is named
    pub targets: Vec<String>,
    /// Inputs for each of them; 10 million unless said
    #[arg(long)]
    pub inputs: Option<u64>,
    /// Seed of the changes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Longest time for each of them
    #[arg(long, value_name = "S")]
    pub seconds: Option<u64>,
    /// List the parsers, and do nothing else
    #[arg(long)]
    pub list: bool,
}

/// Runs the command; the value is the exit code. The program says itself what was found.
pub fn command(args: &FuzzArgs, ui: &Ui) -> Result<u8> {
    Rooms::default().check()?;
    // Cargo says the rest: the first time it compiles for minutes, also for a list.
    ui.line("compiling the fuzz targets");
    let mut cargo = repo::cargo();
    cargo
        .args(["run", "--profile", "fuzz", "-p", PROGRAM])
        .args(["--target", TARGET, "--target-dir"])
        .arg(repo::target_dir().join("fuzz"))
        .env("CARGO_ENCODED_RUSTFLAGS", COUNT_EDGES.join("\u{1f}"))
        .env(COUNT_EDGES_OF_CORE, "1")
        .arg("--")
        .args(&args.targets)
        .args(["--seed", &args.seed.to_string()]);
    let numbers = [("--inputs", args.inputs), ("--seconds", args.seconds)];
    for (option, number) in numbers {
        if let Some(number) = number {
            cargo.args([option, &number.to_string()]);
        }
    }
    if args.list {
        cargo.arg("--list");
    }
    let status = cargo.status().context("cannot run cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.context("the program was ended by a signal")
}
