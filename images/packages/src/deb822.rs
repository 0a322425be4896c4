//! Reading the archive's package index: stanzas, packages and dependency fields. Pure: text in, data out.

use std::collections::BTreeMap;

use crate::digest::Sha256Digest;
use crate::version::DebVersion;

/// One stanza of a control file: the lines between two empty lines.
#[derive(Clone, Copy, Debug)]
pub struct Stanza<'a>(&'a str);

impl<'a> Stanza<'a> {
    /// The value on the first line of `field`; continuation lines are not part of it.
    pub fn get(&self, field: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(field).then(|| value.trim())
        })
    }
}

/// The stanzas of a control file in order.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    text.split("\n\n")
        .map(|stanza| stanza.trim_start_matches('\n'))
        .filter(|stanza| !stanza.is_empty())
        .map(Stanza)
}

/// How a dependency restricts the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `<<`
    Earlier,
    /// `<=`
    AtMost,
    /// `=`
    Exactly,
    /// `>=`
    AtLeast,
    /// `>>`
    Later,
}

/// One package name of a dependency, with its version restriction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// The package's name, without an architecture qualifier.
    pub package: String,
    /// The versions that satisfy it; `None` for any.
    pub version: Option<(Relation, DebVersion)>,
}

impl Alternative {
    /// Whether a package of this version satisfies the restriction.
    pub fn accepts(&self, version: &DebVersion) -> bool {
        match &self.version {
            None => true,
            Some((relation, wanted)) => {
                let order = version.cmp(wanted);
                match relation {
                    Relation::Earlier => order.is_lt(),
                    Relation::AtMost => order.is_le(),
                    Relation::Exactly => order.is_eq(),
                    Relation::AtLeast => order.is_ge(),
                    Relation::Later => order.is_gt(),
                }
            }
        }
    }
}

/// One dependency: any of its alternatives satisfies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency(pub Vec<Alternative>);

/// Parses a `Depends:` value; returns the offending piece when it is not understood.
pub fn parse_depends(value: &str) -> Result<Vec<Dependency>, String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|dependency| !dependency.is_empty())
        .map(|dependency| {
            dependency
                .split('|')
                .map(|text| parse_alternative(text.trim()).ok_or_else(|| text.trim().to_owned()))
                .collect::<Result<_, _>>()
                .map(Dependency)
        })
        .collect()
}

fn parse_alternative(text: &str) -> Option<Alternative> {
    let (name, restriction) = match text.split_once('(') {
        None => (text, None),
        Some((name, rest)) => (name.trim(), Some(rest.strip_suffix(')')?.trim())),
    };
    let package = name.split(':').next()?.trim();
    if package.is_empty() || package.contains(char::is_whitespace) {
        return None;
    }
    let version = match restriction {
        None => None,
        Some(restriction) => Some(parse_restriction(restriction)?),
    };
    Some(Alternative {
        package: package.to_owned(),
        version,
    })
}

fn parse_restriction(text: &str) -> Option<(Relation, DebVersion)> {
    let operators = [
        ("<<", Relation::Earlier),
        ("<=", Relation::AtMost),
        (">=", Relation::AtLeast),
        (">>", Relation::Later),
        ("=", Relation::Exactly),
    ];
    operators.into_iter().find_map(|(operator, relation)| {
        let version = text.strip_prefix(operator)?.trim();
        (!version.is_empty()).then(|| (relation, DebVersion::new(version)))
    })
}

/// One package of an archive's index.
#[derive(Clone, Debug)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Package version.
    pub version: DebVersion,
    /// Pre-Depends and Depends.
    pub depends: Vec<Dependency>,
    /// Path below the archive's base address.
    pub filename: String,
    /// Size of the `.deb` in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: Sha256Digest,
}

/// Why a stanza of an index is not usable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IndexError {
    /// A field that every package has is absent.
    #[error("package `{package}` has no `{field}` field")]
    MissingField {
        /// The stanza's package.
        package: String,
        /// The absent field.
        field: &'static str,
    },
    /// A field is there but not understood.
    #[error("package `{package}`: cannot read `{value}` in field `{field}`")]
    BadField {
        /// The stanza's package.
        package: String,
        /// The field.
        field: &'static str,
        /// The piece that is not understood.
        value: String,
    },
}

/// The packages of one suite whose name begins with one prefix, by name; several versions of one may exist.
#[derive(Clone, Debug, Default)]
pub struct Index {
    packages: BTreeMap<String, Vec<Package>>,
}

