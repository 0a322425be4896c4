//! Makes the version of the protocol: the digest of the code that says what is on the wire.

#[path = "build/digest.rs"]
mod digest;

use std::path::Path;
use std::{env, fs};

fn main() {
    let package = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    let out = env::var("OUT_DIR").expect("cargo says where results go");
    let sources = digest::sources(Path::new(&package)).expect("the sources can be listed");
    for source in &sources {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    let version = digest::of_files(&sources).expect("the sources can be read");
    fs::write(
        Path::new(&out).join("version.rs"),
        format!("{version:#018x}"),
    )
    .expect("the version can be written");
}
