//! The host's apt, run with a state of its own for every suite.
//!
//! apt verifies the signature of the Release file with the archive's keyring, and every index and package with
//! the digests that follow from it. What it fetched is checked once more against the index by the caller. The
//! host's own apt configuration stays in force where it says how to reach the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cowbird_packages::control::Index;
use cowbird_packages::release::{expired, is_of_suite};

use crate::cache::{Cache, create_dir};
use crate::catalogue::{Arch, Archive};
use crate::error::{Error, Result};
use crate::lock::LockedPackage;
use crate::progress::Progress;
use crate::select::PREFIX;
use crate::tool::Tool;

/// Asking apt about its configuration.
const QUERY_MAX: Duration = Duration::from_secs(60);
/// Fetching a suite's index (10 MB) over a slow line.
const UPDATE_MAX: Duration = Duration::from_secs(15 * 60);
/// Fetching a kernel's packages (60 to 150 MB) over a slow line.
const DOWNLOAD_MAX: Duration = Duration::from_secs(45 * 60);

/// What the releases of a security archive have in their name, whatever its address.
const SECURITY: &str = "security";

/// What apt must never do, whatever the host's own configuration allows: take an archive that is not signed, by a key that is
/// too weak, or that was signed before and is not any more.
pub(crate) const STRICT: [&str; 8] = [
    "Acquire::AllowInsecureRepositories \"false\"",
    "Acquire::AllowWeakRepositories \"false\"",
    "Acquire::AllowDowngradeToInsecureRepositories \"false\"",
    "APT::Get::AllowUnauthenticated \"false\"",
    "APT::Hashes::MD5Sum::Untrusted \"true\"",
    "APT::Hashes::SHA1::Untrusted \"true\"",
    "Acquire::https::Verify-Peer \"true\"",
    "Acquire::https::Verify-Host \"true\"",
];

/// The same for one source; there it outranks the configuration.
const STRICT_SOURCE: &str = "allow-insecure=no allow-weak=no allow-downgrade-to-insecure=no";

/// Separates the fields of a line of `apt-get indextargets`.
const FIELD: char = '|';

/// Finds an archive's mirror among the host's own sources.
pub(crate) fn host_mirror(cache: &Cache, archive: &Archive) -> Result<String> {
    let mut tool = Tool::new(
        "apt-get",
        "listing the host's apt sources",
        cache.log("apt-sources"),
    );
    let format =
        ["$(CREATED_BY)", "$(LABEL)", "$(RELEASE)", "$(REPO_URI)"].join(&FIELD.to_string());
    tool.command().args(["indextargets", "--format", &format]);
    let targets = tool.output(QUERY_MAX)?;
    choose_mirror(&targets, archive).ok_or_else(|| Error::NoMirror {
        archive: archive.name.clone(),
        variable: archive.mirror_variable.clone(),
    })
}

/// Chooses among lines `CREATED_BY|LABEL|RELEASE|REPO_URI`. apt leaves `$(LABEL)` as it is when the host has sources
/// but no Release files yet, as container images do; the last part of the address must do then.
fn choose_mirror(targets: &str, archive: &Archive) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut fields = line.split(FIELD);
        let (created_by, label, release) = (fields.next()?, fields.next()?, fields.next()?);
        let address = fields.next()?;
        let labelled = if label.starts_with('$') {
            let last = address.trim_end_matches('/').rsplit('/').next();
            last == Some(archive.host_path.as_str())
                && release.contains(SECURITY) == archive.host_path.contains(SECURITY)
        } else {
            label == archive.host_label
        };
        (created_by == "Packages" && labelled).then(|| address.to_owned())
    })
}

/// Refuses what would break a line of apt's sources.
pub(crate) fn check_mirror(mirror: &str) -> Result<()> {
    let scheme = ["http://", "https://", "file:/"]
        .iter()
        .any(|scheme| mirror.starts_with(scheme));
    if scheme && !mirror.contains(|c: char| c.is_whitespace() || c.is_control() || c == '[') {
        return Ok(());
    }
    Err(Error::BadMirror {
        mirror: mirror.to_owned(),
    })
}

/// The line of a sources file for one suite.
pub(crate) fn source_line(mirror: &str, archive: &Archive, suite: &str, options: &str) -> String {
    let keyring = archive.keyring.display();
    let components = archive.components.join(" ");
    format!("deb [signed-by={keyring} {STRICT_SOURCE}{options}] {mirror} {suite} {components}")
}

/// One suite of an archive, with apt's state for it.
pub(crate) struct Suite<'a> {
    cache: &'a Cache,
    suite: String,
    id: String,
    dir: PathBuf,
    config: PathBuf,
}

