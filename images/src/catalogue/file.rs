//! The shape of the catalogue's file, and the kernels that it comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, PathBuf};

use glob::Pattern;
use serde::Deserialize;

use super::{
    Arch, Archive, BuildRoot, Emulator, FreshHost, KernelSource, KernelSpec, PackageNames,
    SuppliedPackages, Tier,
};

/// Kind, name and fault of an entry.
pub(super) type Problem = (&'static str, String, String);

/// How many times longer than usual a kernel may be allowed to take.
const SLOWDOWN_MAX: u32 = 20;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) version: u32,
    emulator: EmulatorEntry,
    #[serde(default)]
    archive: Vec<Archive>,
    #[serde(default)]
    fresh_host: Vec<FreshHostEntry>,
    #[serde(default)]
    build_root: Vec<BuildRoot>,
    #[serde(default)]
    series: Vec<Series>,
    #[serde(default)]
    compiled: Vec<Compiled>,
    #[serde(default)]
    supplied: Vec<Supplied>,
}

/// A QEMU in a root of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmulatorEntry {
    name: String,
    archive: String,
    suite: String,
    arch: Arch,
    package: String,
}

/// A distribution that the tests run on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FreshHostEntry {
    name: String,
    archive: String,
    suite: String,
    arch: Arch,
    packages: Vec<String>,
}

/// One series of kernels in one suite.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Series {
    archive: String,
    suite: String,
    series: String,
    arch: Arch,
    build_root: String,
    #[serde(default = "default_image")]
    image: String,
    #[serde(default = "default_headers")]
    headers: String,
    /// By flavour; a map keeps no order, so the file's order within a series is that of [`FLAVOURS`].
    flavours: BTreeMap<String, Flavour>,
}

/// One flavour of a series.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flavour {
    /// Glob over the release.
    release: String,
    /// The tier from which on it takes part.
    tier: Tier,
    unsupported: Option<String>,
}

/// A kernel that is compiled here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compiled {
    name: String,
    archive: String,
    suite: String,
    series: String,
    flavour: String,
    arch: Arch,
    build_root: String,
    sources: String,
    config: PathBuf,
    tier: Tier,
    #[serde(default = "no_slowdown")]
    slowdown: u32,
    unsupported: Option<String>,
}

/// A kernel whose packages somebody supplies.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Supplied {
    name: String,
    distro: String,
    suite: String,
    series: String,
    flavour: String,
    arch: Arch,
    build_root: String,
    release: String,
    packages: Vec<String>,
}

fn default_image() -> String {
    "linux-image-{release}".to_owned()
}

fn default_headers() -> String {
    "linux-headers-{release}".to_owned()
}

fn no_slowdown() -> u32 {
    1
}

/// The usual flavours, in the order of reports; others come after.
const FLAVOURS: [&str; 3] = ["cloud", "generic", "rt"];

impl Series {
    fn flavours(&self) -> Vec<(&String, &Flavour)> {
        let rank = |name: &str| FLAVOURS.iter().position(|known| *known == name);
        let mut flavours: Vec<_> = self.flavours.iter().collect();
        flavours.sort_by_key(|(name, _)| rank(name).unwrap_or(FLAVOURS.len()));
        flavours
    }
}

impl File {
    /// Checks everything and looks up what entries refer to.
    pub(super) fn kernels(&self) -> Result<Vec<KernelSpec>, Problem> {
        check_list("archive", self.archive.iter().map(|archive| &archive.name))?;
        check_list("build root", self.build_root.iter().map(|root| &root.name))?;
        for root in &self.build_root {
            self.archive(&root.archive)
                .map_err(|problem| ("build root", root.name.clone(), problem))?;
        }
        let mut kernels = Vec::new();
        for series in &self.series {
            for (name, flavour) in series.flavours() {
                kernels.push(self.of_series(series, name, flavour)?);
            }
        }
        for compiled in &self.compiled {
            kernels.push(self.of_compiled(compiled)?);
        }
        for supplied in &self.supplied {
            kernels.push(self.of_supplied(supplied)?);
        }
        check_list("kernel", kernels.iter().map(|kernel| &kernel.name))?;
        Ok(kernels)
    }

    /// The emulator with its archive looked up.
    pub(super) fn emulator(&self) -> Result<Emulator, Problem> {
        let entry = &self.emulator;
        let roots = self.build_root.iter().map(|root| &root.name);
        check_list("root", roots.chain([&entry.name]))?;
        let archive = self.archive(&entry.archive);
        Ok(Emulator {
            name: entry.name.clone(),
            archive: archive
                .map_err(|problem| ("emulator", entry.name.clone(), problem))?
                .clone(),
            suite: entry.suite.clone(),
            arch: entry.arch,
            package: entry.package.clone(),
        })
    }

    /// The fresh hosts with their archives looked up.
    pub(super) fn fresh_hosts(&self) -> Result<Vec<FreshHost>, Problem> {
        let roots = self.build_root.iter().map(|root| &root.name);
        let hosts = self.fresh_host.iter().map(|host| &host.name);
        check_list("root", roots.chain([&self.emulator.name]).chain(hosts))?;
        self.fresh_host
            .iter()
            .map(|entry| {
                let fault = |problem| ("fresh host", entry.name.clone(), problem);
                if entry.packages.is_empty() {
                    return Err(fault("it has no packages".to_owned()));
                }
                Ok(FreshHost {
                    name: entry.name.clone(),
                    archive: self.archive(&entry.archive).map_err(fault)?.clone(),
                    suite: entry.suite.clone(),
                    arch: entry.arch,
                    packages: entry.packages.clone(),
                })
            })
            .collect()
    }

