//! Chooses the packages of a kernel from a suite's index. Pure: an index in, packages out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cowbird_packages::deb822::{Alternative, Dependency, Index, Package};
use glob::Pattern;

use crate::catalogue::{KernelSource, KernelSpec, PackageNames};

/// What the name of every package that makes up a kernel begins with. Their other dependencies (libraries,
/// compilers, initramfs tools) come from the build root or are not needed to boot.
pub const PREFIX: &str = "linux-";

/// Packages with the prefix that hold only maintainer tools; a suite may satisfy them from another suite.
const NOT_NEEDED: [&str; 1] = ["linux-base"];

/// Why a suite does not yield the kernel.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    /// No image package matches.
    #[error("{suite} has no package `{image}` whose release matches `{release}`")]
    NoMatch {
        /// The suite.
        suite: String,
        /// The name with its placeholder.
        image: String,
        /// The pattern of the release.
        release: String,
    },
    /// A package that should be there is not.
    #[error("{suite} has no package `{package}`, which {wanted_by} needs")]
    Unsatisfied {
        /// The suite.
        suite: String,
        /// The package.
        package: String,
        /// What needs it.
        wanted_by: String,
    },
    /// No archive has it.
    #[error("the packages of {kernel} are supplied by hand")]
    Supplied {
        /// The kernel.
        kernel: String,
    },
    /// The build root has another compiler than the one that the headers ask for.
    #[error(
        "its headers need {needed}, but build root `{root}` has {has}: correct images/catalogue.toml"
    )]
    Compiler {
        /// Compiler packages that the headers depend on.
        needed: String,
        /// The build root.
        root: String,
        /// The compiler that it has.
        has: String,
    },
}

/// The packages of one kernel.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// The kernel's release (`uname -r`).
    pub release: String,
    /// The image package, or that of the sources, whose version is the kernel's package version.
    pub image: &'a Package,
    /// Image, headers and every package of the kernel that these depend on, by name.
    pub packages: Vec<&'a Package>,
}

/// Chooses the newest kernel that the catalogue's entry matches, with all of its packages.
pub fn select<'a>(spec: &KernelSpec, index: &'a Index) -> Result<Selection<'a>, SelectError> {
    match &spec.source {
        KernelSource::Packages(names) => select_packages(spec, names, index),
        KernelSource::Sources { package, .. } => select_sources(spec, package, index),
        KernelSource::Supplied(_) => Err(SelectError::Supplied {
            kernel: spec.name.clone(),
        }),
    }
}

/// The newest package of the sources. The kernel's release is theirs, with the flavour behind it.
fn select_sources<'a>(
    spec: &KernelSpec,
    name: &str,
    index: &'a Index,
) -> Result<Selection<'a>, SelectError> {
    let sources = index
        .versions(name)
        .iter()
        .max_by(|a, b| a.version.cmp(&b.version))
        .ok_or_else(|| SelectError::Unsatisfied {
            suite: spec.suite.clone(),
            package: name.to_owned(),
            wanted_by: format!("compiling {}", spec.name),
        })?;
    Ok(Selection {
        release: format!("{}-{}", sources.version.upstream(), spec.flavour),
        image: sources,
        packages: vec![sources],
    })
}

fn select_packages<'a>(
    spec: &KernelSpec,
    names: &PackageNames,
    index: &'a Index,
) -> Result<Selection<'a>, SelectError> {
    let (release, image) = newest(names, index).ok_or_else(|| SelectError::NoMatch {
        suite: spec.suite.clone(),
        image: names.image.clone(),
        release: names.release.clone(),
    })?;
    let headers_name = names.headers.replace("{release}", &release);
    let headers = index
        .versions(&headers_name)
        .iter()
        .max_by(|a, b| a.version.cmp(&b.version))
        .ok_or_else(|| SelectError::Unsatisfied {
            suite: spec.suite.clone(),
            package: headers_name,
            wanted_by: format!("building modules for {release}"),
        })?;
    let packages = closure(spec, index, [image, headers])?;
    check_compiler(spec, &packages)?;
    Ok(Selection {
        release,
        image,
        packages,
    })
}