impl<'a> Suite<'a> {
    /// Writes the configuration; nothing is fetched yet.
    pub(crate) fn open(
        cache: &'a Cache,
        archive: &Archive,
        suite: &str,
        arch: Arch,
        mirror: &str,
    ) -> Result<Self> {
        check_mirror(mirror)?;
        let id = format!("{}-{suite}-{arch}", archive.name);
        let dir = cache.path("apt").join(&id);
        for folder in ["lists/partial", "archives/partial"] {
            create_dir(&dir.join(folder))?;
        }
        let config = dir.join("apt.conf");
        cache.write_file(&dir.join("status"), "")?;
        cache.write_file(
            &dir.join("sources.list"),
            &(source_line(mirror, archive, suite, " target=Packages") + "\n"),
        )?;
        cache.write_file(&config, &configuration(&dir, arch)?)?;
        Ok(Self {
            cache,
            suite: suite.to_owned(),
            id,
            dir,
            config,
        })
    }

    /// Fetches and verifies the index. A Release file past its date is only warned about: mirrors that keep an old
    /// state are the way to old kernels, and the signature is verified all the same.
    pub(crate) fn update(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        let log = self.cache.log(&format!("apt-update-{}", self.id));
        let mut tool = Tool::new(
            "apt-get",
            format!("fetching the index of {}", self.suite),
            log,
        );
        tool.command()
            .arg("-c")
            .arg(&self.config)
            .args(["-q", "--error-on=any", "update"]);
        tool.run(UPDATE_MAX)?;
        self.check_releases(progress)
    }

    fn check_releases(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        for path in self.lists("InRelease")? {
            let release = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            if !is_of_suite(&release, &self.suite) {
                return Err(Error::OtherSuite {
                    suite: self.suite.clone(),
                    path,
                });
            }
            if let Some(until) = expired(&release, SystemTime::now()) {
                progress.warning(&format!(
                    "the Release file of {} was valid until {until}; its signature is good, but there may be newer \
                     packages elsewhere",
                    self.suite
                ));
            }
        }
        Ok(())
    }

    /// Reads the fetched index, as far as it is about kernels.
    pub(crate) fn index(&self) -> Result<Index> {
        let mut index = Index::default();
        for path in self.lists("_Packages")? {
            let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            let part = Index::parse(&text, PREFIX).map_err(|reason| Error::Index {
                suite: self.suite.clone(),
                reason,
            })?;
            index.extend(part);
        }
        Ok(index)
    }

    /// Fetches packages of the index into a folder.
    pub(crate) fn download(&self, packages: &[&LockedPackage], into: &Path) -> Result<()> {
        let log = self.cache.log(&format!("apt-download-{}", self.id));
        let mut tool = Tool::new(
            "apt-get",
            format!("fetching packages of {}", self.suite),
            log,
        );
        tool.command()
            .current_dir(into)
            .arg("-c")
            .arg(&self.config)
            .args(["-q", "download"]);
        for package in packages {
            tool.command()
                .arg(format!("{}={}", package.name, package.version));
        }
        tool.run(DOWNLOAD_MAX)
    }

