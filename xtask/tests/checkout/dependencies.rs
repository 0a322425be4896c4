//! What the workspace depends on, as `cargo metadata` tells it without a network, and whether it is used.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::repo::{cargo, files_of_git, root};

/// Dependencies that no source file names, and why a manifest has them: package, dependency, reason.
const NOT_NAMED: &[(&str, &str, &str)] = &[(
    "cowbird-harness",
    "cowbird-adversity",
    "the list of cases names it, which the build script writes",
)];

/// What `cargo metadata` says.
#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) packages: Vec<Package>,
    workspace_members: HashSet<String>,
}

#[derive(Deserialize)]
pub(super) struct Package {
    id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Metadata {
    /// Of the packages that are built on this machine; those for other platforms may never have been downloaded.
    pub(super) fn of_this_platform() -> Self {
        let version = Command::new("rustc").arg("-vV").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .expect("rustc tells its host");
        let output = cargo()
            .args(["metadata", "--format-version", "1", "--offline", "--locked"])
            .args(["--filter-platform", host])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }
}

/// Whether a source text names a crate: as the head of a path, or in a `use` of the crate itself. Comments do not count.
fn names(text: &str, krate: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| {
            line.match_indices(krate).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = &line[at + krate.len()..];
                let used = line[..at].trim_end().ends_with("use");
                !before.is_some_and(is_word)
                    && !line[..at].ends_with("::")
                    && (after.starts_with("::") || (used && after.starts_with([';', ' '])))
            })
        })
}

/// The texts of a package's source files, without those of packages in folders below it.
fn sources(package: &Package, folders: &[&Path], files: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let own = package.manifest_path.parent().unwrap();
    files
        .iter()
        .filter(|file| {
            let folder = folders
                .iter()
                .filter(|folder| file.starts_with(folder))
                .max_by_key(|folder| folder.components().count());
            folder == Some(&own)
        })
        .map(|file| (file.clone(), fs::read_to_string(file).unwrap()))
        .collect()
}

/// Goal: no manifest names a crate that its package does not use, which everybody would download and compile.
/// Method: each dependency of each package of the workspace is named in a source file that may use it: one for building in the
/// build script, one for tests anywhere, any other outside of tests, examples and benchmarks. Not seen: a crate that only
/// `#[cfg(test)]` modules within `src` name, which could be a dependency for tests.
#[test]
fn every_dependency_is_used() {
    let metadata = Metadata::of_this_platform();
    let files: Vec<PathBuf> = files_of_git(&root(), "*.rs")
        .unwrap()
        .iter()
        .map(|file| root().join(file))
        .collect();
    let folders: Vec<&Path> = metadata
        .members()
        .map(|package| package.manifest_path.parent().unwrap())
        .collect();
    let (mut dependencies, mut unused) = (0, Vec::new());
    let mut needed: HashSet<&(&str, &str, &str)> = HashSet::new();
    for package in metadata.members() {
        let sources = sources(package, &folders, &files);
        let build = package
            .targets
            .iter()
            .find(|target| target.kind.contains(&"custom-build".to_owned()))
            .map(|target| &target.src_path);
        for dependency in &package.dependencies {
            dependencies += 1;
            let krate = dependency.rename.as_ref().unwrap_or(&dependency.name);
            let used = sources.iter().any(|(file, text)| {
                let own = file.strip_prefix(package.manifest_path.parent().unwrap());
                let aside = own.is_ok_and(|file| {
                    ["tests", "examples", "benches"]
                        .iter()
                        .any(|folder| file.starts_with(folder))
                });
                let may_use = match dependency.kind.as_deref() {
                    Some("build") => build == Some(file),
                    Some(_) => build != Some(file),
                    None => build != Some(file) && !aside,
                };
                may_use && names(text, &krate.replace('-', "_"))
            });
            let known = NOT_NAMED
                .iter()
                .find(|(of, name, _)| *of == package.name && *name == dependency.name);
            needed.extend(known.filter(|_| !used));
            if !used && known.is_none() {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                unused.push(format!("{}: {krate} ({kind})", package.name));
            }
        }
    }
    assert!(dependencies > 50, "{dependencies}: cargo lists too few");
    assert!(
        unused.is_empty(),
        "no source file that may use them names these dependencies; remove them:\n{}",
        unused.join("\n")
    );
    assert_eq!(needed.len(), NOT_NAMED.len(), "an exception is not needed");
}

/// Goal: what the workspace's manifest says of a crate concerns somebody.
/// Method: each of its dependencies is one of some package.
#[test]
fn every_dependency_of_the_workspace_is_somebodys() {
    #[derive(Deserialize)]
    struct Manifest {
        workspace: Workspace,
    }
    #[derive(Deserialize)]
    struct Workspace {
        dependencies: toml::Table,
    }
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: Manifest = toml::from_str(&text).unwrap();
    let metadata = Metadata::of_this_platform();
    let used: HashSet<&str> = metadata
        .members()
        .flat_map(|package| &package.dependencies)
        .map(|dependency| dependency.name.as_str())
        .collect();
    let listed = manifest.workspace.dependencies;
    let unused: Vec<&String> = listed
        .keys()
        .filter(|name| !used.contains(name.as_str()))
        .collect();
    assert!(!listed.is_empty());
    assert!(unused.is_empty(), "no package has {unused:?}");
}

/// Goal: a crate counts as used only where a path begins with it. Method: lines that do and lines that do not.
#[test]
fn names_of_crates_are_heads_of_paths() {
    for line in [
        "let a = serde_json::to_string(&b);",
        "use serde_json;",
        "use serde_json as json;",
        "pub use serde_json::Value;",
        "    #[derive(serde_json::Macro)]",
    ] {
        assert!(names(line, "serde_json"), "{line}");
    }
    for line in [
        "// serde_json::Value",
        "/// [`serde_json::Value`]",
        "let serde_json = 1;",
        "my_serde_json::Value",
        "crate::serde_json::Value",
        "serde_jsonl::Value",
    ] {
        assert!(!names(line, "serde_json"), "{line}");
    }
}
