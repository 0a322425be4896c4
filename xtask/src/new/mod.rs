//! `new`: the skeleton of what is to be added. It runs as it is, and is then changed.

mod files;
mod mutant;

use anyhow::{Context, Result, bail};

use self::files::{check_words, read, write, write_new};
use crate::cli::{NewArgs, NewThing};
use crate::repo;
use crate::ui::print;

/// A case that takes a snapshot under writers. The crate of the cases compiles it in its tests.
const CASE: &str = include_str!("case.rs.txt");

/// Where cases live, what names their modules, and the list that a new one comes to: that of what the skeleton does.
const CASES: &str = "harness/cases/src";
const MODULES: &str = "harness/cases/src/lib.rs";
/// The other crate of cases: the list names the modules of both.
const OTHER_MODULES: &str = "harness/adversity/src/lib.rs";
const LIST: &str = "harness/src/catalogue/mod.rs";

/// The line that the list begins with, and the one that it ends with.
const LIST_BEGINS: &str = "const PLAIN: &[&[CaseInfo]] = &[";
const LIST_ENDS: &str = "];";

/// What the skeleton has in place of the name of its case.
const NAME: &str = "NAME-OF-THE-CASE";

/// Runs the command; the value is the exit code.
pub fn command(args: &NewArgs) -> Result<u8> {
    match &args.thing {
        NewThing::Case { name } => new_case(name),
        NewThing::Mutant { name } => mutant::command(name),
    }
}

fn new_case(name: &str) -> Result<u8> {
    check_name(name)?;
    let module = name.replace('-', "_");
    let (modules, list) = (repo::root().join(MODULES), repo::root().join(LIST));
    if declares(&read(&repo::root().join(OTHER_MODULES))?, &module) {
        bail!("there is a module `{module}` in {OTHER_MODULES} already; choose another name");
    }
    let with_module = with_module(&read(&modules)?, &module)?;
    let with_case = with_case(&read(&list)?, &module)?;
    let path = repo::root().join(CASES).join(format!("{module}.rs"));
    write_new(&path, &CASE.replace(NAME, name))?;
    write(&modules, &with_module)?;
    write(&list, &with_case)?;
    print(&format!(
        "made {}, and added it to {MODULES} and {LIST}\nmove its line in {LIST} to the list of its subject\n\
         run it: cargo xtask test-matrix --kernel bookworm-6.1-cloud --case {name} --seed 1\n",
        path.display()
    ))?;
    Ok(0)
}

/// A name that a case can have: it becomes a file and a module, too.
fn check_name(name: &str) -> Result<()> {
    check_words(name, "case", "hot-read")?;
    if cowbird_harness::catalogue::cases()
        .iter()
        .any(|case| case.name == name)
    {
        bail!("there is a case `{name}` already; `cargo xtask cases` lists all");
    }
    Ok(())
}

fn declares(modules: &str, module: &str) -> bool {
    modules
        .lines()
        .any(|line| line == format!("pub mod {module};"))
}

/// The modules with one more, in the order of the alphabet.
fn with_module(modules: &str, module: &str) -> Result<String> {
    let mut lines: Vec<String> = modules.lines().map(str::to_owned).collect();
    let line = format!("pub mod {module};");
    let is_module = |line: &String| line.starts_with("pub mod ") && line.ends_with(';');
    if declares(modules, module) {
        bail!("there is a module `{module}` in {MODULES} already; choose another name");
    }
    let place = lines
        .iter()
        .position(|other| is_module(other) && *other > line)
        .or_else(|| lines.iter().rposition(is_module).map(|last| last + 1))
        .with_context(|| format!("{MODULES} names no modules"))?;
    lines.insert(place, line);
    Ok(lines.join("\n") + "\n")
}

/// The list with the cases of one more module, at its end.
fn with_case(list: &str, module: &str) -> Result<String> {
    let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
    let begin = lines.iter().position(|line| line == LIST_BEGINS);
    let end = begin.and_then(|begin| {
        let rest = lines[begin..].iter().position(|line| line == LIST_ENDS)?;
        Some(begin + rest)
    });
    let end = end.with_context(|| format!("{LIST} has no list of cases"))?;
    lines.insert(end, format!("    {module}::CASES,"));
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

    /// The lines of a text that another has not.
    fn added<'a>(longer: &'a str, shorter: &str) -> Vec<&'a str> {
        let is_new = |line: &&str| !shorter.lines().any(|old| old == *line);
        longer.lines().filter(is_new).collect()
    }

    /// Goal: the modules of this checkout take a case, once, and nothing else of them changes.
    #[test]
    fn the_modules_take_a_case() {
        let modules = read(&repo::root().join(MODULES)).expect("it can be read");
        for module in ["aaa", "my_case", "zzz"] {
            let longer = with_module(&modules, module).expect("it fits");
            assert_eq!(added(&longer, &modules), [format!("pub mod {module};")]);
            assert_eq!(longer.lines().count(), modules.lines().count() + 1);
            assert!(with_module(&longer, module).is_err(), "it is there");
        }
        assert!(with_module("", "a").is_err());
    }

    /// Goal: the names of modules in the other crate of cases are known as taken.
    #[test]
    fn the_other_modules_are_taken() {
        let others = read(&repo::root().join(OTHER_MODULES)).expect("it can be read");
        assert!(declares(&others, "stuck") && !declares(&others, "my_case"));
    }

    /// Goal: the list of this checkout takes a case by one line, behind all others, and nothing else of it changes.
    /// Nothing is imported: the list sees every module of the cases.
    #[test]
    fn the_list_takes_a_case() {
        let list = read(&repo::root().join(LIST)).expect("it can be read");
        assert!(list.contains("\nuse cowbird_cases::*;\n"));
        for module in ["aaa", "my_case", "zzz"] {
            let line = format!("    {module}::CASES,");
            let longer = with_case(&list, module).expect("it fits");
            assert!(longer.contains(&format!("{line}\n];\n")), "{longer}");
            assert_eq!(added(&longer, &list), [line]);
            assert_eq!(longer.lines().count(), list.lines().count() + 1);
        }
        assert!(with_case("", "a").is_err());
    }

    /// Goal: the skeleton registers its case under the name that was asked for, in one place.
    #[test]
    fn the_skeleton_has_the_name() {
        assert_eq!(CASE.matches(NAME).count(), 1);
        let text = CASE.replace(NAME, "my-case");
        assert!(text.contains("pub const CASES: &[CaseInfo] = &[case(\n    \"my-case\",\n"));
    }
}
