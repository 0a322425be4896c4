//! `new`: the skeleton of what is to be added. It runs as it is, and is then changed.

mod files;
mod mutant;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use self::files::{check_module, check_words, read, write, write_new};
use crate::repo;
use crate::ui::print;

/// A case that takes a snapshot under writers. The crate of the cases compiles it in its tests.
const CASE: &str = include_str!("case.rs.txt");

/// Where cases live, and what names their modules. The list of all cases is made of these files.
const CASES: &str = "harness/cases/src";
const MODULES: &str = "harness/cases/src/lib.rs";
/// The other crate of cases. A module is not in both: one would be taken for the other.
const OTHER_MODULES: &str = "harness/adversity/src/lib.rs";

/// What the skeleton has in place of the name of its case.
const NAME: &str = "NAME-OF-THE-CASE";

/// Arguments of `new`.
#[derive(Clone, Debug, Args)]
pub struct NewArgs {
    /// What it is
    #[command(subcommand)]
    pub thing: NewThing,
}

/// What there is a skeleton of.
#[derive(Clone, Debug, Subcommand)]
pub enum NewThing {
    /// A case: one story that is played in a guest, and what must then be true
    Case {
        /// Its name, as in `hot-read`
        name: String,
    },
    /// A mutant: a known fault that the module can be built with, and what must then be seen
    Mutant {
        /// Its name, as in `no-gate`
        name: String,
    },
}

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
    let modules = repo::root().join(MODULES);
    if declares(&read(&repo::root().join(OTHER_MODULES))?, &module) {
        bail!("there is a module `{module}` in {OTHER_MODULES} already; choose another name");
    }
    let with_module = with_module(&read(&modules)?, &module)?;
    let path = repo::root().join(CASES).join(format!("{module}.rs"));
    write_new(&path, &CASE.replace(NAME, name))?;
    write(&modules, &with_module)?;
    print(&format!(
        "made {}, and declared it in {MODULES}\nits subject is `Subject::Volume`: say another one there if it has another\n\
         run it: cargo xtask test-matrix --kernel bookworm-6.1-cloud --case {name} --seed 1\n",
        path.display()
    ))?;
    Ok(0)
}

/// A name that a case can have: it becomes a file and a module, too.
fn check_name(name: &str) -> Result<()> {
    check_words(name, "case", "hot-read")?;
    check_module(name)?;
    // A name that a case had before leads to that one; self-tests and the recorded case have theirs.
    if let Some(case) = cowbird_harness::catalogue::find(name) {
        let now = case.name;
        bail!(
            "`{name}` is the case `{now}` already; `cargo xtask cases` lists all: choose another name"
        );
    }
    Ok(())
}

fn declares(modules: &str, module: &str) -> bool {
    let declaration = format!("mod {module};");
    modules
        .lines()
        .any(|line| line.strip_prefix("pub ").unwrap_or(line) == declaration)
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

    /// Goal: a name that would lead to another case, or that is no name of a module, is refused, with the reason.
    #[test]
    fn names_that_mean_something_else_are_refused() {
        let recorded = cowbird_harness::catalogue::recorded_case().name;
        for (name, says) in [
            ("meddling", "`admin-interference`"),
            ("self-test-panic", "already"),
            (recorded, "already"),
            ("match", "Rust"),
            ("loop", "Rust"),
            ("std", "Rust"),
        ] {
            let error = check_name(name).expect_err(name).to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(check_name("match-all").is_ok());
        assert!(declares("mod inner;\npub mod outer;\n", "inner"));
        assert!(!declares("pub mod outer;\n", "inner"));
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

    /// Goal: the skeleton registers its case under the name that was asked for, in one place.
    #[test]
    fn the_skeleton_has_the_name() {
        assert_eq!(CASE.matches(NAME).count(), 1);
        let text = CASE.replace(NAME, "my-case");
        let registers =
            "pub static CASES: CasesOf = Subject::Volume.cases(&[case(\n    \"my-case\",\n";
        assert!(text.contains(registers), "{text}");
    }
}
