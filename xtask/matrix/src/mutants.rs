//! The mutants: known faults of the module, as `kmod/mutants.toml` lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cowbird_cases::REGRESSIONS;
use cowbird_model::{CellResult, Class, Verdict};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where the list lies below the root of the repository.
pub const PATH_IN_REPO: &str = "kmod/mutants.toml";

/// Chooses every mutant on the command line, so no mutant may have this name.
pub const ALL: &str = "all";

/// One known fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Name, which is also the value of `MUTANT` when the module is built.
    pub name: String,
    /// What it breaks, in one sentence.
    pub breaks: String,
    /// Classes of wrong blocks that it can cause: a cell catches it with at least one of them.
    #[serde(default)]
    pub expect: BTreeSet<Class>,
    /// Classes that a cell must see to catch it, all of them.
    #[serde(default)]
    pub require: BTreeSet<Class>,
    /// The cases that it is tried with where no others are asked for; none for those of the tier.
    #[serde(default)]
    pub cases: Vec<String>,
    /// For a fault that makes no block wrong: what a cell that catches it says.
    #[serde(default)]
    pub says: Option<String>,
    /// For a fault that stops the guest: the verdicts of a cell that catches it.
    #[serde(default)]
    pub ends: Vec<Verdict>,
    /// The kernels that it can be seen on, as patterns; none for all.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// What would make good for the fault, or turn it into an error, and is off in this build; Kbuild reads it.
    #[serde(default)]
    pub closes: Vec<Look>,
}

/// A second look of the module's, which the harness is on trial without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// That no write ends whose blocks are not preserved, and that none goes on unseen which a cgroup has delayed.
    Audit,
    /// That what comes from the COW file is what was stored there.
    Sums,
}

impl Mutant {
    /// Whether it is tried with a case when nobody has asked for cases. `in_tier`: whether the
    /// case is of the tier. That the regressions find the faults that they were shrunk from says nothing
    /// about the harness.
    pub fn is_for(&self, case: &str, in_tier: bool) -> bool {
        if self.cases.is_empty() {
            in_tier && case != REGRESSIONS
        } else {
            self.cases.iter().any(|name| name == case)
        }
    }

    /// What a cell that catches it sees, in words.
    pub fn seen_as(&self) -> String {
        let classes = self.expect.iter().map(ToString::to_string);
        let said = self.says.iter().map(|says| format!("{says:?}"));
        let ends = self.ends.iter().map(ToString::to_string);
        let all: Vec<String> = classes.chain(said).chain(ends).collect();
        all.join(", ")
    }

    /// Whether its fault can be seen on a kernel.
    pub fn concerns(&self, kernel: &str) -> bool {
        let matches = |pattern: &String| {
            glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(kernel))
        };
        self.kernels.is_empty() || self.kernels.iter().any(matches)
    }

    /// Whether a cell saw the fault that this mutant was built with.
    pub fn is_caught(&self, result: &CellResult) -> bool {
        self.ends.contains(&result.verdict)
            || result.verdict == Verdict::Mismatch && self.explains(&result.classes, &result.reason)
    }

    /// Whether wrong blocks of these classes, or this reason, are the fault that this mutant was
    /// built with.
    fn explains(&self, classes: &BTreeMap<Class, u64>, reason: &str) -> bool {
        let seen = |class: &Class| classes.get(class).is_some_and(|count| *count > 0);
        let said = self.says.as_ref().is_some_and(|says| reason.contains(says));
        said || self.expect.iter().any(seen) && self.require.iter().all(seen)
    }
}

/// What is wrong with the list, or with a choice from it.
#[derive(Debug, Error)]
pub enum MutantsError {
    /// The file cannot be read.
    #[error("cannot read the list of mutants {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not of the right shape.
    #[error("the list of mutants {}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody has built such a mutant.
    #[error("no mutant is called `{name}`; there are: {known}, or `{ALL}`")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutant: Vec<Mutant>,
}

/// Reads the list of the repository at `root`.
pub fn load(root: &Path) -> Result<Vec<Mutant>, MutantsError> {
    let path = root.join(PATH_IN_REPO);
    let text = std::fs::read_to_string(&path).map_err(|source| MutantsError::Read {
        path: path.clone(),
        source,
    })?;
    parse(&text).map_err(|problem| MutantsError::Syntax { path, problem })
}

fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let File { mutant: mutants } = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut names = BTreeSet::new();
    for mutant in &mutants {
        if mutant.name == ALL || !names.insert(&mutant.name) {
            return Err(format!("the name `{}` is taken", mutant.name));
        }
        if mutant.expect.is_empty() && mutant.says.is_none() && mutant.ends.is_empty() {
            return Err(format!(
                "`{}` expects nothing, so nothing could catch it",
                mutant.name
            ));
        }
        // The others say nothing about the module.
        let telling = [Verdict::KernelSplat, Verdict::Panic, Verdict::Hang];
        if !mutant.ends.iter().all(|end| telling.contains(end)) {
            return Err(format!(
                "`{}` ends in a way that shows nothing",
                mutant.name
            ));
        }
        for pattern in &mutant.kernels {
            if let Err(error) = glob::Pattern::new(pattern) {
                return Err(format!("`{}`: {pattern:?}: {error}", mutant.name));
            }
        }
        if !mutant.require.is_subset(&mutant.expect) {
            return Err(format!(
                "`{}` requires a class that it does not expect",
                mutant.name
            ));
        }
    }
    Ok(mutants)
}

