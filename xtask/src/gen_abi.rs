//! `gen-abi`: the Rust bindings of the module's user-space interface, from its header.

use anyhow::{Context, Result};

use crate::cli::GenAbiArgs;
use crate::repo;

/// The program that does it.
const GENERATOR: &str = "cowbird-abi-gen";

/// The command that generates the bindings, or only compares them.
pub fn generator(args: GenAbiArgs) -> std::process::Command {
    let mut cargo = repo::cargo();
    cargo.args(["run", "--quiet", "-p", GENERATOR, "--"]);
    if args.check {
        cargo.arg("--check");
    }
    cargo
}

/// Runs the command; the value is the exit code. The generator says itself what is wrong.
pub fn command(args: GenAbiArgs) -> Result<u8> {
    let status = generator(args).status().context("cannot run cargo")?;
    Ok(if status.success() { 0 } else { 1 })
}
