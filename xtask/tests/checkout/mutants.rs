//! Known faults of the module: the list in TOML and the code name the same ones, and Kbuild understands the list.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::repo::{files_of_git, root};

const IN_C: &str = "kmod/src/mutants.h";
const IN_TOML: &str = "kmod/mutants.toml";
const KBUILD: &str = "kmod/Kbuild";

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

fn list() -> Vec<toml::Table> {
    let toml: toml::Table = read(IN_TOML).parse().expect("it is TOML");
    let mutants = toml["mutant"].as_array().expect("an array of tables");
    let table = |mutant: &toml::Value| mutant.as_table().expect("a table").clone();
    mutants.iter().map(table).collect()
}

/// What these close is the fault.
const ONLY_CLOSE: [&str; 2] = ["audit_off", "sums_unchecked"];

/// Goal: a fault that is listed exists, is told, and one that exists is listed: otherwise nothing would try it, or a mutant would
/// be the module itself and be called missed.
#[test]
fn lists_of_mutants_agree() {
    let described: BTreeSet<String> = list()
        .iter()
        .map(|mutant| {
            let breaks = mutant["breaks"].as_str().expect("a sentence");
            assert!(!breaks.contains("TODO"), "{mutant:?}: say what it breaks");
            mutant["name"].as_str().expect("a name").replace('-', "_")
        })
        .collect();
    let described: BTreeSet<&str> = described.iter().map(String::as_str).collect();
    let mut code = String::new();
    for pattern in ["kmod/src/*.c", "kmod/src/*.h"] {
        for file in files_of_git(&root(), pattern).expect("git lists them") {
            // Its comments have an example.
            let text = read(&file);
            let from = if file == IN_C {
                text.find("#define CB_")
            } else {
                None
            };
            code += &text[from.unwrap_or_default()..];
        }
    }
    let used = words_after(&code, "cb_mutant(");
    let unused: Vec<_> = described
        .difference(&used)
        .filter(|name| !ONLY_CLOSE.contains(name))
        .collect();
    assert!(unused.is_empty(), "no code asks for {unused:?}");
    let unknown: Vec<_> = used.difference(&described).collect();
    assert!(unknown.is_empty(), "{IN_TOML} does not list {unknown:?}");
}

/// Goal: Kbuild takes from the list what the list says: that there is such a fault, and what it closes. Method: every mutant's flags for
/// the compiler, as make has them; a name that is not listed; none. What it does not check: that the module compiles with them.
#[test]
fn kbuild_reads_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let asking = folder.path().join("Makefile");
    let flags = "include $(kbuild)\nflags:\n\t@echo '$(subst ',,$(ccflags-y))'\n.PHONY: flags\n";
    fs::write(&asking, flags).expect("it can be written");
    let flags_of = |mutant: &str| {
        let output = Command::new("make")
            .args(["--silent", "--file"])
            .arg(&asking)
            .arg(format!("kbuild={}", root().join(KBUILD).display()))
            .arg(format!("src={}", root().join("kmod").display()))
            .arg(format!("obj={}", folder.path().display()))
            .arg(format!("MUTANT={mutant}"))
            .arg("flags")
            .env_remove("MAKEFLAGS")
            .output();
        match output {
            Ok(output) => output.status.success().then(|| {
                let said = String::from_utf8(output.stdout).expect("it is text");
                said.split_whitespace()
                    .filter_map(|flag| flag.strip_prefix("-DCOWBIRD_MUTANT_"))
                    .filter(|flag| !flag.starts_with("NAME="))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            }),
            Err(error) => panic!("cannot run make: {error}; install it"),
        }
    };
    assert_eq!(flags_of(""), Some(Vec::new()));
    assert_eq!(flags_of("no-such-fault"), None);
    assert_eq!(flags_of("no.gate"), None, "a name is no pattern");
    for mutant in list() {
        let name = mutant["name"].as_str().expect("a name");
        let mut wanted = vec![name.replace('-', "_")];
        let closes = mutant.get("closes").and_then(toml::Value::as_array);
        for look in closes.into_iter().flatten() {
            wanted.push(format!("CLOSES_{}", look.as_str().expect("a word")));
        }
        assert_eq!(flags_of(name), Some(wanted), "{name}");
    }
}

/// Functions that ask in more places than one, and why they may.
const IN_SEVERAL_PLACES: [&str; 4] = [
    // Reads of a snapshot: the rule came when they had several.
    "cb_ahead_join",
    "cb_read_iter",
    "cb_read_unpreserved",
    "cb_read_passthrough_end_io",
];

/// How often a file's functions ask for faults; those that are faults themselves have a name that says so.
fn hooks(code: &str) -> Vec<(String, usize)> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("\n{\n") {
        let declared = code[..at].rsplit("\n\n").next().unwrap_or_default();
        let name = declared.split('(').next().unwrap_or_default();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = name.rsplit(|c| !is_word(c)).next().unwrap_or_default();
        let body = code[at..].split("\n}").next().unwrap_or_default();
        let count = body.match_indices("cb_mutant").count();
        if !name.starts_with("cb_mutant") {
            all.push((name.to_owned(), count));
        }
    }
    all
}

/// Goal: who reads a function of the module meets one fault at most. Method: the functions of all its files; one that has several and is
/// known for it, and one that is known and has no more than one, fail alike.
#[test]
fn a_function_has_one_hook_for_mutants() {
    let mut several = BTreeSet::new();
    let mut functions = 0;
    for pattern in ["kmod/src/*.c", "kmod/src/*.h"] {
        for file in files_of_git(&root(), pattern).expect("git lists them") {
            let all = hooks(&read(&file));
            functions += all.len();
            several.extend(all.into_iter().filter(|(_, count)| *count > 1));
        }
    }
    assert!(functions > 500, "{functions} functions were found");
    let names: BTreeSet<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, IN_SEVERAL_PLACES.into(), "{several:?}");
    let code = "int a;\n\n/* X. */\nstatic int cb_f(int a,\n\t\tint b)\n{\n\tif (cb_mutant(x) || cb_mutant_y())\n}\n\nint cb_g(void)\n{\n}\n";
    assert_eq!(
        hooks(code),
        [("cb_f".to_owned(), 2), ("cb_g".to_owned(), 0)]
    );
}
