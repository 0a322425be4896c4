//! Compiles the BPF programs; the object is embedded in the library.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Sources of the object: the first is compiled, the others are its headers.
const SOURCES: [&str; 6] = [
    "bpf/cowbird_trace.bpf.c",
    "bpf/kernel.h",
    "bpf/event.h",
    "bpf/marks.h",
    "bpf/layout.h",
    "bpf/prints.h",
];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    if let Err(reason) = compile() {
        println!("cargo::error={reason}");
    }
}

/// v2 of the instruction set is the newest that needs nothing beyond Linux 5.10's verifier.
fn compile() -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    let object = PathBuf::from(out).join("cowbird_trace.bpf.o");
    let status = Command::new(&clang)
        .args([
            "-O2", "-g", "-target", "bpf", "-mcpu=v2", "-Wall", "-Werror", "-c",
        ])
        .arg(SOURCES[0])
        .arg("-o")
        .arg(&object)
        .status()
        .map_err(|error| {
            format!(
                "cannot run {clang}, which compiles the BPF programs of cowbird-trace: {error}; \
                 install the Debian package `clang` (version 14 or newer) or name one in $CLANG"
            )
        })?;
    if !status.success() {
        return Err(format!(
            "{clang} could not compile {}; its messages are above. Version 14 or newer with the \
             BPF target is needed, as in the Debian package `clang`",
            SOURCES[0]
        ));
    }
    Ok(())
}
