//! Cases are registered beside their code, and the list of all cases has them all.

use std::fs;

use crate::repo::{files_of_git, root};

/// The list of all cases.
const CATALOGUE: &str = "harness/src/catalogue/mod.rs";

/// The folders of the crates that play cases.
const PLAYED_IN: [&str; 2] = ["harness/cases/src/", "harness/adversity/src/"];

/// How the line begins that registers cases, and how it goes on behind their name.
const REGISTERS: &str = "pub const ";
const KINDS: [&str; 2] = [": CaseInfo = ", ": &[CaseInfo] = "];

/// What a file registers, as the list names it.
fn registered(below_src: &str, text: &str) -> Vec<String> {
    let module = below_src.trim_end_matches(".rs").trim_end_matches("/mod");
    let module = module.replace('/', "::");
    let names = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(REGISTERS)?;
        KINDS
            .iter()
            .find_map(|kind| rest.split_once(kind))
            .map(|(name, _)| format!("{module}::{name}"))
    });
    names.collect()
}

/// The paths and words of a text.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}

#[test]
fn what_a_file_registers_is_seen() {
    let text = "pub const CASES: &[CaseInfo] = &[case(\npub const CASE: CaseInfo = case(\nconst X: u32 = 1;\n";
    let found = registered("a/b.rs", text);
    assert_eq!(found, ["a::b::CASES", "a::b::CASE"]);
    assert_eq!(registered("a/mod.rs", "pub const X: u32 = 1;"), [""; 0]);
    assert!(paths("&[a::CASES, b::CASES];").any(|path| path == "b::CASES"));
    assert!(!paths("&[a::b::CASES];").any(|path| path == "b::CASES"));
}

/// Goal: a case that nobody can run is no case. Method: every constant that registers cases is named in the list.
#[test]
fn every_case_is_in_the_list() {
    let list = fs::read_to_string(root().join(CATALOGUE)).expect("the list of cases");
    let mut seen = 0;
    for folder in PLAYED_IN {
        let files = files_of_git(&root(), &format!("{folder}*.rs")).expect("git lists them");
        for file in files.iter().filter(|file| root().join(file).exists()) {
            let text = fs::read_to_string(root().join(file)).expect("it can be read");
            let below = file.strip_prefix(folder).expect("it lies below");
            for name in registered(below, &text) {
                seen += 1;
                assert!(
                    paths(&list).any(|path| path == name),
                    "{file} registers cases that are in no list: add `{name},` to {CATALOGUE}"
                );
            }
        }
    }
    assert!(seen > 40, "{seen} constants with cases were found");
}
