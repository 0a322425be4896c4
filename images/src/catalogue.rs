//! The catalogue of kernels (`images/catalogue.toml`): what there is, where it comes from, what builds for it.
//!
//! The file holds six lists and one emulator. An `[[archive]]` is a Debian-style package archive; its address is not in the
//! catalogue but comes from the host's own apt sources. A `[[build_root]]` is a distribution's base system with
//! one compiler; kernels share it. A `[[series]]` is one series of kernels in one suite and yields a kernel per
//! flavour, by a pattern of the release (`uname -r`) among whose packages the newest is taken. A `[[compiled]]`
//! kernel is compiled here from a package of its sources. A `[[supplied]]` kernel is of another distribution, and takes
//! part where somebody has put its packages into a folder. The
//! `[emulator]` is a QEMU in a root of its own. A `[[fresh_host]]` is a distribution that the tests themselves run on, with what is
//! there before anything is installed.

use std::path::{Path, PathBuf};

use glob::Pattern;

pub use self::spec::{
    Arch, Archive, BuildRoot, Emulator, FreshHost, KernelSource, KernelSpec, PackageNames,
    SuppliedPackages, Tier,
};

use self::file::{File, Problem};

mod file;
mod spec;

/// The version of the catalogue's format that this crate reads.
const FORMAT: u32 = 2;

/// Names that an error lists when a glob selects nothing.
const NAMES_SHOWN: usize = 60;

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
    /// What cells are recorded with where the host's QEMU cannot.
    pub emulator: Emulator,
    /// What `fresh` tries the README on.
    pub fresh_hosts: Vec<FreshHost>,
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
        let problem = |(what, name, problem): Problem| CatalogueError::Entry {
            path: path.to_owned(),
            what,
            name,
            problem,
        };
        if file.version != FORMAT {
            return Err(CatalogueError::Format {
                path: path.to_owned(),
                found: file.version,
            });
        }
        let kernels = file.kernels().map_err(problem)?;
        let emulator = file.emulator().map_err(problem)?;
        let fresh_hosts = file.fresh_hosts().map_err(problem)?;
        Ok(Self {
            kernels,
            emulator,
            fresh_hosts,
        })
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

    /// Goal: the shipped catalogue is sound and holds the kernels that the command line promises: five on every run,
    /// each flavour of what is old and of what is new every day.
    #[test]
    fn shipped_catalogue_is_sound() {
        let catalogue = parse(REAL).unwrap();
        let of = |tier: Tier| -> Vec<_> {
            let kernels = catalogue.kernels.iter();
            names(
                &kernels
                    .filter(|kernel| kernel.tiers.contains(&tier))
                    .collect::<Vec<_>>(),
            )
        };
        insta::assert_debug_snapshot!(of(Tier::Quick), @r#"
        [
            "bullseye-5.10-cloud",
            "bookworm-6.1-cloud",
            "trixie-6.12-cloud",
            "trixie-backports-7.2-cloud",
            "trixie-backports-7.3-cloud",
        ]
        "#);
        insta::assert_debug_snapshot!(of(Tier::Daily));
        insta::assert_debug_snapshot!(of(Tier::Full));
        assert_eq!(of(Tier::Full).len(), catalogue.kernels.len());
    }

    /// Goal: the pattern of each flavour takes its own releases and no other's. Method: releases as the archive has them.
    #[test]
    fn patterns_tell_flavours_apart() {
        let releases = [
            "5.10.0-32",
            "5.10.0-43",
            "6.1.0-50",
            "6.1.0-0.deb11.52",
            "6.12.115+deb13.1",
            "6.12.95+deb12",
            "6.16.12+deb13",
            "6.17.13+deb13",
            "6.18.15+deb13",
            "6.19.14+deb13",
            "7.0.13+deb13",
            "7.1.13+deb13",
            "7.2.13+deb14",
            "7.3.4+deb13",
            "7.3",
        ];
        for kernel in parse(REAL).unwrap().kernels {
            let KernelSource::Packages(names) = &kernel.source else {
                continue;
            };
            let pattern = Pattern::new(&names.release).unwrap();
            let mut own = 0;
            for (flavour, suffix) in [("cloud", "-cloud"), ("generic", ""), ("rt", "-rt")] {
                for release in releases {
                    let matches = pattern.matches(&format!("{release}{suffix}-amd64"));
                    assert!(
                        !matches || flavour == kernel.flavour,
                        "{} takes {release}{suffix}",
                        kernel.name
                    );
                    assert!(
                        !matches || release.starts_with(&kernel.series),
                        "{} takes {release}",
                        kernel.name
                    );
                    own += u32::from(matches);
                }
            }
            assert!(own > 0, "{} matches nothing", kernel.name);
            // A package without a release of its own stands for the newest one.
            assert!(
                kernel.suite == "experimental"
                    || !pattern.matches(&format!("{}-cloud-amd64", kernel.series))
            );
        }
    }

    /// Goal: globs select in catalogue order, once each. Method: overlapping globs in reverse order.
    #[test]
    fn globs_select_once_in_order() {
        let catalogue = parse(REAL).unwrap();
        let selected = catalogue
            .select(&[
                "*7.3-cloud",
                "trixie-backports-7.[23]-cloud",
                "trixie-6.12-*",
            ])
            .unwrap();
        assert_eq!(
            names(&selected),
            [
                "trixie-6.12-cloud",
                "trixie-6.12-generic",
                "trixie-6.12-rt",
                "trixie-backports-7.2-cloud",
                "trixie-backports-7.3-cloud",
                "experimental-7.3-cloud",
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
            broken("version = 2", "version = 9"),
            broken(
                "build_root = \"bookworm-gcc-12\"",
                "build_root = \"bookworm-gcc-13\"",
            ),
            broken("10\"\narchive = \"debian\"", "10\"\narchive = \"debain\""),
            broken(
                "qemu\"\narchive = \"debian\"",
                "qemu\"\narchive = \"debain\"",
            ),
            broken("\"trixie-qemu\"", "\"trixie-gcc-14\""),
            broken(
                "suite = \"trixie-security\"\nseries",
                "suite = \"trixie\"\nseries",
            ),
            broken("name = \"debug-6.12\"", "name = \"../escape\""),
            broken("release = \"6.1.*-cloud-amd64\"", "release = \"6.1.[\""),
            broken(
                "flavours.cloud = {",
                "image = \"linux\"\nflavours.cloud = {",
            ),
            broken(
                "tier = \"quick\" }",
                "tier = \"quick\", unsupported = \" \" }",
            ),
            broken("config/debug.config", "../debug.config"),
            broken("slowdown = 6", "slowdown = 60"),
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
        let text = REAL.replacen("slowdown =", "slow_down =", 1);
        let message = parse(&text).unwrap_err().to_string();
        assert!(message.contains("unknown field `slow_down`"), "{message}");
        assert!(message.contains("line "), "{message}");
    }
}
