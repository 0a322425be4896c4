//! Licences of what the programs are made of: the list of those that are allowed is in `deny.toml`, and nowhere else.

use std::fs;

use serde::Deserialize;

use super::dependencies::Metadata;
use crate::repo::root;

/// What this check reads of `deny.toml`; `cargo deny` reads all of it.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    krate: String,
    allow: Vec<String>,
}

impl Licenses {
    /// What is allowed for one package.
    fn of(&self, package: &str) -> Vec<&str> {
        let exceptions = self
            .exceptions
            .iter()
            .filter(|exception| exception.krate == package)
            .flat_map(|exception| &exception.allow);
        self.allow
            .iter()
            .chain(exceptions)
            .map(String::as_str)
            .collect()
    }
}

/// An SPDX expression, read from left to right; `/` is how old manifests write `OR`.
struct Expression<'a> {
    words: Vec<&'a str>,
    allowed: &'a [&'a str],
}

impl Expression<'_> {
    /// Whether the allowed licences are enough. `None` if it is no expression.
    fn holds(text: &str, allowed: &[&str]) -> Option<bool> {
        let spaced = text
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let mut words: Vec<&str> = spaced.split_whitespace().collect();
        words.reverse();
        let mut expression = Expression { words, allowed };
        let holds = expression.any()?;
        expression.words.is_empty().then_some(holds)
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.words.last() == Some(&word);
        if there {
            self.words.pop();
        }
        there
    }

    fn any(&mut self) -> Option<bool> {
        let mut holds = self.all()?;
        while self.take("OR") {
            holds |= self.all()?;
        }
        Some(holds)
    }

    fn all(&mut self) -> Option<bool> {
        let mut holds = self.one()?;
        while self.take("AND") {
            holds &= self.one()?;
        }
        Some(holds)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let holds = self.any()?;
            return self.take(")").then_some(holds);
        }
        let licence = self.words.pop()?;
        if ["AND", "OR", "WITH", ")"].contains(&licence) {
            return None;
        }
        let whole = match self.take("WITH") {
            true => format!("{licence} WITH {}", self.words.pop()?),
            false => licence.to_owned(),
        };
        Some(self.allowed.contains(&whole.as_str()))
    }
}

/// Goal: nothing is linked whose licence does not allow it. Method: the licence that each package's manifest states, of the
/// workspace and of all that it depends on, for tests too, against the list of `deny.toml`; and no entry of that list is
/// superfluous. Not seen: packages for other platforms, and whether a manifest tells the truth; `cargo deny` looks at these.
#[test]
fn every_licence_is_allowed() {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let licenses = toml::from_str::<Deny>(&text).unwrap().licenses;
    let metadata = Metadata::of_this_platform();
    let mut forbidden = Vec::new();
    for package in &metadata.packages {
        let stated = package.license.as_deref().unwrap_or_default();
        let allowed = licenses.of(&package.name);
        if Expression::holds(stated, &allowed) != Some(true) {
            let (name, version) = (&package.name, &package.version);
            forbidden.push(format!("{name} {version}: `{stated}`"));
        }
    }
    assert!(metadata.packages.len() > 100, "cargo lists too few");
    assert!(
        forbidden.is_empty(),
        "deny.toml does not allow the licences of:\n{}",
        forbidden.join("\n")
    );
    let superfluous: Vec<&String> = licenses
        .allow
        .iter()
        .filter(|licence| {
            !metadata.packages.iter().any(|package| {
                package
                    .license
                    .as_deref()
                    .is_some_and(|stated| stated.contains(licence.as_str()))
            })
        })
        .collect();
    assert!(superfluous.is_empty(), "nobody has {superfluous:?}");
    for exception in &licenses.exceptions {
        let needed = metadata.packages.iter().any(|package| {
            let stated = package.license.as_deref().unwrap_or_default();
            let allowed: Vec<&str> = licenses.allow.iter().map(String::as_str).collect();
            package.name == exception.krate && Expression::holds(stated, &allowed) != Some(true)
        });
        assert!(needed, "{}: an exception is not needed", exception.krate);
    }
}

/// Goal: expressions mean what SPDX says. Method: each operator, their order, and what is no expression.
#[test]
fn expressions() {
    let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];
    for (text, holds) in [
        ("MIT", Some(true)),
        ("GPL-3.0-only", Some(false)),
        ("MIT OR GPL-3.0-only", Some(true)),
        ("GPL-3.0-only/MIT", Some(true)),
        ("MIT AND GPL-3.0-only", Some(false)),
        ("MIT AND Zlib", Some(true)),
        ("MIT OR Zlib AND GPL-3.0-only", Some(true)),
        ("(MIT OR Zlib) AND GPL-3.0-only", Some(false)),
        ("Apache-2.0", Some(false)),
        ("Apache-2.0 WITH LLVM-exception", Some(true)),
        ("", None),
        ("MIT OR", None),
        ("MIT Zlib", None),
        ("(MIT", None),
    ] {
        assert_eq!(Expression::holds(text, &allowed), holds, "{text}");
    }
}
