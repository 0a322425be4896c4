//! `gen-abi`: the Rust bindings of the module's user-space interface, from its header.

use anyhow::{Context, Result};
use clap::Args;

use crate::repo;

/// The program that does it.
const GENERATOR: &str = "cowbird-abi-gen";

/// Arguments of `gen-abi`.
#[derive(Clone, Copy, Debug, Args)]
pub struct GenAbiArgs {
    /// Change nothing; fail when the bindings in the tree are not what the header gives
    #[arg(long)]
    pub check: bool,
}

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