impl Index {
    /// Reads the stanzas of the packages whose name begins with `prefix`.
    pub fn parse(text: &str, prefix: &str) -> Result<Self, IndexError> {
        let mut index = Self::default();
        for stanza in stanzas(text) {
            match stanza.get("Package") {
                Some(name) if name.starts_with(prefix) => {
                    index.insert(parse_package(name, stanza)?)
                }
                _ => {}
            }
        }
        Ok(index)
    }

    fn insert(&mut self, package: Package) {
        self.packages
            .entry(package.name.clone())
            .or_default()
            .push(package);
    }

    /// Adds the packages of another part of the same suite.
    pub fn extend(&mut self, other: Self) {
        for package in other.packages.into_values().flatten() {
            self.insert(package);
        }
    }

    /// All versions of one package.
    pub fn versions(&self, name: &str) -> &[Package] {
        self.packages.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every package of the index.
    pub fn iter(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().flatten()
    }
}

fn parse_package(name: &str, stanza: Stanza<'_>) -> Result<Package, IndexError> {
    let need = |field: &'static str| {
        stanza.get(field).ok_or_else(|| IndexError::MissingField {
            package: name.to_owned(),
            field,
        })
    };
    let bad = |field: &'static str, value: &str| IndexError::BadField {
        package: name.to_owned(),
        field,
        value: value.to_owned(),
    };
    let mut depends = Vec::new();
    for field in ["Pre-Depends", "Depends"] {
        if let Some(value) = stanza.get(field) {
            depends.extend(parse_depends(value).map_err(|piece| bad(field, &piece))?);
        }
    }
    let (size, sha256) = (need("Size")?, need("SHA256")?);
    Ok(Package {
        name: name.to_owned(),
        version: DebVersion::new(need("Version")?),
        depends,
        filename: need("Filename")?.to_owned(),
        size_bytes: size.parse().map_err(|_| bad("Size", size))?,
        sha256: sha256.parse().map_err(|_| bad("SHA256", sha256))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn stanza(name: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: 1-1\nFilename: pool/x.deb\nSize: 12\nSHA256: {DIGEST}\n\
             Description: text\n Package: not-a-field\n{more}"
        )
    }

    /// Goal: packages are read with their fields, others are left out. Method: three stanzas, one with another
    /// prefix, separated by more than one empty line; a continuation line imitates a field.
    #[test]
    fn reads_packages_by_prefix() {
        let text = [
            stanza("linux-image-1", "Depends: kmod, linux-base (>= 4.3~) | x\n"),
            stanza("bash", ""),
            stanza("linux-base", "Pre-Depends: dpkg:any\n"),
        ]
        .join("\n\n");
        let index = Index::parse(&text, "linux-").unwrap();
        let names: Vec<_> = index.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["linux-base", "linux-image-1"]);
        let image = &index.versions("linux-image-1")[0];
        assert_eq!(
            (image.size_bytes, image.filename.as_str()),
            (12, "pool/x.deb")
        );
        assert_eq!(image.depends.len(), 2);
        assert_eq!(image.depends[1].0[0].package, "linux-base");
        assert_eq!(
            index.versions("linux-base")[0].depends[0].0[0].package,
            "dpkg"
        );
        assert!(index.versions("bash").is_empty());
    }

    /// Goal: a damaged index is an error that names package and field. Method: one stanza lacks the digest,
    /// one carries a short one, one has a broken dependency.
    #[test]
    fn damaged_stanzas_are_errors() {
        let without = stanza("linux-a", "").replace("SHA256", "SHA512");
        assert_eq!(
            Index::parse(&without, "linux-").unwrap_err(),
            IndexError::MissingField {
                package: "linux-a".into(),
                field: "SHA256"
            }
        );
        let short = stanza("linux-a", "").replace(DIGEST, "e3b0");
        assert_eq!(
            Index::parse(&short, "linux-").unwrap_err().to_string(),
            "package `linux-a`: cannot read `e3b0` in field `SHA256`"
        );
        let depends = stanza("linux-a", "Depends: b (>= 1\n");
        assert_eq!(
            Index::parse(&depends, "linux-").unwrap_err().to_string(),
            "package `linux-a`: cannot read `b (>= 1` in field `Depends`"
        );
    }

    /// Goal: each relation accepts exactly the versions that it should. Method: a version below, at and above.
    #[test]
    fn restrictions_accept_the_right_versions() {
        let cases = [
            ("<<", [true, false, false]),
            ("<=", [true, true, false]),
            ("=", [false, true, false]),
            (">=", [false, true, true]),
            (">>", [false, false, true]),
        ];
        for (operator, expected) in cases {
            let parsed = parse_depends(&format!("x ({operator} 2)")).unwrap();
            let got = ["1", "2", "3"].map(|v| parsed[0].0[0].accepts(&DebVersion::new(v)));
            assert_eq!(got, expected, "{operator}");
        }
    }
}
