//! `new`: the skeleton of what is to be added. It runs as it is, and is then changed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::{NewArgs, NewThing};
use crate::repo;
use crate::ui::print;

/// A case that takes a snapshot under writers.
const CASE: &str = include_str!("case.rs.txt");

/// Where cases live, and the list of them.
const CASES: &str = "harness/src/cases";
const LIST: &str = "harness/src/cases/mod.rs";

/// The line that the list begins with, and the one that it ends with.
const LIST_BEGINS: &str = "static CASES: &[CaseInfo] = &[";
const LIST_ENDS: &str = "];";

/// Runs the command; the value is the exit code.
pub fn command(args: &NewArgs) -> Result<u8> {
    let NewThing::Case { name } = &args.thing;
    check_name(name)?;
    let module = name.replace('-', "_");
    let list = repo::root().join(LIST);
    let text =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let text = with_case(&text, name, &module)?;
    let path = repo::root().join(CASES).join(format!("{module}.rs"));
    write_new(&path)?;
    fs::write(&list, text).with_context(|| format!("cannot write {}", list.display()))?;
    print(&format!(
        "made {}, and added it to {LIST}\nrun it: cargo xtask test-matrix --kernel bookworm-6.1-cloud --case {name} --seed 1\n",
        path.display()
    ))?;
    Ok(0)
}

/// A name as cases have it: it becomes a file, a module and a word of command lines.
fn check_name(name: &str) -> Result<()> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !name.split('-').all(is_word) || !name.starts_with(|first: char| first.is_ascii_lowercase())
    {
        bail!(
            "`{name}` is no name of a case: use lower case letters, digits and hyphens, as in `hot-read`"
        );
    }
    if cowbird_harness::cases()
        .iter()
        .any(|case| case.name == name)
    {
        bail!("there is a case `{name}` already; `cargo xtask cases` lists all");
    }
    Ok(())
}

fn write_new(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(CASE.as_bytes()))
        .with_context(|| format!("cannot make {}", path.display()))
}

/// The list with a case more: its module in the order of the alphabet, and itself at the end.
fn with_case(list: &str, name: &str, module: &str) -> Result<String> {
    let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
    let line = format!("mod {module};");
    let is_module = |line: &String| line.starts_with("mod ") && line.ends_with(';');
    if lines.contains(&line) {
        bail!("there is a module `{module}` in {LIST} already; choose another name");
    }
    let place = lines
        .iter()
        .position(|other| is_module(other) && *other > line)
        .or_else(|| lines.iter().rposition(is_module).map(|last| last + 1))
        .with_context(|| format!("{LIST} names no modules"))?;
    lines.insert(place, line);
    let begin = lines.iter().position(|line| line == LIST_BEGINS);
    let end = begin.and_then(|begin| {
        let rest = lines[begin..].iter().position(|line| line == LIST_ENDS)?;
        Some(begin + rest)
    });
    let end = end.with_context(|| format!("{LIST} has no list of cases"))?;
    let entry = format!(
        "    case(\n        \"{name}\",\n        \"TODO: what it is, in one line\",\n        CaseTier::Daily,\n        &GUEST_MODULES,\n        \
         {module}::layout,\n        |driver, setting| Box::pin({module}::act(driver, setting)),\n    ),"
    );
    lines.insert(end, entry);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_cases() {
        for name in ["a", "my-case", "raid5-above"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "", "-", "My-case", "my_case", "5-above", "a--b", "../a", "hot-read",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    /// Goal: the list of this checkout takes a case, once, and nothing else of it changes.
    #[test]
    fn the_list_takes_a_case() {
        let list = fs::read_to_string(repo::root().join(LIST)).expect("it can be read");
        for (name, module) in [("aaa", "aaa"), ("my-case", "my_case"), ("zzz", "zzz")] {
            let longer = with_case(&list, name, module).expect("it fits");
            assert!(longer.contains(&format!("\nmod {module};\n")));
            assert!(longer.contains(&format!("|driver, setting| Box::pin({module}::act(")));
            let added = |line: &&str| !list.lines().any(|old| old == *line);
            assert!(longer.lines().filter(added).count() >= 4);
            assert_eq!(longer.lines().count(), list.lines().count() + 9);
            assert!(with_case(&longer, name, module).is_err(), "it is there");
        }
        assert!(with_case("", "a", "a").is_err());
    }
}
