//! The catalogue of kernels (`images/catalogue.toml`): what there is, where it comes from, what builds for it.
//!
//! The file holds three lists. An `[[archive]]` is a Debian-style package archive; its address is not in the
//! catalogue but comes from the host's own apt sources. A `[[build_root]]` is a distribution's base system with
//! one compiler; kernels share it. A `[[kernel]]` names the suite, and by a pattern of the release (`uname -r`)
//! the packages among which the newest is taken.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use glob::Pattern;
use serde::{Deserialize, Serialize};

/// The version of the catalogue's format that this crate reads.
const FORMAT: u32 = 1;

/// Names that an error lists when a glob selects nothing.
const NAMES_SHOWN: usize = 60;

/// When a kernel takes part in the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Every run of a developer.
    Quick,
    /// Once a day.
    Daily,
    /// Before a release.
    Full,
}

/// A processor architecture, by its Debian name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// The architecture that this program runs on, if it is one of the catalogue's.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// A package archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Name that kernels and build roots refer to.
    pub name: String,
    /// The distribution that it belongs to.
    pub distro: String,
    /// Components read.
    pub components: Vec<String>,
    /// Keyring on the host that the Release signature is verified with.
    pub keyring: PathBuf,
    /// Package of the host that brings the keyring.
    pub keyring_package: String,
    /// `Label` of the archive's Release files, by which the mirror is found among the host's apt sources.
    pub host_label: String,
    /// Last part of the mirror's address, used when the host has sources but no downloaded Release files.
    pub host_path: String,
}

/// A base system with one compiler in which modules are built.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildRoot {
    /// Name that kernels refer to.
    pub name: String,
    /// The archive that it is made from.
    pub archive: String,
    /// The suite that it is made from.
    pub suite: String,
    /// Architecture of the programs in it.
    pub arch: Arch,
    /// Compiler package, which is also the compiler's command, as `gcc-12`.
    pub compiler: String,
    /// Other packages: make, and what the kernel's own build tools link with.
    pub packages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelEntry {
    name: String,
    archive: String,
    suite: String,
    series: String,
    flavour: String,
    arch: Arch,
    release: String,
    #[serde(default = "default_image")]
    image: String,
    #[serde(default = "default_headers")]
    headers: String,
    build_root: String,
    tiers: BTreeSet<Tier>,
}

fn default_image() -> String {
    "linux-image-{release}".to_owned()
}

fn default_headers() -> String {
    "linux-headers-{release}".to_owned()
}

/// One kernel of the catalogue, with its archive and build root looked up.
#[derive(Clone, Debug)]
pub struct KernelSpec {
    /// Name in the catalogue and in every report, as `bullseye-5.10-cloud`.
    pub name: String,
    /// Distribution, as `debian`.
    pub distro: String,
    /// Suite of the archive that carries the packages.
    pub suite: String,
    /// Kernel series, as `5.10`.
    pub series: String,
    /// Kernel flavour, as `cloud`.
    pub flavour: String,
    /// Architecture of the kernel.
    pub arch: Arch,
    /// Glob over the release (`uname -r`); the newest package that matches is taken.
    pub release: String,
    /// Name of the image package; `{release}` stands for the release.
    pub image: String,
    /// Name of the headers package; `{release}` stands for the release.
    pub headers: String,
    /// Where the packages come from.
    pub archive: Archive,
    /// What modules for it are built in.
    pub build_root: BuildRoot,
    /// The tiers that it takes part in.
    pub tiers: BTreeSet<Tier>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    archive: Vec<Archive>,
    #[serde(default)]
    build_root: Vec<BuildRoot>,
    #[serde(default)]
    kernel: Vec<KernelEntry>,
}

/// What is wrong with the catalogue or with a selection from it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("cannot read the kernel catalogue {}: {reason}", path.display())]
    Read {
        /// The catalogue.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is not TOML of the catalogue's shape.
    #[error("kernel catalogue {}: {reason}", path.display())]
    Syntax {
        /// The catalogue.
        path: PathBuf,
        /// Line, column and reason.
        reason: Box<toml::de::Error>,
    },
    /// The file is of another format version.
    #[error("kernel catalogue {} is of version {found}; this program reads version {FORMAT}", path.display())]
    Format {
        /// The catalogue.
        path: PathBuf,
        /// The version in the file.
        found: u32,
    },
    /// An entry contradicts itself or another one.
    #[error("kernel catalogue {}: {what} `{name}`: {problem}", path.display())]
    Entry {
        /// The catalogue.
        path: PathBuf,
        /// Kind of the entry.
        what: &'static str,
        /// Name of the entry.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A glob given by the user is malformed.
    #[error("`{glob}` is not a valid pattern: {reason}")]
    BadGlob {
        /// The pattern.
        glob: String,
        /// The reason.
        reason: glob::PatternError,
    },
    /// A glob given by the user matches no kernel.
    #[error("no kernel matches `{glob}`; the catalogue has: {known}")]
    NoMatch {
        /// The pattern.
        glob: String,
        /// The names that there are.
        known: String,
    },
}

/// The kernels that Cowbird is tested on, in the order of the file.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Every kernel.
    pub kernels: Vec<KernelSpec>,
}

