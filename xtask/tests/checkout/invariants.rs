//! The module's invariants: who cites one says its number and its name, as the list has them, and code cites each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::repo::{files_of_git, root};

/// The file with the list.
const LIST: &str = "kmod/src/cowbird.h";

/// Where invariants are cited. Not seen: what `gen-docs` writes, which is made of what is seen.
const CITING: [&str; 9] = [
    "kmod/*.c",
    "kmod/*.h",
    "kmod/*.rs",
    "kmod/*.toml",
    "tracer/*.rs",
    "tracer/*.md",
    "harness/*.rs",
    "model/*.rs",
    "docs/*.md",
];

/// The invariants of the list: ` *   I6  the map is true    what it says`, or its name alone on the line.
fn listed(header: &str) -> BTreeMap<u32, String> {
    let lines = header.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix(" *   I")?.split_once(' ')?;
        let name = rest.trim().split("  ").next()?;
        Some((number.parse().ok()?, name.to_owned()))
    });
    lines.collect()
}

/// A text on one line, without what comments put in front of each line.
fn unfolded(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_start();
        let bare = ["/// ", "//! ", "// ", "* ", "# "]
            .iter()
            .find_map(|leader| line.strip_prefix(leader));
        bare.unwrap_or(line).trim()
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// What a text cites: the number of each invariant that it names rightly, or the words that are no citation.
fn citations(text: &str, names: &BTreeMap<u32, String>) -> Vec<Result<u32, String>> {
    let text = unfolded(text);
    let mut all = Vec::new();
    let starts_word = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let excerpt = |at: usize| text[at..].chars().take(50).collect::<String>();
    for (at, _) in text.match_indices('I').filter(|(at, _)| starts_word(*at)) {
        let rest = &text[at + 1..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, behind) = rest.split_at(digits);
        let is_code = behind.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if digits == 0 || digits > 2 || is_code || behind.starts_with(" to I13** are listed") {
            continue;
        }
        let named = number.parse().ok().filter(|number| {
            let name = names.get(number).map(|name| format!(", {name}"));
            name.is_some_and(|name| behind.starts_with(&name))
        });
        // The end of the range that says how many there are.
        if !text[..at].ends_with("invariants I1 to ") {
            all.push(named.ok_or_else(|| excerpt(at)));
        }
    }
    for word in ["nvariant ", "nvariants "] {
        for (at, _) in text.match_indices(word) {
            if text[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()) {
                all.push(Err(excerpt(at)));
            }
        }
    }
    all
}

/// Goal: whoever reads that a line upholds or breaks an invariant finds it in the list, under the number and name that were
/// cited; and each that is listed is cited by the module's code. Method: all files that may cite. What it does not check: that the
/// line does what the invariant says.
#[test]
fn citations_are_those_of_the_list() {
    let read = |file: &str| fs::read_to_string(root().join(file)).expect("it can be read");
    let names = listed(&read(LIST));
    let numbers: Vec<u32> = names.keys().copied().collect();
    assert_eq!(numbers, (1..=13).collect::<Vec<_>>(), "{LIST}");
    let mut wrong = Vec::new();
    let mut by_code = BTreeSet::new();
    for pattern in CITING {
        for file in files_of_git(&root(), pattern).expect("git lists them") {
            if file == LIST || file.starts_with("docs/reference/") {
                continue;
            }
            let is_code = file.ends_with(".c") || file.ends_with(".h");
            for citation in citations(&read(&file), &names) {
                match citation {
                    Ok(number) if is_code => _ = by_code.insert(number),
                    Ok(_) => {}
                    Err(words) => wrong.push(format!("{file}: {words}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not in {LIST}:\n{}", wrong.join("\n"));
    let uncited: Vec<_> = numbers.iter().filter(|n| !by_code.contains(n)).collect();
    assert!(uncited.is_empty(), "no code cites {uncited:?}");
}

/// Goal: a wrong name, an unknown number and a number alone are seen, and what only looks like one is not.
#[test]
fn wrong_citations_are_seen() {
    let names =
        listed(" *   I1  old before new     no write\n *   I10 nobody\n *           neither\n");
    assert_eq!(names[&1], "old before new");
    assert_eq!(names[&10], "nobody");
    let rights = |text: &str| {
        let cited = citations(text, &names);
        cited
            .into_iter()
            .map(|cited| cited.ok())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        rights("(I1, old before new) and I10, nobody"),
        [Some(1), Some(10)]
    );
    assert_eq!(rights(" * so (I1, old\n * before new)"), [Some(1)]);
    assert_eq!(rights("/// I1, old before\n/// new."), [Some(1)]);
    for wrong in [
        "I1, a true cut",
        "I2, old before new",
        "see I1.",
        "invariant 1",
        "Invariants 1 and 10",
    ] {
        assert_eq!(rights(wrong), [None], "{wrong}");
    }
    assert_eq!(
        rights("UI1 i16 I16x I/O In I128 CB_I1 the invariants I1 to I13** are listed"),
        []
    );
}