    fn of_series(
        &self,
        series: &Series,
        flavour: &str,
        entry: &Flavour,
    ) -> Result<KernelSpec, Problem> {
        let name = format!("{}-{}-{flavour}", series.suite, series.series);
        let fault = |problem: String| ("kernel", name.clone(), problem);
        Pattern::new(&entry.release)
            .map_err(|error| fault(format!("release `{}`: {error}", entry.release)))?;
        for template in [&series.image, &series.headers] {
            if template.matches("{release}").count() != 1 {
                return Err(fault(format!(
                    "package name `{template}` must hold `{{release}}` once"
                )));
            }
        }
        let archive = self.archive(&series.archive).map_err(fault)?;
        let build_root = self.root(&series.build_root, series.arch).map_err(fault)?;
        Ok(KernelSpec {
            distro: archive.distro.clone(),
            suite: series.suite.clone(),
            series: series.series.clone(),
            flavour: flavour.to_owned(),
            arch: series.arch,
            source: KernelSource::Packages(PackageNames {
                release: entry.release.clone(),
                image: series.image.clone(),
                headers: series.headers.clone(),
            }),
            archive: archive.clone(),
            root_archive: self.archive(&build_root.archive).map_err(fault)?.clone(),
            build_root: build_root.clone(),
            tiers: from(entry.tier),
            unsupported: reason(entry.unsupported.as_ref()).map_err(fault)?,
            slowdown: no_slowdown(),
            name,
        })
    }

    fn of_compiled(&self, entry: &Compiled) -> Result<KernelSpec, Problem> {
        let fault = |problem: String| ("kernel", entry.name.clone(), problem);
        let archive = self.archive(&entry.archive).map_err(fault)?;
        let build_root = self.root(&entry.build_root, entry.arch).map_err(fault)?;
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !entry.config.components().all(plain) {
            return Err(fault(format!(
                "`{}` must be a path below the catalogue's folder",
                entry.config.display()
            )));
        }
        if !(1..=SLOWDOWN_MAX).contains(&entry.slowdown) {
            return Err(fault(format!(
                "slowdown must be 1 to {SLOWDOWN_MAX}, not {}",
                entry.slowdown
            )));
        }
        Ok(KernelSpec {
            name: entry.name.clone(),
            distro: archive.distro.clone(),
            suite: entry.suite.clone(),
            series: entry.series.clone(),
            flavour: entry.flavour.clone(),
            arch: entry.arch,
            source: KernelSource::Sources {
                package: entry.sources.clone(),
                config: entry.config.clone(),
            },
            archive: archive.clone(),
            root_archive: self.archive(&build_root.archive).map_err(fault)?.clone(),
            build_root: build_root.clone(),
            tiers: from(entry.tier),
            unsupported: reason(entry.unsupported.as_ref()).map_err(fault)?,
            slowdown: entry.slowdown,
        })
    }

    fn of_supplied(&self, entry: &Supplied) -> Result<KernelSpec, Problem> {
        let fault = |problem: String| ("kernel", entry.name.clone(), problem);
        let build_root = self.root(&entry.build_root, entry.arch).map_err(fault)?;
        let root_archive = self.archive(&build_root.archive).map_err(fault)?;
        if entry.packages.is_empty() {
            return Err(fault("it needs packages".to_owned()));
        }
        for glob in entry.packages.iter().chain([&entry.release]) {
            Pattern::new(glob).map_err(|error| fault(format!("`{glob}`: {error}")))?;
        }
        Ok(KernelSpec {
            name: entry.name.clone(),
            distro: entry.distro.clone(),
            suite: entry.suite.clone(),
            series: entry.series.clone(),
            flavour: entry.flavour.clone(),
            arch: entry.arch,
            source: KernelSource::Supplied(SuppliedPackages {
                release: entry.release.clone(),
                files: entry.packages.clone(),
            }),
            // None has its packages; this one has the compiler.
            archive: root_archive.clone(),
            root_archive: root_archive.clone(),
            build_root: build_root.clone(),
            tiers: from(Tier::Full),
            unsupported: None,
            slowdown: no_slowdown(),
        })
    }

    fn archive(&self, name: &str) -> Result<&Archive, String> {
        let found = self.archive.iter().find(|archive| archive.name == name);
        found.ok_or_else(|| format!("no archive is called `{name}`"))
    }

    fn root(&self, name: &str, arch: Arch) -> Result<&BuildRoot, String> {
        let found = self.build_root.iter().find(|root| root.name == name);
        let root = found.ok_or_else(|| format!("no build root is called `{name}`"))?;
        if root.arch != arch {
            return Err(format!(
                "it is for {arch}, its build root `{name}` for {}",
                root.arch
            ));
        }
        Ok(root)
    }
}

/// A tier and those after it: each includes the ones before it.
fn from(tier: Tier) -> BTreeSet<Tier> {
    let all = [Tier::Quick, Tier::Daily, Tier::Full];
    all.into_iter().filter(|other| *other >= tier).collect()
}

/// Why a kernel is unsupported stands in reports, so it has to say something.
fn reason(text: Option<&String>) -> Result<Option<String>, String> {
    match text {
        Some(text) if text.trim().is_empty() => {
            Err("`unsupported` must give the reason".to_owned())
        }
        text => Ok(text.cloned()),
    }
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
