//! Release files of archives. Pure: text in, answers out.

use std::time::SystemTime;

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