/// The release of the newest matching image, by package version.
fn newest<'a>(names: &PackageNames, index: &'a Index) -> Option<(String, &'a Package)> {
    let (before, after) = names.image.split_once("{release}")?;
    // The catalogue has checked the pattern.
    let pattern = Pattern::new(&names.release).ok()?;
    index
        .iter()
        .filter_map(|package| {
            let release = package.name.strip_prefix(before)?.strip_suffix(after)?;
            pattern
                .matches(release)
                .then(|| (release.to_owned(), package))
        })
        .max_by(|a, b| a.1.version.cmp(&b.1.version).then_with(|| a.0.cmp(&b.0)))
}

/// Follows the dependencies on other packages of the kernel.
fn closure<'a>(
    spec: &KernelSpec,
    index: &'a Index,
    roots: [&'a Package; 2],
) -> Result<Vec<&'a Package>, SelectError> {
    let mut chosen: BTreeMap<&str, &Package> = BTreeMap::new();
    let mut queue = VecDeque::from(roots);
    while let Some(package) = queue.pop_front() {
        if chosen.insert(&package.name, package).is_some() {
            continue;
        }
        for dependency in &package.depends {
            if let Some(found) = satisfy(spec, index, package, dependency)? {
                queue.push_back(found);
            }
        }
    }
    Ok(chosen.into_values().collect())
}

/// The package that satisfies a dependency; `None` when the build root does, or nothing needs to.
fn satisfy<'a>(
    spec: &KernelSpec,
    index: &'a Index,
    package: &Package,
    dependency: &Dependency,
) -> Result<Option<&'a Package>, SelectError> {
    let ours = |alternative: &&Alternative| {
        alternative.package.starts_with(PREFIX)
            && !NOT_NEEDED.contains(&alternative.package.as_str())
    };
    for alternative in dependency.0.iter().filter(ours) {
        let best = index
            .versions(&alternative.package)
            .iter()
            .filter(|candidate| alternative.accepts(&candidate.version))
            .max_by(|a, b| a.version.cmp(&b.version));
        if best.is_some() {
            return Ok(best);
        }
    }
    match dependency.0.first() {
        Some(first) if dependency.0.iter().all(|alternative| ours(&alternative)) => {
            Err(SelectError::Unsatisfied {
                suite: spec.suite.clone(),
                package: first.package.clone(),
                wanted_by: format!("{} {}", package.name, package.version),
            })
        }
        _ => Ok(None),
    }
}

fn check_compiler(spec: &KernelSpec, packages: &[&Package]) -> Result<(), SelectError> {
    let needed: BTreeSet<String> = packages
        .iter()
        .flat_map(|package| &package.depends)
        .flat_map(|dependency| &dependency.0)
        .filter_map(|alternative| compiler(&alternative.package))
        .collect();
    if needed.is_empty() || needed.contains(&spec.build_root.compiler) {
        return Ok(());
    }
    Err(SelectError::Compiler {
        needed: needed.into_iter().collect::<Vec<_>>().join(" or "),
        root: spec.build_root.name.clone(),
        has: spec.build_root.compiler.clone(),
    })
}