    fn lists(&self, ending: &str) -> Result<Vec<PathBuf>> {
        let lists = self.dir.join("lists");
        let mut paths = Vec::new();
        for entry in fs::read_dir(&lists).map_err(Error::io("list", &lists))? {
            let path = entry.map_err(Error::io("list", &lists))?.path();
            if path.to_string_lossy().ends_with(ending) {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            let path = lists.join(format!("*{ending}"));
            let problem = "apt left no such file".to_owned();
            return Err(Error::BadRecord {
                path,
                what: "an index of the suite",
                problem,
            });
        }
        Ok(paths)
    }
}

/// The configuration that separates a run of apt from the host's packages.
fn configuration(dir: &Path, arch: Arch) -> Result<String> {
    let path = dir
        .to_str()
        .filter(|path| !path.contains(['"', '\\', ';', '\n']));
    let path = path.ok_or_else(|| Error::AwkwardPath {
        path: dir.to_owned(),
    })?;
    Ok(format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
// The cache may lie where apt's own user cannot write, below a home folder.
APT::Sandbox::User "root";
Dir::State "{path}";
Dir::State::lists "{path}/lists";
Dir::State::status "{path}/status";
Dir::Cache "{path}";
Dir::Cache::archives "{path}/archives";
Dir::Etc::sourcelist "{path}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Check-Valid-Until "false";
Acquire::GzipIndexes "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
{strict}
"#,
        strict = STRICT.map(|option| format!("{option};")).join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        Archive {
            name: "debian".into(),
            distro: "debian".into(),
            components: vec!["main".into(), "contrib".into()],
            keyring: "/usr/share/keyrings/k.gpg".into(),
            keyring_package: "k".into(),
            host_label: "Debian".into(),
            host_path: "debian".into(),
            mirror_variable: "COWBIRD_MIRROR".into(),
        }
    }

    /// Goal: the archive's mirror is found among others. Method: security and third-party sources before it, other
    /// kinds of index, and a host without Release files, where apt leaves the label unexpanded.
    #[test]
    fn mirror_is_found_among_sources() {
        let targets = "Packages|Debian-Security|bookworm-security|http://m/debian-security/\n\
            Packages|Other|nodistro|http://o/debian/\n\
            DEP-11|Debian|bookworm|http://wrong/debian/\n\
            Packages|Debian|bookworm|http://m/debian/\n";
        assert_eq!(
            choose_mirror(targets, &archive()).as_deref(),
            Some("http://m/debian/")
        );
        let fresh = "Packages|$(LABEL)|bookworm-security|http://m/debian-security/\n\
            Packages|$(LABEL)|noble|http://u/ubuntu/\n\
            Packages|$(LABEL)|bookworm|http://m/debian/\n";
        assert_eq!(
            choose_mirror(fresh, &archive()).as_deref(),
            Some("http://m/debian/")
        );
        assert_eq!(
            choose_mirror("Packages|Ubuntu|noble|http://u/ubuntu/\n", &archive()),
            None
        );
        let security = Archive {
            host_label: "Debian-Security".into(),
            host_path: "debian-security".into(),
            ..archive()
        };
        for sources in [targets, fresh] {
            assert_eq!(
                choose_mirror(sources, &security).as_deref(),
                Some("http://m/debian-security/")
            );
        }
    }

    /// Goal: what would add an option or a second source to apt's configuration is refused.
    #[test]
    fn odd_mirrors_are_refused() {
        for good in ["http://m/debian", "https://m/debian/", "file:/srv/debian"] {
            assert!(check_mirror(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "m/debian",
            "http://m/d x",
            "[trusted=yes] http://m/d",
            "http://m/d\ndeb http://n x",
        ] {
            assert!(check_mirror(bad).is_err(), "{bad}");
        }
        assert_eq!(
            source_line("http://m/debian/", &archive(), "sid", ""),
            "deb [signed-by=/usr/share/keyrings/k.gpg allow-insecure=no allow-weak=no allow-downgrade-to-insecure=no] \
             http://m/debian/ sid main contrib"
        );
    }

    /// Goal: the host's apt may take archives that nobody signed, and ours does not. Method: apt itself, with such a host's
    /// configuration and an archive without a signature in a folder.
    #[test]
    fn an_unsigned_archive_is_refused_whatever_the_host_allows() {
        if !crate::host::is_installed("apt-get") {
            println!("SKIP: no apt-get here");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let served = folder.path().join("served");
        let index = served.join("dists/sid/main/binary-amd64");
        fs::create_dir_all(&index).unwrap();
        fs::write(index.join("Packages"), "").unwrap();
        let release = "Suite: sid\nCodename: sid\nArchitectures: amd64\nComponents: main\n\
            Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n \
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n";
        fs::write(served.join("dists/sid/Release"), release).unwrap();
        let host = folder.path().join("host.conf");
        let lax = STRICT
            .map(|option| option.replace("false", "true") + ";")
            .join("\n");
        fs::write(&host, lax).unwrap();
        let keyring = folder.path().join("keyring.gpg");
        fs::write(&keyring, "").unwrap();
        let cache = Cache::open(folder.path().join("cache")).unwrap();
        let archive = Archive {
            components: vec!["main".into()],
            keyring,
            ..archive()
        };
        let mirror = format!("file:{}", served.display());
        let suite = Suite::open(&cache, &archive, "sid", Arch::Amd64, &mirror).unwrap();
        let update = |config: &Path| {
            let mut apt = std::process::Command::new("apt-get");
            apt.env("APT_CONFIG", &host).arg("-c").arg(config);
            let output = apt
                .args(["-q", "--error-on=any", "update"])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), text)
        };
        let (done, said) = update(&suite.config);
        assert!(!done && said.contains("is not signed"), "{said}");
        // What refused it was this: without it, such a host takes the archive.
        let ours = fs::read_to_string(&suite.config).unwrap();
        let lax = STRICT
            .iter()
            .fold(ours, |text, option| text.replace(&format!("{option};"), ""));
        let config = folder.path().join("lax.conf");
        fs::write(&config, lax).unwrap();
        let sources = suite.dir.join("sources.list");
        let lax = fs::read_to_string(&sources)
            .unwrap()
            .replace(STRICT_SOURCE, "");
        fs::write(&sources, lax).unwrap();
        let (done, said) = update(&config);
        assert!(done, "{said}");
    }

    /// Goal: a path that would end apt's string early is refused.
    #[test]
    fn awkward_paths_are_refused() {
        assert!(configuration(Path::new("/home/x/.cache/cowbird/apt/s"), Arch::Amd64).is_ok());
        assert!(configuration(Path::new("/tmp/a\"; APT::x \"y"), Arch::Amd64).is_err());
    }
}
