//! Regression files: what failed once, as few steps as were found to be needed for it.
//!
//! They lie in `harness/regressions`, are made by `shrink`, and are run before all other cells. The format is
//! TOML for people; [`VERSION`] is its first line, and a file of another version is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cowbird_checks::script_runs::ScriptRunPlan;
use cowbird_model::Class;
use cowbird_outside::foreign::read_text;
use cowbird_workload::{Script, Step};
use serde::{Deserialize, Serialize};

/// Where the files lie below the root of the repository.
pub const FOLDER: &str = "harness/regressions";

/// Version of the format.
pub const VERSION: u32 = 1;

/// How their names end.
const EXTENSION: &str = "toml";

/// One regression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// Version of the format.
    pub version: u32,
    /// The kernel that it failed on.
    pub kernel: String,
    /// The mutant that it failed on; none for the module as it was.
    pub mutant: Option<String>,
    /// The case that it was shrunk from.
    pub case: String,
    /// The seed of that cell.
    pub seed: u64,
    /// Classes of the blocks that were wrong.
    pub classes: BTreeSet<Class>,
    /// How often it failed when it was written,
    pub failed: u32,
    /// of so many times.
    pub of: u32,
    /// How often a matrix runs it: what fails now and then is run several times.
    pub times: u32,
    /// Size of the volume.
    pub volume_sectors: u64,
    /// What is done.
    pub steps: Vec<Step>,
}

impl Regression {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path)
            .with_context(|| format!("cannot read the regression {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let regression: Self = toml::from_str(text).context("this is no regression")?;
        if regression.version != VERSION {
            bail!(
                "version {} of the format; this program reads version {VERSION}",
                regression.version
            );
        }
        if regression.times == 0 {
            bail!("`times` is 0, so that it would never be run");
        }
        regression.script()?;
        Ok(regression)
    }

    /// The file.
    pub fn to_text(&self) -> Result<String> {
        let fields = toml::to_string_pretty(self).context("the regression does not fit TOML")?;
        Ok(format!(
            "# What failed once, shrunk by `cargo xtask shrink`; `cargo xtask replay` runs it alone.\n{fields}"
        ))
    }

    /// What is done.
    pub fn script(&self) -> Result<Script> {
        Ok(Script::new(self.volume_sectors, self.steps.clone())?)
    }

    /// The same for the harness, so many times.
    pub fn plan(&self, name: &str, times: u32) -> Result<ScriptRunPlan> {
        Ok(ScriptRunPlan {
            name: name.to_owned(),
            script: self.script()?,
            times,
        })
    }
}

/// Name of a regression: that of its file.
pub fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// All regressions of the repository, by name.
pub fn load_all(root: &Path) -> Result<Vec<(String, Regression)>> {
    let folder = root.join(FOLDER);
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot list the regressions in {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == EXTENSION));
    paths.sort();
    paths
        .iter()
        .map(|path| Ok((name_of(path), Regression::load(path)?)))
        .collect()
}

/// What a matrix runs of them.
pub fn plans(root: &Path) -> Result<Vec<ScriptRunPlan>> {
    let all = load_all(root)?;
    let plan = |(name, regression): &(String, Regression)| regression.plan(name, regression.times);
    all.iter().map(plan).collect()
}

/// The file of a regression with a name.
pub fn path_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants;

    /// Shrinking is worth its name up to so many steps.
    const MAX_STEPS: usize = 20;

    fn example() -> Regression {
        Regression {
            version: VERSION,
            kernel: "k".into(),
            mutant: Some("m".into()),
            case: "raw-writers".into(),
            seed: 7,
            classes: [Class::Future, Class::MissedChange].into(),
            failed: 19,
            of: 20,
            times: 2,
            volume_sectors: 2053,
            steps: ["snapshot", "a write 0+8"]
                .map(|line| line.parse().expect("a step"))
                .into(),
        }
    }

    #[test]
    fn a_file_is_read_back() {
        let text = example().to_text().expect("it fits");
        insta::assert_snapshot!(text);
        assert_eq!(Regression::parse(&text).expect("its own text"), example());
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let text = example().to_text().expect("it fits");
        for (from, to, said) in [
            ("version = 1", "version = 2", "version 2"),
            ("times = 2", "times = 0", "never be run"),
            ("times = 2", "time = 2", "unknown field"),
            ("a write 0+8", "a write 2050+8", "ends behind the volume"),
            ("a write 0+8", "a rite 0+8", "is no step"),
            ("\"snapshot\"", "\"track\"", "does not follow"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Regression::parse(&text.replace(from, to)).expect_err(said);
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }

    /// Goal: every file of the repository can be run, is short, and is of a mutant that there is.
    #[test]
    fn the_regressions_of_the_repository_are_sound() {
        let root = crate::repository();
        let mutants = mutants::load(&root).expect("the list is in the repository");
        let all = load_all(&root).expect("the files are in the repository");
        assert!(!all.is_empty());
        for (name, regression) in &all {
            assert!(regression.steps.len() <= MAX_STEPS, "{name} is long");
            assert!(!regression.classes.is_empty(), "{name} names no class");
            if let Some(mutant) = &regression.mutant {
                assert!(mutants.iter().any(|known| known.name == *mutant), "{name}");
            }
        }
        ScriptRunPlan::check(&plans(&root).expect("they are scripts"))
            .expect("one boot does them all");
    }
}
