//! Floors of the workspace: within a crate no file uses one that uses it, and no crate is so large that it needs more
//! floors than one can oversee. Between crates the compiler sees to it.

mod sources;
mod syntax;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use crate::repo::root;
use sources::{Crate, Edges};

pub use syntax::{attributes, is_for_tests};

/// Lines of Rust that a crate may have in `src`.
const MAX_LINES: usize = 8000;

/// Circles that a message names, the shortest first.
const SHOWN: usize = 10;

/// The folders of the crates of the workspace.
fn members() -> Vec<String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let manifest: toml::Table = text.parse().expect("cargo has read it, too");
    let members = manifest["workspace"]["members"].as_array();
    let members = members.expect("the workspace has members").iter();
    members
        .map(|member| member.as_str().expect("a member is a path").to_owned())
        .collect()
}

/// The files that are roots of crates below the folder of a package: of its library, and of its programs.
fn roots(member: &str) -> Vec<PathBuf> {
    let src = root().join(member).join("src");
    let mut roots = vec![src.join("lib.rs"), src.join("main.rs")];
    if let Ok(programs) = fs::read_dir(src.join("bin")) {
        roots.extend(programs.map(|entry| entry.expect("it can be listed").path()));
    }
    roots.retain(|file| file.extension().is_some_and(|ending| ending == "rs") && file.exists());
    assert!(!roots.is_empty(), "{member} has no crate that is looked at");
    roots
}

/// The files that are roots of crates which use the library of a package from outside: tests, benchmarks and examples.
fn roots_outside(member: &str) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for kind in ["tests", "benches", "examples"] {
        let Ok(entries) = fs::read_dir(root().join(member).join(kind)) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("it can be listed").path();
            roots.push(if path.is_dir() {
                path.join("main.rs")
            } else {
                path
            });
        }
    }
    roots.retain(|file| file.extension().is_some_and(|ending| ending == "rs") && file.exists());
    roots
}

/// The shortest way along edges that leads from a file back to it, if there is one.
fn circle(edges: &Edges, from: &Path) -> Option<Vec<PathBuf>> {
    let mut came_from: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut next = VecDeque::from([from]);
    while let Some(file) = next.pop_front() {
        for other in edges.get(file).into_iter().flat_map(BTreeMap::keys) {
            if other == from {
                let mut way = vec![from.to_owned()];
                let mut at = file;
                while at != from {
                    way.push(at.to_owned());
                    at = came_from[at];
                }
                way.push(from.to_owned());
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(other.as_path()) {
                came_from.insert(other, file);
                next.push_back(other);
            }
        }
    }
    None
}

/// All files that are in circles, each with the shortest one.
fn circles(edges: &Edges) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    edges
        .keys()
        .filter_map(|file| Some((file.clone(), circle(edges, file)?)))
        .collect()
}

/// A circle in words: each file, and the path by which it names the next one.
fn told(edges: &Edges, circle: &[PathBuf]) -> String {
    let name = |file: &Path| {
        let inside = file.strip_prefix(root()).unwrap_or(file);
        inside.display().to_string()
    };
    let mut text = name(&circle[0]);
    for pair in circle.windows(2) {
        text += &format!(" uses {} (`{}`)", name(&pair[1]), edges[&pair[0]][&pair[1]]);
        text += if pair[1] == circle[0] { "" } else { ", which" };
    }
    text
}

/// The crates with these roots.
fn read_all(roots: impl Iterator<Item = PathBuf>) -> Vec<(PathBuf, Crate)> {
    roots
        .map(|file| (file.clone(), Crate::read(&file)))
        .collect()
}

