//! Pages that commands write are what the commands would write now.

use std::process::Command;

use crate::repo::root;

/// Goal: the tables of `docs/reference` are those of the code. Method: the command that writes them compares them.
#[test]
fn the_tables_are_those_of_the_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["gen-docs", "--check"])
        .current_dir(root())
        .output()
        .expect("it runs");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}
