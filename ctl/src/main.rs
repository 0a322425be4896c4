//! `cowbirdctl`: takes, shows and ends snapshots of block devices.

use std::process::ExitCode;

fn main() -> ExitCode {
    cowbird_ctl::main()
}