impl Catalogue {
    /// Where the catalogue lies below the root of the repository.
    pub const PATH_IN_REPO: &str = "images/catalogue.toml";

    /// Reads and checks a catalogue.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, CatalogueError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|reason| CatalogueError::Read {
            path: path.to_owned(),
            reason,
        })?;
        Self::parse(&text, path)
    }

    /// Reads and checks the text of a catalogue; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CatalogueError> {
        let file: File = toml::from_str(text).map_err(|reason| CatalogueError::Syntax {
            path: path.to_owned(),
            reason: Box::new(reason),
        })?;
        if file.version != FORMAT {
            return Err(CatalogueError::Format {
                path: path.to_owned(),
                found: file.version,
            });
        }
        let problem = |(what, name, problem): Problem| CatalogueError::Entry {
            path: path.to_owned(),
            what,
            name,
            problem,
        };
        check_names(&file).map_err(problem)?;
        let kernels = file
            .kernel
            .iter()
            .map(|entry| resolve(entry, &file))
            .collect::<Result<_, _>>()
            .map_err(problem)?;
        Ok(Self { kernels })
    }

    /// The kernels that any of the globs matches, each once and in the catalogue's order; without globs, all.
    /// A glob that matches nothing is an error, because it is far more often a typing error than a wish.
    pub fn select<S: AsRef<str>>(&self, globs: &[S]) -> Result<Vec<&KernelSpec>, CatalogueError> {
        let mut patterns = Vec::with_capacity(globs.len());
        for glob in globs.iter().map(AsRef::as_ref) {
            let pattern = Pattern::new(glob).map_err(|reason| CatalogueError::BadGlob {
                glob: glob.to_owned(),
                reason,
            })?;
            if !self
                .kernels
                .iter()
                .any(|kernel| pattern.matches(&kernel.name))
            {
                return Err(CatalogueError::NoMatch {
                    glob: glob.to_owned(),
                    known: self.names(),
                });
            }
            patterns.push(pattern);
        }
        let wanted = |kernel: &&KernelSpec| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&kernel.name))
        };
        Ok(self.kernels.iter().filter(wanted).collect())
    }

    fn names(&self) -> String {
        let names: Vec<_> = self
            .kernels
            .iter()
            .map(|kernel| kernel.name.as_str())
            .collect();
        match names.split_at_checked(NAMES_SHOWN) {
            Some((shown, rest)) if !rest.is_empty() => {
                format!("{} and {} more", shown.join(", "), rest.len())
            }
            _ => names.join(", "),
        }
    }
}

/// Kind, name and fault of an entry.
type Problem = (&'static str, String, String);

fn check_names(file: &File) -> Result<(), Problem> {
    check_list("archive", file.archive.iter().map(|archive| &archive.name))?;
    check_list("build root", file.build_root.iter().map(|root| &root.name))?;
    check_list("kernel", file.kernel.iter().map(|kernel| &kernel.name))?;
    for root in &file.build_root {
        if !file
            .archive
            .iter()
            .any(|archive| archive.name == root.archive)
        {
            let problem = format!("no archive is called `{}`", root.archive);
            return Err(("build root", root.name.clone(), problem));
        }
    }
    Ok(())
}

fn check_list<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for name in names {
        // Names become file names in the cache and parts of a command line.
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(legal) {
            let problem = "a name holds a-z, 0-9, `-` and `.`, and begins with a letter or digit";
            return Err((what, name.clone(), problem.to_owned()));
        }
        if !seen.insert(name) {
            return Err((what, name.clone(), "the name is used twice".to_owned()));
        }
    }
    Ok(())
}