/// Goal: who reads a file needs to know those below it and no others. Method: the paths that each file of each crate
/// names, in imports, code, attributes and arguments of macros, are followed to the file that defines what they name: for a
/// function of a type that is the file with the function. So are methods: those of `self`, and those of others whose name only
/// one type of the crate has; no file may reach itself. The crates are those of `src`, and those of tests, benchmarks and
/// examples.
///
/// A declaration of a module is no use of it. A re-export is none either: who takes a name from one uses the file that
/// defines the name, so a module's file that declares and re-exports is in no circle with its children. One that uses an
/// item of a child whose file uses an item of the parent's is. Code for tests alone, in `src`, may look up.
///
/// Not seen: fields; methods whose name several types or the standard library have, unless of `self`; macros by their scope in the
/// text; and modules with a `path` of their own.
#[test]
fn no_file_uses_one_that_uses_it() {
    let mut faults = Vec::new();
    let members = members();
    let inside = read_all(members.iter().flat_map(|member| roots(member)));
    let outside = read_all(members.iter().flat_map(|member| roots_outside(member)));
    assert!(outside.len() > 20, "{}: too few tests", outside.len());
    let mut known: BTreeMap<&String, u32> = BTreeMap::new();
    for (_, it) in &inside {
        for name in it.method_names().collect::<BTreeSet<_>>() {
            *known.entry(name).or_default() += 1;
        }
    }
    let named = |by: u32| -> BTreeSet<String> {
        let names = known.iter().filter(|(_, crates)| **crates >= by);
        names.map(|(name, _)| (*name).clone()).collect()
    };
    // Tests call methods of libraries, and no library calls one of a test.
    let (of_several, of_any) = (named(2), named(1));
    let inside = inside.iter().map(|it| (it, &of_several));
    let all = inside.chain(outside.iter().map(|it| (it, &of_any)));
    for ((file, it), of_others) in all {
        let edges = it.edges(of_others);
        let circles = circles(&edges);
        if circles.is_empty() {
            continue;
        }
        let name = file.strip_prefix(root()).expect("it lies below");
        let mut named: Vec<String> = circles.values().map(|way| told(&edges, way)).collect();
        named.sort_by_key(String::len);
        named.truncate(SHOWN);
        faults.push(format!(
            "{}: {} files are in circles:\n  {}",
            name.display(),
            circles.len(),
            named.join("\n  ")
        ));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The edges of a crate whose files have these contents.
fn edges_of(files: &[(&str, &str)]) -> Edges {
    let folder = tempfile::tempdir().expect("a folder for the test");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    let edges = Crate::read(&folder.path().join("lib.rs")).edges(&BTreeSet::new());
    let inside = |file: PathBuf| {
        let inside = file.strip_prefix(folder.path());
        inside.expect("it lies below").to_owned()
    };
    edges
        .into_iter()
        .map(|(file, named)| {
            let named = named.into_iter().map(|(other, path)| (inside(other), path));
            (inside(file), named.collect())
        })
        .collect()
}

/// Goal: the test above fails where there is a circle, and says how it goes.
#[test]
fn a_circle_is_named() {
    let edges = edges_of(&[
        ("lib.rs", "mod a; mod b; mod c; pub use c::C;"),
        ("a.rs", "use crate::b::B;\npub struct A(B);"),
        (
            "b.rs",
            "pub struct B;\nfn f() { println!(\"{}\", crate::C::of(1)); }",
        ),
        (
            "c.rs",
            "use super::a;\npub struct C;\nimpl C { fn of(_: u32) -> a::A { loop {} } }",
        ),
    ]);
    let circles = circles(&edges);
    let way = &circles[Path::new("a.rs")];
    assert_eq!(
        told(&edges, way),
        "a.rs uses b.rs (`B`), which uses c.rs (`crate::C::of`), which uses a.rs (`a::A`)"
    );
    assert_eq!(circles.len(), 3);
}

/// Goal: a parent that declares, re-exports and looks up in its tests is in no circle, and one that uses a child which
/// uses it is.
#[test]
fn a_parent_may_declare_and_reexport() {
    let child = (
        "a/child.rs",
        "use super::other::Other;\npub struct Child(Other);",
    );
    let other = ("a/other.rs", "pub struct Other;");
    let only = "mod child; mod other; pub use child::Child; pub(crate) use other::Other;\n\
                #[cfg(test)] mod tests { use super::Child; use crate::top; }";
    let lib = ("lib.rs", "mod a; fn top() -> a::Child { loop {} }");
    let edges = edges_of(&[lib, ("a/mod.rs", only), child, other]);
    assert!(circles(&edges).is_empty(), "{edges:?}");

    let uses = "mod child; pub struct Own; fn f(_: child::Child) {}";
    let child = ("a/child.rs", "pub struct Child(super::Own);");
    let edges = edges_of(&[lib, ("a/mod.rs", uses), child]);
    assert_eq!(circles(&edges).len(), 2, "{edges:?}");
}

/// Goal: a circle through methods alone, and one through an attribute, are seen; methods whose name says nothing are not.
#[test]
fn methods_and_attributes_lead_to_files() {
    let lib = ("lib.rs", "mod a; mod b; mod c;");
    let a = (
        "a.rs",
        "pub struct A;\nimpl A { pub fn high(&self) { self.low(); } pub fn base(&self) {} }",
    );
    let b = (
        "b.rs",
        "use crate::a::A;\nimpl A { pub fn low(&self) { self.base(); } }",
    );
    let c = (
        "c.rs",
        "#[serde(with = \"as_text\")]\nstruct C;\nuse crate::b::as_text;",
    );
    let edges = edges_of(&[lib, a, b, ("c.rs", "")]);
    let way = &circles(&edges)[Path::new("a.rs")];
    assert_eq!(
        told(&edges, way),
        "a.rs uses b.rs (`.low()`), which uses a.rs (`A`)"
    );
    let b = ("b.rs", "pub mod as_text {}\nfn f(x: X) { x.of_c(); }");
    let with_c = "#[derive(Clone)]\npub struct C { #[serde(with = \"crate::b::as_text\")] x: u8 }\nimpl C { pub fn of_c(&self) {} }";
    let edges = edges_of(&[lib, ("a.rs", ""), b, ("c.rs", with_c)]);
    assert_eq!(circles(&edges).len(), 2, "{edges:?}");
    // Whose it is, nobody knows: of this trait, of two types.
    for other in [
        "trait T { fn of_c(&self); }",
        "struct A; impl A { fn of_c(&self) {} }",
    ] {
        let edges = edges_of(&[lib, ("a.rs", other), b, ("c.rs", with_c)]);
        assert!(circles(&edges).is_empty(), "{edges:?}");
    }
    let edges = edges_of(&[lib, ("a.rs", ""), ("b.rs", "pub mod as_text {}"), c]);
    assert_eq!(edges.len(), 1, "{edges:?}");
}

/// Goal: a function of a type leads to the file with the function, by the name of the type, by `Self`, and within a macro, where
/// methods are seen, too; one of another type of the same name does not.
#[test]
fn functions_of_types_lead_to_their_files() {
    let lib = ("lib.rs", "mod a; mod b; mod c;");
    let a = ("a.rs", "pub struct A;");
    let b = (
        "b.rs",
        "use crate::a::A;\nuse crate::c::LIMIT;\nimpl A { pub fn of() {} pub const MOST: u8 = 0; pub fn low(&self) {} }",
    );
    for (code, by) in [
        ("fn f() { A::of() }", "A::of"),
        ("fn f() { g(A::low) }", "A::low"),
        ("use crate::a::A as B; fn f() { B::MOST }", "B::MOST"),
        ("impl A { fn f() { Self::of() } }", "A::of"),
        (
            "impl A { fn f() { println!(\"{}\", Self::of()) } }",
            "A::of",
        ),
        (
            "impl A { fn f(&self) { assert!(self.low(), 1) } }",
            ".low()",
        ),
        ("fn f(a: A) { assert!(g(a.low::<u8>())) }", ".low()"),
    ] {
        let text = format!("use crate::a::A;\npub const LIMIT: u8 = 1;\n{code}");
        let edges = edges_of(&[lib, a, b, ("c.rs", &text)]);
        let way = circles(&edges).remove(Path::new("c.rs"));
        let way = way.unwrap_or_else(|| panic!("{code}: {edges:?}"));
        let wanted = format!("c.rs uses b.rs (`{by}`), which uses c.rs (`crate::c::LIMIT`)");
        assert_eq!(told(&edges, &way), wanted);
    }
    for code in [
        "mod other { pub struct A; } use other::A; fn f() { A::of() }",
        "use crate::a::A; fn f() { assert!(0..low(), a.low) }",
    ] {
        let text = format!("pub const LIMIT: u8 = 1;\n{code}");
        let edges = edges_of(&[lib, a, b, ("c.rs", &text)]);
        assert!(circles(&edges).is_empty(), "{code}: {edges:?}");
    }
}

/// Lines of Rust below a folder.
fn lines_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("it can be listed");
    entries
        .map(|entry| {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                lines_below(&path)
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("it can be read");
                text.lines().count()
            } else {
                0
            }
        })
        .sum()
}