/// `gcc-14` for `gcc-14`, `gcc-14-for-host` and `gcc-14-x86-64-linux-gnu`.
fn compiler(package: &str) -> Option<String> {
    let number = package.strip_prefix("gcc-")?.split('-').next()?;
    (!number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
        .then(|| format!("gcc-{number}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalogue::Catalogue;

    fn spec(name: &str) -> KernelSpec {
        let text = include_str!("../catalogue.toml");
        let catalogue = Catalogue::parse(text, Path::new("catalogue.toml")).unwrap();
        catalogue.select(&[name]).unwrap()[0].clone()
    }

    fn index(packages: &[(&str, &str, &str)]) -> Index {
        let text: Vec<_> = packages
            .iter()
            .map(|(name, version, depends)| {
                let depends =
                    if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
                let digest = "00".repeat(32);
                format!(
                    "Package: {name}\nVersion: {version}\nFilename: f\nSize: 1\nSHA256: {digest}\n{depends}"
                )
            })
            .collect();
        Index::parse(&text.join("\n"), PREFIX).unwrap()
    }

    fn names(selection: &Selection<'_>) -> Vec<String> {
        selection
            .packages
            .iter()
            .map(|p| format!("{} {}", p.name, p.version))
            .collect()
    }

    /// Goal: of many kernels the newest of the series and flavour is taken, with its split packages.
    /// Method: an index as trixie-backports has it; 7.2.9 sorts after 7.2.12 as text, and neighbours differ in
    /// series, flavour or suffix.
    #[test]
    fn newest_split_kernel_is_chosen() {
        let mut packages = Vec::new();
        let cells: Vec<[String; 3]> = ["7.2.9", "7.2.12", "7.3.4"]
            .iter()
            .flat_map(|v| {
                let exact = format!("(= {v}-1~bpo13+1)");
                let (r, d) = (format!("{v}+deb13-cloud-amd64"), format!("{v}-1~bpo13+1"));
                [
                    [format!("linux-image-{r}"), d.clone(), format!("dracut | linux-initramfs-tool, linux-base-{r} {exact}, linux-binary-{r} {exact}, linux-modules-{r} {exact}")],
                    [format!("linux-image-{r}-unsigned"), d.clone(), String::new()],
                    [format!("linux-image-{v}+deb13-rt-amd64"), d.clone(), String::new()],
                    [format!("linux-base-{r}"), d.clone(), String::new()],
                    [format!("linux-binary-{r}"), d.clone(), format!("linux-base-{r} {exact}")],
                    [format!("linux-modules-{r}"), d.clone(), "kmod".into()],
                    [format!("linux-headers-{r}"), d.clone(), format!("gcc-14-for-host, linux-base (>= 4.12~), linux-kbuild-{v}+deb13")],
                    [format!("linux-kbuild-{v}+deb13"), d, "pahole".into()],
                ]
            })
            .collect();
        for [name, version, depends] in &cells {
            packages.push((name.as_str(), version.as_str(), depends.as_str()));
        }
        let index = index(&packages);
        let selection = select(&spec("trixie-backports-7.2-cloud"), &index).unwrap();
        assert_eq!(selection.release, "7.2.12+deb13-cloud-amd64");
        insta::assert_snapshot!(names(&selection).join("\n"));
        let selection = select(&spec("trixie-backports-7.3-cloud"), &index).unwrap();
        assert_eq!(selection.image.version.as_str(), "7.3.4-1~bpo13+1");
    }

    /// Goal: what a suite lacks is named. Method: no match; no headers; a dependency of another version only;
    /// headers that ask for another compiler.
    #[test]
    fn lacks_are_named() {
        let spec = spec("bullseye-5.10-cloud");
        let image = (
            "linux-image-5.10.0-32-cloud-amd64",
            "5.10.223-1",
            "kmod, linux-base (>= 4.3~)",
        );
        let headers = "linux-headers-5.10.0-32-cloud-amd64";
        let fail = |packages: &[_]| select(&spec, &index(packages)).unwrap_err().to_string();
        let messages = [
            fail(&[]),
            fail(&[image]),
            fail(&[
                image,
                (headers, "5.10.223-1", "linux-kbuild-5.10 (>= 5.10.223-1)"),
                ("linux-kbuild-5.10", "5.10.218-1", ""),
            ]),
            fail(&[
                image,
                (headers, "5.10.223-1", "linux-compiler-gcc-9-x86"),
                ("linux-compiler-gcc-9-x86", "1", "gcc-9"),
            ]),
        ];
        insta::assert_snapshot!(messages.join("\n"));
    }

    /// Goal: an alternative that another package of the kernel satisfies is followed, the first that exists.
    /// Method: signed and unsigned image as alternatives, where only the second one is there.
    #[test]
    fn alternatives_are_tried_in_order() {
        let spec = spec("bullseye-5.10-cloud");
        let index = index(&[
            (
                "linux-image-5.10.1-cloud-amd64",
                "5.10.1-1",
                "linux-a | linux-b",
            ),
            ("linux-b", "1", ""),
            (
                "linux-headers-5.10.1-cloud-amd64",
                "5.10.1-1",
                "linux-image-5.10.1-cloud-amd64 (= 5.10.1-1)",
            ),
        ]);
        let selection = select(&spec, &index).unwrap();
        assert_eq!(
            names(&selection),
            [
                "linux-b 1",
                "linux-headers-5.10.1-cloud-amd64 5.10.1-1",
                "linux-image-5.10.1-cloud-amd64 5.10.1-1"
            ]
        );
    }
}