fn resolve(entry: &KernelEntry, file: &File) -> Result<KernelSpec, Problem> {
    let fault = |problem: String| ("kernel", entry.name.clone(), problem);
    let archive = file
        .archive
        .iter()
        .find(|archive| archive.name == entry.archive)
        .ok_or_else(|| fault(format!("no archive is called `{}`", entry.archive)))?;
    let build_root = file
        .build_root
        .iter()
        .find(|root| root.name == entry.build_root)
        .ok_or_else(|| fault(format!("no build root is called `{}`", entry.build_root)))?;
    if build_root.arch != entry.arch {
        return Err(fault(format!(
            "it is for {}, its build root `{}` for {}",
            entry.arch, build_root.name, build_root.arch
        )));
    }
    if entry.tiers.is_empty() {
        return Err(fault(
            "no tier is named, so that no run would ever boot it".to_owned(),
        ));
    }
    Pattern::new(&entry.release)
        .map_err(|error| fault(format!("release `{}`: {error}", entry.release)))?;
    for template in [&entry.image, &entry.headers] {
        if template.matches("{release}").count() != 1 {
            return Err(fault(format!(
                "package name `{template}` must hold `{{release}}` once"
            )));
        }
    }
    Ok(KernelSpec {
        name: entry.name.clone(),
        distro: archive.distro.clone(),
        suite: entry.suite.clone(),
        series: entry.series.clone(),
        flavour: entry.flavour.clone(),
        arch: entry.arch,
        release: entry.release.clone(),
        image: entry.image.clone(),
        headers: entry.headers.clone(),
        archive: archive.clone(),
        build_root: build_root.clone(),
        tiers: entry.tiers.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = include_str!("../catalogue.toml");

    fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        Catalogue::parse(text, Path::new("catalogue.toml"))
    }

    fn names(kernels: &[&KernelSpec]) -> Vec<String> {
        kernels.iter().map(|kernel| kernel.name.clone()).collect()
    }

    /// Goal: the shipped catalogue is sound and holds the kernels that the command line promises.
    #[test]
    fn shipped_catalogue_is_sound() {
        let catalogue = parse(REAL).unwrap();
        let all = catalogue.select::<&str>(&[]).unwrap();
        insta::assert_debug_snapshot!(names(&all), @r#"
        [
            "bullseye-5.10-cloud",
            "bookworm-6.1-cloud",
            "trixie-6.12-cloud",
            "trixie-backports-7.2-cloud",
            "trixie-backports-7.3-cloud",
        ]
        "#);
        assert!(all.iter().all(|kernel| kernel.tiers.contains(&Tier::Quick)));
    }

    /// Goal: globs select in catalogue order, once each. Method: overlapping globs in reverse order.
    #[test]
    fn globs_select_once_in_order() {
        let catalogue = parse(REAL).unwrap();
        let selected = catalogue.select(&["*7.3*", "trixie-*"]).unwrap();
        assert_eq!(
            names(&selected),
            [
                "trixie-6.12-cloud",
                "trixie-backports-7.2-cloud",
                "trixie-backports-7.3-cloud"
            ]
        );
    }

    /// Goal: every fault of a catalogue or a selection is one line that names the entry and the fault.
    /// Method: the shipped catalogue with one thing broken at a time.
    #[test]
    fn faults_are_named() {
        let broken = |from: &str, to: &str| {
            assert!(REAL.contains(from), "nothing to break: {from}");
            parse(&REAL.replacen(from, to, 1)).unwrap_err().to_string()
        };
        let messages = [
            broken("version = 1", "version = 9"),
            broken(
                "build_root = \"bookworm-gcc-12\"",
                "build_root = \"bookworm-gcc-13\"",
            ),
            broken("archive = \"debian\"", "archive = \"debain\""),
            broken(
                "name = \"bookworm-6.1-cloud\"",
                "name = \"bullseye-5.10-cloud\"",
            ),
            broken("name = \"bookworm-6.1-cloud\"", "name = \"../escape\""),
            broken("tiers = [\"quick\", \"daily\", \"full\"]", "tiers = []"),
            broken("release = \"6.1.*-cloud-amd64\"", "release = \"6.1.[\""),
            broken(
                "release = \"6.1.*-cloud-amd64\"",
                "release = \"6.1.*\"\nimage = \"linux\"",
            ),
            parse(REAL)
                .unwrap()
                .select(&["nothing-*"])
                .unwrap_err()
                .to_string(),
            parse(REAL)
                .unwrap()
                .select(&["a["])
                .unwrap_err()
                .to_string(),
        ];
        insta::assert_snapshot!(messages.join("\n"));
    }

    /// Goal: an unknown key is refused with its line, rather than ignored.
    #[test]
    fn unknown_keys_are_refused() {
        let text = REAL.replacen("flavour = \"cloud\"", "flavor = \"cloud\"", 1);
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("unknown field `flavor`"), "{message}");
        assert!(message.contains("line "), "{message}");
    }
}