/// Goal: a crate can be read in a day. Method: the lines of its `src` are counted.
#[test]
fn crates_are_small() {
    let mut faults = Vec::new();
    for member in members() {
        let lines = lines_below(&root().join(&member).join("src"));
        if lines > MAX_LINES {
            faults.push(format!(
                "{member} has {lines} lines in src, of {MAX_LINES} at most: make a crate of a part of it"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Folders of `xtask/src`, each with one whose files none of its own may use: a floor knows none above it.
const ABOVE: [(&str, &str); 3] = [("run", "commands"), ("host", "commands"), ("host", "run")];

/// Files below one folder that use a file below another one, in words.
fn uses_of(edges: &Edges, folder: &Path, above: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, used) in edges.iter().filter(|(file, _)| file.starts_with(folder)) {
        let used = used.iter().filter(|(other, _)| other.starts_with(above));
        let told = used.map(|(_, by)| format!("{} uses `{by}`", file.display()));
        faults.extend(told);
    }
    faults
}

/// Goal: runs know no command, and what the machine has knows no run, as ARCHITECTURE says. Method: as for circles; what is for
/// tests may.
#[test]
fn floors_of_xtask_know_none_above() {
    let src = root().join("xtask/src");
    let xtask = Crate::read(&src.join("main.rs"));
    let own: BTreeSet<String> = xtask.method_names().cloned().collect();
    let edges = xtask.edges(&own);
    let mut faults = Vec::new();
    for (floor, above) in ABOVE {
        let (floor, above) = (src.join(floor), src.join(above));
        let files = fs::read_dir(&floor).expect("it can be listed").count();
        assert!(
            files > 3 && above.is_dir(),
            "{} is a floor",
            floor.display()
        );
        faults.extend(uses_of(&edges, &floor, &above));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Goal: a floor that names one above it is seen, however it is written, before or after tests.
#[test]
fn a_floor_that_looks_up_is_seen() {
    let lib = ("lib.rs", "mod run; mod commands;");
    let commands = ("commands/mod.rs", "pub mod fuzz; pub fn f() {}");
    let fuzz = ("commands/fuzz.rs", "pub fn f() {}");
    let seen = |code: &str| {
        let edges = edges_of(&[lib, commands, fuzz, ("run/mod.rs", code)]);
        uses_of(&edges, Path::new("run"), Path::new("commands")).len()
    };
    for code in [
        "use crate::commands::f;",
        "use crate::{commands::{fuzz, f as g}};",
        "#[cfg(test)] mod tests {}\nfn f() { super::commands::f() }",
        "fn f() { print!(\"{}\", crate::commands::f()) }",
    ] {
        assert!(seen(code) > 0, "{code}");
    }
    assert_eq!(
        seen("#[cfg(test)] mod tests { use crate::commands::f; }"),
        0
    );
    assert_eq!(seen("// crate::commands::f\nfn f() {}"), 0);
}