/// The mutants with these names, each once, in the order of the list; `all` chooses every one.
pub fn select<'m>(
    mutants: &'m [Mutant],
    names: &[String],
) -> Result<Vec<&'m Mutant>, MutantsError> {
    for name in names {
        if name != ALL && !mutants.iter().any(|mutant| mutant.name == *name) {
            let known: Vec<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
            return Err(MutantsError::Unknown {
                name: name.clone(),
                known: known.join(", "),
            });
        }
    }
    let wanted = |mutant: &&Mutant| names.iter().any(|name| name == ALL || *name == mutant.name);
    Ok(mutants.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::result;

    const TEXT: &str = r#"
        [[mutant]]
        name = "a"
        breaks = "x"
        expect = ["future", "torn"]
        require = ["future"]
        [[mutant]]
        name = "b"
        breaks = "y"
        expect = ["misplaced", "zeroed"]
    "#;

    /// Goal: the list of this repository is readable. Method: read it.
    #[test]
    fn the_list_of_the_module_is_sound() {
        let root = crate::repository();
        let mutants = load(&root).expect("the list is in the repository");
        assert!(mutants.iter().any(|mutant| {
            mutant.name == "no-revalidate" && mutant.require.contains(&Class::Future)
        }));
        for mutant in &mutants {
            let known = |name: &String| {
                cowbird_harness::catalogue::cases()
                    .iter()
                    .any(|c| c.name == name)
            };
            assert!(
                mutant.cases.iter().all(known),
                "{}: no such case",
                mutant.name
            );
        }
    }

    #[test]
    fn selection() {
        let mutants = parse(TEXT).expect("a sound list");
        let names = |chosen: &[&str]| {
            let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
            select(&mutants, &chosen)
                .map(|chosen| {
                    chosen
                        .iter()
                        .map(|mutant| mutant.name.clone())
                        .collect::<Vec<_>>()
                })
                .map_err(|error| error.to_string())
        };
        assert_eq!(names(&[]), Ok(vec![]));
        assert_eq!(names(&["all", "b"]), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(names(&["b", "a", "b"]), Ok(vec!["a".into(), "b".into()]));
        let unknown = "no mutant is called `c`; there are: a, b, or `all`";
        assert_eq!(names(&["a", "c"]), Err(unknown.into()));
    }

    /// Goal: a mutant is caught by the fault it was built with and by no other. Method: each
    /// combination of expected, required and other classes.
    #[test]
    fn what_explains_a_fault() {
        let mutants = parse(TEXT).expect("a sound list");
        let explains = |at: usize, classes: &[(Class, u64)]| {
            mutants[at].explains(&classes.iter().copied().collect(), "")
        };
        assert!(explains(0, &[(Class::Future, 1)]));
        assert!(explains(0, &[(Class::Future, 1), (Class::Stale, 3)]));
        assert!(!explains(0, &[(Class::Torn, 4)]));
        assert!(!explains(0, &[(Class::Future, 0)]));
        assert!(explains(1, &[(Class::Zeroed, 1)]));
        assert!(!explains(1, &[(Class::Future, 1)]));
        assert!(!explains(1, &[]));
    }

    #[test]
    fn a_mutant_is_tried_with_its_own_cases() {
        let mutants = parse(TEXT).expect("a sound list");
        assert!(mutants[0].is_for("quick", true) && !mutants[0].is_for("daily", false));
        assert!(!mutants[0].is_for(REGRESSIONS, true));
        let own = Mutant {
            cases: vec!["daily".into()],
            ..mutants[0].clone()
        };
        assert!(!own.is_for("quick", true) && own.is_for("daily", false));
    }

    #[test]
    fn unsound_lists_are_refused() {
        let refused = |text: &str| parse(text).expect_err("the list is unsound");
        assert!(refused("x = 1").contains("unknown field"));
        let entry = |name: &str, rest: &str| {
            format!("[[mutant]]\nname = \"{name}\"\nbreaks = \"x\"\n{rest}\n")
        };
        let good = entry("a", "expect = [\"torn\"]");
        assert!(parse(&good).is_ok());
        assert_eq!(refused(&good.repeat(2)), "the name `a` is taken");
        assert_eq!(
            refused(&entry("all", "expect = [\"torn\"]")),
            "the name `all` is taken"
        );
        assert!(refused(&entry("a", "expect = []")).contains("expects nothing"));
        assert!(refused(&entry("a", "expect = [\"wrong\"]")).contains("unknown variant"));
        let stray = entry("a", "expect = [\"torn\"]\nrequire = [\"stale\"]");
        assert!(refused(&stray).contains("does not expect"));
    }

    #[test]
    fn caught_is_a_mismatch_of_the_right_class() {
        let mutant = Mutant {
            name: "m".into(),
            breaks: "x".into(),
            expect: [Class::Future].into(),
            require: [Class::Future].into(),
            cases: Vec::new(),
            says: None,
            ends: Vec::new(),
            kernels: Vec::new(),
            closes: Vec::new(),
        };
        assert!(mutant.is_caught(&result("k", "a", Some("m"), Verdict::Mismatch)));
        assert!(!mutant.is_caught(&result("k", "a", Some("m"), Verdict::Pass)));
        let mut stale = result("k", "a", Some("m"), Verdict::Mismatch);
        stale.classes = [(Class::Stale, 3)].into();
        assert!(!mutant.is_caught(&stale));
        let spoken = Mutant {
            says: Some("a rea".into()),
            ..mutant.clone()
        };
        assert!(spoken.is_caught(&stale));
        // Wrong blocks seen before a panic do not make the panic a catch.
        let mut panic = result("k", "a", Some("m"), Verdict::Panic);
        panic.classes = [(Class::Future, 3)].into();
        assert!(!mutant.is_caught(&panic));
        let stops = Mutant {
            ends: vec![Verdict::Panic],
            ..mutant
        };
        assert!(stops.is_caught(&panic));
    }
}
