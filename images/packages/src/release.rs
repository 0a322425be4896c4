//! Release files of archives. Pure: text in, answers out.

use std::time::SystemTime;

use crate::digest::Sha256Digest;

/// Whether a Release file is that of a suite. The archive's key signs all of them, and apt takes any one.
pub fn is_of_suite(release: &str, suite: &str) -> bool {
    let named = |line: &str| {
        let name = line
            .strip_prefix("Suite:")
            .or_else(|| line.strip_prefix("Codename:"));
        name.is_some_and(|name| name.trim() == suite)
    };
    // Lists of digests follow, and then the signature.
    let head = release.lines().take_while(|line| !line.starts_with(' '));
    head.take_while(|line| !line.starts_with("-----BEGIN PGP SIGNATURE"))
        .any(named)
}

/// A file that a Release file vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its path below the folder of the suite.
    pub path: &'a str,
    /// Its size.
    pub size_bytes: u64,
    /// What it must be.
    pub sha256: Sha256Digest,
}

/// The files that a Release file lists with their SHA-256. A line that is none of these is passed over.
pub fn listed(release: &str) -> impl Iterator<Item = Listed<'_>> {
    let lines = release
        .lines()
        .skip_while(|line| line.trim_end() != "SHA256:");
    let lines = lines.skip(1).take_while(|line| line.starts_with(' '));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let (sha256, size, path) = (words.next()?, words.next()?, words.next()?);
        Some(Listed {
            path,
            size_bytes: size.parse().ok()?,
            sha256: sha256.parse().ok()?,
        })
    })
}

/// Whether a file of apt's lists is one that a Release file lists: apt writes `_` for the `/` of an address.
pub fn is_list_of(file_name: &str, listed: &Listed<'_>) -> bool {
    let name = listed.path.replace('/', "_");
    let before = file_name.strip_suffix(name.as_str());
    before.is_some_and(|before| before.ends_with('_'))
}

/// The `Valid-Until` date of a Release file, if it has passed.
pub fn expired(release: &str, now: SystemTime) -> Option<&str> {
    let until = release
        .lines()
        .find_map(|line| line.strip_prefix("Valid-Until:"))?
        .trim();
    let time = httpdate::parse_http_date(&until.replace("UTC", "GMT")).ok()?;
    (time < now).then_some(until)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Goal: another suite of the same archive, which the same key signs, is not taken for the one that was asked for.
    #[test]
    fn a_release_is_of_its_suite() {
        let release = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nLabel: Debian\n\
            Suite: oldstable\nCodename: bookworm\nSHA256:\n 00 1 Codename: sid\n-----BEGIN PGP SIGNATURE-----\nSuite: sid\n";
        assert!(is_of_suite(release, "bookworm") && is_of_suite(release, "oldstable"));
        for other in ["sid", "bookworm-security", "book", "", "Debian"] {
            assert!(!is_of_suite(release, other), "{other}");
        }
    }

    /// Goal: what a Release file vouches for is read from its list of SHA-256 alone, and found again among apt's lists.
    #[test]
    fn what_is_listed_is_found() {
        let (one, other) = ("1".repeat(64), "2".repeat(64));
        let release = format!(
            "Suite: x\nMD5Sum:\n 00 7 main/binary-amd64/Packages\nSHA256:\n {one}  12 main/binary-amd64/Packages\n \
             short 3 main/x\n {other} 4 main/binary-amd64/Packages.xz\nSHA512:\n {one} 5 main/y\n"
        );
        let found: Vec<_> = listed(&release).collect();
        let sizes: Vec<u64> = found.iter().map(|file| file.size_bytes).collect();
        assert_eq!(sizes, [12, 4]);
        assert_eq!(found[0].sha256.to_string(), one);
        assert!(is_list_of(
            "m_dists_x_main_binary-amd64_Packages",
            &found[0]
        ));
        for name in [
            "m_dists_x_contrib_binary-amd64_Packages",
            "m_dists_x_main_binary-amd64_Packages.xz",
        ] {
            assert!(!is_list_of(name, &found[0]), "{name}");
        }
        assert!(!is_list_of(
            "m_dists_x_othermain_binary-amd64_Packages",
            &found[0]
        ));
        assert_eq!(listed("Suite: x\n").count(), 0);
    }

    /// Goal: a date that has passed is seen, one to come or none is not.
    #[test]
    fn expiry_is_seen() {
        let release = "Suite: x\nValid-Until: Fri, 27 Nov 2026 02:11:10 UTC\nComponents: main\n";
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(expired(release, at(1_795_745_469)), None);
        assert_eq!(
            expired(release, at(1_795_745_471)),
            Some("Fri, 27 Nov 2026 02:11:10 UTC")
        );
        assert_eq!(expired("Suite: x\n", at(1_795_745_471)), None);
    }
}
