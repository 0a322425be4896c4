//! What must be true of the checkout as a whole: its files are short, and its map says what its manifests say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::included::from_outside;
use crate::repo::{files_of_git, root};

/// Lines that a file may have. A longer one has more than one subject.
const MAX_LINES: usize = 600;

/// Files that nobody writes by hand.
const GENERATED: [&str; 1] = ["abi/src/bindings.rs"];

/// The table of parts, and what it begins with.
const MAP: &str = "docs/ARCHITECTURE.md";
const TABLE_BEGINS: &str = "| folder | what it is | depends on |";

/// Dependencies of a manifest that are in the program that is made of it, or make it.
const LINKED: [&str; 2] = ["dependencies", "build-dependencies"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Endings of files whose lines are counted.
const COUNTED: [&str; 4] = [".rs", ".c", ".h", ".sh"];

/// Whether the lines of a file are counted: all in Rust, in C, and in the shell's language, whatever they are called. Tables, such
/// as the list of mutants, and documents may be long.
fn is_counted(name: &str, text: &[u8]) -> bool {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let is_script = first.starts_with("#!") && first.trim_end().ends_with("sh");
    is_script || COUNTED.iter().any(|ending| name.ends_with(ending))
}

/// Those that git knows and that are there.
fn counted_files() -> Vec<String> {
    let names = files_of_git(&root(), "*").expect("git lists them");
    let counts = |name: &String| {
        let text = fs::read(root().join(name));
        text.is_ok_and(|text| is_counted(name, &text))
    };
    names.into_iter().filter(counts).collect()
}

/// Goal: what is counted does not depend on where it lies.
#[test]
fn sources_are_counted() {
    let files = counted_files();
    for name in [
        "kmod/src/hook.c",
        "tracer/bpf/cowbird_trace.bpf.c",
        "fuzz/coverage.c",
        "kmod/probes/run.sh",
        ".ci/run",
        "dist/initramfs-tools/hooks/cowbird",
    ] {
        assert!(files.iter().any(|file| file == name), "{name}");
    }
    for (name, text, counted) in [
        ("a/b", "#!/bin/sh\nx", true),
        ("a/b", "#!/usr/bin/env bash\n", true),
        ("a.toml", "[a]\n", false),
        ("a.md", "#!/bin/sh is a line\n", false),
    ] {
        assert_eq!(is_counted(name, text.as_bytes()), counted, "{name}");
    }
}

/// Why a file is too long, if it is.
fn too_long(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES && !GENERATED.contains(&name))
        .then(|| format!("{name} has {lines} lines, of {MAX_LINES} at most: split it by subject"))
}

#[test]
fn a_long_file_is_named() {
    let text = "\n".repeat(MAX_LINES);
    assert_eq!(too_long("a/src/lib.rs", &text), None);
    let longer = text + "\n";
    let said = too_long("a/src/lib.rs", &longer).expect("it is too long");
    assert!(said.starts_with("a/src/lib.rs has 601 lines"), "{said}");
    assert_eq!(too_long(GENERATED[0], &longer), None);
}

/// Goal: no file that somebody has to read grows without end. Method: the lines of every file in Rust, C and
/// the shell's language that git knows are counted.
#[test]
fn files_are_short() {
    let files = counted_files();
    for generated in GENERATED {
        assert!(files.iter().any(|name| name == generated), "{generated}");
    }
    let faults: Vec<String> = files
        .iter()
        .filter_map(|name| too_long(name, &read(name)))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What each folder is said or found to depend on.
type Parts = BTreeMap<String, BTreeSet<String>>;

/// The names in backquotes, folders without their last `/`. Whatever is called a folder must be there.
fn quoted(cell: &str) -> BTreeSet<String> {
    let names = cell.split('`').skip(1).step_by(2);
    let without_slash = |name: &str| match name.strip_suffix('/') {
        Some(folder) => {
            assert!(root().join(folder).is_dir(), "{MAP}: there is no {name}");
            folder.to_owned()
        }
        None => name.to_owned(),
    };
    names.map(without_slash).collect()
}

/// The rows of the table, by folder.
fn rows(map: &str) -> Parts {
    let table = map.lines().skip_while(|line| *line != TABLE_BEGINS).skip(2);
    let mut parts = Parts::new();
    for row in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [folders, _, depends_on] = cells[..] else {
            panic!("{MAP}: a row has {} cells: {row}", cells.len());
        };
        for folder in quoted(folders) {
            let others = quoted(depends_on);
            let twice = parts.insert(folder.clone(), others).is_some();
            assert!(!twice, "{MAP}: {folder} is there twice");
        }
    }
    parts
}

