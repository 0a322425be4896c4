//! Goal: a bundle that somebody else made runs nothing and writes nothing on the host before it is refused. Method: the front door itself, with
//! bundles of which each has one thing that no bundle has; programs in the bundle, which is the working folder, too, would say
//! that they ran, and all files beside the bundle are looked at before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Names of programs that a bundle could bring, or that a replay starts.
const PROGRAMS: [&str; 7] = [
    "tracer",
    "cowbird-trace",
    "cowbirdctl",
    "qemu-system-x86_64",
    "make",
    "gdb",
    "guest",
];

fn plan() -> Value {
    json!({
        "kernel_name": "bookworm-6.1-cloud", "kernel_release": "6.1.0-1-cloud-amd64", "vmlinuz": "/nowhere",
        "boot_modules": [], "cowbird_ko": "/nowhere", "guest_init": "/nowhere", "cowbirdctl": "/nowhere",
        "tracer": "/nowhere", "tracer_trial": "/nowhere", "case": "ext4-churn", "traced": false, "mutant": null, "seed": 7,
        "accel": "tcg", "cpus": 2, "memory_mib": 1024, "work_dir": "/nowhere", "bundle_dir": "/nowhere",
        "limits": {
            "boot": {"secs": 60, "nanos": 0}, "request": {"secs": 20, "nanos": 0}, "control": {"secs": 60, "nanos": 0},
            "copy": {"secs": 180, "nanos": 0}, "stop": {"secs": 60, "nanos": 0}, "silence": {"secs": 25, "nanos": 0},
            "shutdown": {"secs": 30, "nanos": 0}, "slowdown": 1
        }
    })
}

/// A tape of this version that a QEMU which nobody has made, and that names a file outside.
fn tape(outside: &Path) -> Value {
    let file = |name: &Path| json!({"name": name, "bytes": 7, "sha256": "00"});
    json!({
        "format": 1, "qemu": "none", "verdict": "mismatch", "blocks_bad": 1, "seconds": 1.0,
        "files": [file(outside), file(Path::new("../../outside"))], "start": [], "end": []
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut plan = plan();
    plan[name] = value;
    plan
}

/// All that is below a folder.
fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            found.extend(listing(&path));
        }
        let content = fs::read(&path).unwrap_or_default();
        found.insert(path, if meta.is_file() { content } else { Vec::new() });
    }
    found
}

#[test]
fn a_foreign_bundle_runs_and_writes_nothing() {
    let whole = plan().to_string().into_bytes();
    let forged: [(&str, Vec<u8>); 8] = [
        (
            "a release that is a path",
            with("kernel_release", json!("../../outside"))
                .to_string()
                .into(),
        ),
        (
            "a kernel that is a path",
            with("kernel_name", json!("../outside")).to_string().into(),
        ),
        (
            "a case that is a path",
            with("case", json!("/outside")).to_string().into(),
        ),
        (
            "a mutant that is a command",
            with("mutant", json!("$(touch ran)")).to_string().into(),
        ),
        (
            "all of the memory",
            with("memory_mib", json!(u32::MAX)).to_string().into(),
        ),
        ("no plan", b"{".to_vec()),
        (
            "a workload that is not there",
            with(
                "workload",
                json!({
                    "file": "/etc/passwd", "timing": "Fast", "snapshot_at_percent": null
                }),
            )
            .to_string()
            .into(),
        ),
        ("a tape", whole),
    ];
    for (what, plan) in forged {
        let place = tempfile::tempdir().expect("a folder for the test");
        let [bundle, victim] = ["bundle", "victim"].map(|name| place.path().join(name));
        for folder in [&bundle, &victim] {
            fs::create_dir(folder).expect("it can be made");
        }
        let script = format!("#!/bin/sh\n: > {}\n", victim.join("ran").display());
        for name in PROGRAMS {
            let path = bundle.join(name);
            fs::write(&path, &script).expect("it can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        fs::write(bundle.join("plan.json"), plan).expect("it can be written");
        if what == "a tape" {
            fs::create_dir(bundle.join("tape")).expect("it can be made");
            let tape = tape(&victim.join("outside")).to_string();
            fs::write(bundle.join("tape/tape.json"), tape).expect("it can be written");
        }
        symlink(&victim, bundle.join("workload")).expect("a link can be made");
        let before = listing(place.path());
        let scratch = tempfile::tempdir().expect("a folder for the test");
        // Nothing is fetched, and what a replay would need is not there.
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .current_dir(&bundle)
            .env("COWBIRD_CACHE", scratch.path().join("cache"))
            .env("TMPDIR", scratch.path())
            .env("PATH", "/nonexistent")
            .args(["replay", "--offline", "--out"])
            .arg(scratch.path().join("out"))
            .arg(&bundle)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        println!("{what}: {said}");
        assert!(before == listing(place.path()), "{what}: {said}");
    }
}
