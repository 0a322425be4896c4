//! Known faults of the module: the list in C, the list in TOML and the code name the same ones.

use std::collections::BTreeSet;
use std::fs;

use crate::repo::{files_of_git, root};

const IN_C: &str = "kmod/src/mutants.h";
const IN_TOML: &str = "kmod/mutants.toml";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words that follow a text, up to what is no part of a name.
fn words_after<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(before)
        .skip(1)
        .map(|rest| rest.split(|c| !is_name(c)).next().unwrap_or_default())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Goal: a fault that is listed exists, and one that exists is listed: otherwise nothing would try it, or a mutant would
/// be the module itself and be called missed.
#[test]
fn lists_of_mutants_agree() {
    let header = read(IN_C);
    let (list, macros) = header
        .split_once("};")
        .expect("the list is an enumeration and comes first");
    let mut listed = words_after(list, "CB_MUTANT_");
    assert!(listed.remove("none"), "the first one is none of them");

    let toml: toml::Table = read(IN_TOML).parse().expect("it is TOML");
    let described: BTreeSet<String> = toml["mutant"]
        .as_array()
        .expect("an array of tables")
        .iter()
        .map(|mutant| mutant["name"].as_str().expect("a name").replace('-', "_"))
        .collect();
    let described: BTreeSet<&str> = described.iter().map(String::as_str).collect();
    assert_eq!(listed, described, "{IN_C} and {IN_TOML}");

    let mut code = macros.to_owned();
    for pattern in ["kmod/src/*.c", "kmod/src/*.h"] {
        for file in files_of_git(&root(), pattern).expect("git lists them") {
            if file != IN_C {
                code += &read(&file);
            }
        }
    }
    let used = words_after(&code, "cb_mutant(");
    let unused: Vec<_> = listed.difference(&used).collect();
    assert!(unused.is_empty(), "no code asks for {unused:?}");
    let unknown: Vec<_> = used
        .difference(&listed)
        .filter(|name| **name != "name")
        .collect();
    assert!(unknown.is_empty(), "{IN_C} does not list {unknown:?}");
}