/// The manifests of the workspace, by folder.
fn manifests() -> BTreeMap<String, toml::Table> {
    let parse = |path: &str| -> toml::Table {
        let table = read(path).parse();
        table.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let workspace = parse("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array();
    let members = members.expect("the workspace has members").iter();
    members
        .map(|member| member.as_str().expect("a member is a path").to_owned())
        .map(|folder| (folder.clone(), parse(&format!("{folder}/Cargo.toml"))))
        .collect()
}

/// Names of the packages that a manifest says are linked.
fn linked(manifest: &toml::Table) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets.into_iter().flat_map(toml::Table::values);
    let tables = targets.filter_map(toml::Value::as_table).chain([manifest]);
    let mut names = BTreeSet::new();
    for table in tables {
        let kinds = LINKED
            .iter()
            .filter_map(|kind| table.get(*kind)?.as_table());
        for (key, value) in kinds.flatten() {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            names.insert(renamed.unwrap_or(key).to_owned());
        }
    }
    names
}

/// What the manifests say that each crate depends on of the workspace, and whose files it compiles in.
fn found(manifests: &BTreeMap<String, toml::Table>) -> Parts {
    let package = |manifest: &toml::Table| manifest["package"]["name"].as_str().map(str::to_owned);
    let folders: BTreeMap<String, &String> = manifests
        .iter()
        .map(|(folder, manifest)| (package(manifest).expect("a package has a name"), folder))
        .collect();
    let crates: Vec<String> = manifests.keys().cloned().collect();
    let included = from_outside(&crates);
    let of_ours = |name: String| folders.get(&name).map(|folder| (*folder).clone());
    manifests
        .iter()
        .map(|(folder, manifest)| {
            let linked = linked(manifest).into_iter().filter_map(of_ours);
            let included = included.get(folder).into_iter().flatten().cloned();
            (folder.clone(), linked.chain(included).collect())
        })
        .collect()
}

/// Where the table and what was found do not say the same.
fn disagreements(said: &Parts, found: &Parts) -> Vec<String> {
    let mut faults = Vec::new();
    for (folder, others) in found {
        let Some(named) = said.get(folder) else {
            faults.push(format!("{folder}/ is not in the table"));
            continue;
        };
        for other in others.difference(named) {
            faults.push(format!(
                "{folder}/ depends on {other}/, which the table does not say"
            ));
        }
        // What is no crate, such as a header, no manifest knows.
        let crates = |name: &&String| found.contains_key(*name);
        for other in named.difference(others).filter(crates) {
            faults.push(format!(
                "{folder}/ does not depend on {other}/, as the table says"
            ));
        }
    }
    faults
}

#[test]
fn disagreements_are_named() {
    let parts = |of: &[(&str, &[&str])]| -> Parts {
        let named = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        of.iter()
            .map(|(folder, others)| ((*folder).to_owned(), named(others)))
            .collect()
    };
    let found = parts(&[("a", &["b", "folder"]), ("b", &["folder"]), ("c", &[])]);
    let said = parts(&[("a", &["linux/types.h"]), ("b", &["c", "folder"])]);
    assert_eq!(
        disagreements(&said, &found),
        [
            "a/ depends on b/, which the table does not say",
            "a/ depends on folder/, which the table does not say",
            "b/ does not depend on c/, as the table says",
            "c/ is not in the table",
        ]
    );
    assert!(disagreements(&found, &found).is_empty());
}

/// Goal: who reads the map knows what depends on what. Method: the column "depends on" names the folders of the crates
/// of this workspace that a crate is linked with or built by, all of them and no others; and those whose files it compiles in, all of
/// them.
#[test]
fn the_map_agrees_with_the_manifests() {
    let said = rows(&read(MAP));
    for folder in said.keys() {
        assert!(root().join(folder).exists(), "{MAP}: there is no {folder}");
    }
    let faults = disagreements(&said, &found(&manifests()));
    assert!(faults.is_empty(), "{MAP}:\n{}", faults.join("\n"));
}
