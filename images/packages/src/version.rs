//! Debian package versions and their order.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A Debian package version, `[epoch:]upstream[-revision]`, ordered as Debian policy 5.6.12 says.
///
/// Written here rather than taken from a crate: the comparison is forty lines, the crates that have it
/// bring a regex engine and big integers along, and the tests compare it with `dpkg` itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DebVersion(String);

impl DebVersion {
    /// Takes the text as it stands in a `Version:` field.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it stands in a `Version:` field.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The version of what was packaged.
    pub fn upstream(&self) -> &str {
        self.parts().1
    }

    /// Epoch, upstream version and revision; an absent epoch or revision counts as zero.
    fn parts(&self) -> (&str, &str, &str) {
        let (epoch, rest) = self.0.split_once(':').unwrap_or(("0", &self.0));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        (epoch, upstream, revision)
    }
}

impl fmt::Display for DebVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ord for DebVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.parts(), other.parts());
        compare_part(a.0, b.0)
            .then_with(|| compare_part(a.1, b.1))
            .then_with(|| compare_part(a.2, b.2))
    }
}

impl PartialOrd for DebVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// Equality follows the order, so that `1.0` and `1.0-0` are one version, as they are for dpkg.
impl PartialEq for DebVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DebVersion {}

/// Compares one part: stretches of non-digits by character weight and stretches of digits by value, in turn.
fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = split_at_first(a, |c| c.is_ascii_digit());
        let (text_b, rest_b) = split_at_first(b, |c| c.is_ascii_digit());
        let (digits_a, rest_a) = split_at_first(rest_a, |c| !c.is_ascii_digit());
        let (digits_b, rest_b) = split_at_first(rest_b, |c| !c.is_ascii_digit());
        let order = compare_text(text_a, text_b).then_with(|| compare_digits(digits_a, digits_b));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn split_at_first(bytes: &[u8], stop: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|&c| stop(c)).unwrap_or(bytes.len());
    bytes.split_at(at)
}

fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    let longest = a.len().max(b.len());
    (0..longest)
        .map(|i| weight(a.get(i)).cmp(&weight(b.get(i))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// `~` sorts before the end of the part, the end before letters, letters before everything else.
fn weight(c: Option<&u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    }
}

/// Compares as numbers of any length: without leading zeros, the longer one is the larger.
fn compare_digits(a: &[u8], b: &[u8]) -> Ordering {
    let (_, a) = split_at_first(a, |c| c != b'0');
    let (_, b) = split_at_first(b, |c| c != b'0');
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Goal: the order is dpkg's own. Method: every pair of a list that holds the forms met in the archive and
    /// the awkward ones, each compared by `dpkg --compare-versions`.
    #[test]
    fn orders_as_dpkg_does() {
        let versions = [
            "1.0",
            "1.0-0",
            "1.0-1",
            "1.0~rc1-1",
            "1.0~~",
            "1.0a",
            "1.0+b1",
            "1:0.9",
            "0:1.0",
            "1.00",
            "5.10.223-1",
            "5.10.218-1",
            "6.1.176-1",
            "6.1.99-1",
            "6.12.107-1",
            "6.12.94-1",
            "7.2.11-1~bpo13+1",
            "7.2.9-1~bpo13+1",
            "7.2.12-1~bpo13+1",
            "7.2.12-1",
            "7.3.4-1~bpo13+1",
            "6.8.0-45.45",
            "6.8.0-110.110",
            "1.2-3-4",
            "1.2.0",
            "1.2.00000000000000000000001",
            "0",
        ];
        if Command::new("dpkg").arg("--version").output().is_err() {
            panic!("this test needs dpkg, which every other part of this crate needs too");
        }
        for a in versions {
            for b in versions {
                let ours = DebVersion::new(a).cmp(&DebVersion::new(b));
                let op = match ours {
                    Ordering::Less => "lt",
                    Ordering::Equal => "eq",
                    Ordering::Greater => "gt",
                };
                let agrees = Command::new("dpkg")
                    .args(["--compare-versions", a, op, b])
                    .status()
                    .is_ok_and(|status| status.success());
                assert!(agrees, "dpkg does not agree that {a} {op} {b}");
            }
        }
    }
}
