//! The host's apt, run with a state of its own for every suite.
//!
//! apt verifies the signature of the Release file with the archive's keyring, and every index and package with
//! the digests that follow from it. What it fetched is checked once more against the index by the caller. The
//! host's own apt configuration stays in force where it says how to reach the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cowbird_packages::deb822::Index;
use cowbird_packages::digest::Sha256Digest;
use cowbird_packages::release::{expired, is_list_of, is_of_suite, listed};
use cowbird_programs::install::LOCK_WAIT_MAX;
use cowbird_programs::locks::{lock_of_others, wait_for_locks};
use cowbird_programs::tool::{Tool, read_lossy};
use cowbird_programs::{Ending, Error as ProgramError};

use crate::cache::{Cache, create_dir};
use crate::catalogue::{Arch, Archive};
use crate::error::{Error, Result};
use crate::lock::LockedPackage;
use crate::progress::Progress;
use crate::select::PREFIX;

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
    ///
    /// apt asks the archive for what is newer than what it has, and does not look at what that is. So the lists are compared with
    /// the signed Release file, and where they are damaged, or apt cannot go on from them, they are fetched once more
    /// from nothing; `damaged` is told.
    pub(crate) fn update(
        &self,
        progress: &Arc<dyn Progress>,
        damaged: &dyn Fn(&Path),
    ) -> Result<()> {
        let had_lists = self.lists("InRelease").is_ok();
        match self.fetch(progress) {
            Ok(()) => match self.damaged_list()? {
                None => return self.check_releases(progress),
                Some(list) => damaged(&list),
            },
            Err(
                error @ Error::Program(ProgramError::Tool {
                    status: Ending::Code(_),
                    ..
                }),
            ) if had_lists => {
                progress.warning(&format!(
                    "the index of {} is fetched anew: {error}",
                    self.suite
                ));
            }
            Err(error) => return Err(error),
        }
        let lists = self.dir.join("lists");
        self.cache.discard(&lists)?;
        create_dir(&lists.join("partial"))?;
        self.fetch(progress)?;
        match self.damaged_list()? {
            None => self.check_releases(progress),
            Some(path) => Err(Error::CacheCorrupt { path }),
        }
    }

    fn fetch(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        let doing = format!("fetching the index of {}", self.suite);
        let words = ["--error-on=any", "update"].map(str::to_owned);
        self.run(("update", doing), &words, &self.dir, UPDATE_MAX, progress)
    }

    /// Runs apt-get with this suite's configuration. Another one may still have a lock.
    fn run(
        &self,
        (name, doing): (&str, String),
        words: &[String],
        folder: &Path,
        limit: Duration,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let log = self.cache.log(&format!("apt-{name}-{}", self.id));
        let say = |text: &str| progress.warning(text);
        let ended = wait_for_locks::<_, Error>(LOCK_WAIT_MAX, &say, || {
            let mut tool = Tool::new("apt-get", doing.clone(), log.clone());
            let command = tool.command().current_dir(folder);
            command.arg("-c").arg(&self.config).arg("-q").args(words);
            let ended = tool.run(limit);
            let said = ended.as_ref().err().map(|_| read_lossy(&log));
            let lock = said.as_deref().and_then(lock_of_others).map(str::to_owned);
            Ok((ended, lock))
        })?;
        Ok(ended?)
    }

    /// A list that is not what the Release file says, if there is one.
    fn damaged_list(&self) -> Result<Option<PathBuf>> {
        let mut releases = String::new();
        for path in self.lists("InRelease")? {
            releases += &read(&path)?;
        }
        for path in self.lists("_Packages")? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let size_bytes = path.metadata().map_err(Error::io("inspect", &path))?.len();
            let sha256 = Sha256Digest::of_file(&path).map_err(Error::io("read", &path))?;
            let mut files = listed(&releases)
                .filter(|file| is_list_of(&name, file))
                .peekable();
            let is_unknown = files.peek().is_none();
            if !is_unknown
                && !files.any(|file| (file.size_bytes, file.sha256) == (size_bytes, sha256))
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn check_releases(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        for path in self.lists("InRelease")? {
            let release = read(&path)?;
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
            let text = read(&path)?;
            let part = Index::parse(&text, PREFIX).map_err(|reason| Error::Index {
                suite: self.suite.clone(),
                reason,
            })?;
            index.extend(part);
        }
        Ok(index)
    }

    /// Fetches packages of the index into a folder.
    pub(crate) fn download(
        &self,
        packages: &[&LockedPackage],
        into: &Path,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let doing = format!("fetching packages of {}", self.suite);
        let packages = packages.iter();
        let names = packages.map(|package| format!("{}={}", package.name, package.version));
        let words: Vec<String> = std::iter::once("download".to_owned())
            .chain(names)
            .collect();
        self.run(("download", doing), &words, into, DOWNLOAD_MAX, progress)
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

/// A file of the archive's, in which any byte may be.
fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
// A mirror on this machine is not behind the host's proxy.
Acquire::http::Proxy::127.0.0.1 "DIRECT";
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
        if !cowbird_programs::host::is_installed("apt-get") {
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
        // Nothing of the machine that the test runs on.
        let alone = "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n";
        fs::write(&host, alone.to_owned() + &lax).unwrap();
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
