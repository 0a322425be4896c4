//! Writes the list of all cases, which the catalogue includes.

use std::path::{Path, PathBuf};
use std::{env, fs};

use cowbird_listing::{Source, list};

/// The crates that play cases.
const SOURCES: [Source<'_>; 2] = [
    Source {
        name: "cowbird_cases",
        folder: "harness/cases/src",
    },
    Source {
        name: "cowbird_adversity",
        folder: "harness/adversity/src",
    },
];

/// The case of a recorded workload, which no tier has.
const EXCEPT: [&str; 1] = ["cowbird_cases::recorded::CASE"];

fn main() {
    let harness = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let root = harness.parent().expect("the harness is in the checkout");
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        // All files of the folder count, and those that come to it.
        let folder = root.join(source.folder);
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    match list(root, &SOURCES, &EXCEPT) {
        Ok(text) => write(&out.join("registered.rs"), &text),
        Err(error) => println!("cargo::error={error}"),
    }
}

fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        println!("cargo::error=cannot write {}: {error}", path.display());
    }
}
