//! The version of the protocol, which the build makes of the code.

use std::path::Path;

use cowbird_proto::PROTOCOL_VERSION;

#[path = "../build/digest.rs"]
mod digest;

fn of(code: &str) -> u64 {
    let mut digest = digest::Digest::default();
    digest.add(code);
    digest.0
}

/// Goal: the version is that of the sources of this build, and every message is in them.
#[test]
fn the_version_is_that_of_the_sources() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = digest::sources(package).expect("they can be listed");
    for name in [
        "src/frame.rs",
        "src/message/request.rs",
        "src/recorded.rs",
        "src/sector.rs",
        "workload/src/script.rs",
    ] {
        let listed = sources.iter().any(|source| source.ends_with(name));
        assert!(listed, "{name} is not in {sources:?}");
    }
    let version = digest::of_files(&sources).expect("they can be read");
    assert_eq!(PROTOCOL_VERSION, version);
}

/// Goal: whatever changes the wire changes the version, and words for people do not.
#[test]
fn what_is_on_the_wire_makes_the_version() {
    let code = "/// One.\npub struct A {\n    pub a: u8,\n    pub b: u16,\n}\n";
    let again = "/// Another\n/// comment.\npub struct A {\n  pub a: u8,\n\n  // And one more.\n  pub b: u16,\n}\n";
    assert_eq!(of(code), of(again));
    for other in [
        code.replace("u8", "u32"),
        code.replace("pub a: u8,\n    pub b: u16,", "pub b: u16,\n    pub a: u8,"),
        code.replace("pub b: u16,", ""),
        code.replace("pub a: u8,", "#[serde(skip)]\n    pub a: u8,"),
    ] {
        assert_ne!(of(code), of(&other), "{other}");
    }
}
