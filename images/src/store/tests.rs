//! The way from an archive to an unpacked kernel, with the host's own apt and a small archive in `tests/archive` that
//! is signed with a key of its own. No network; build roots, which would need it, are left out.

use std::sync::Mutex;

use super::*;
use crate::catalogue::Catalogue;
use crate::progress::{Outcome, TaskId};

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn start(&self, _: TaskId, _: &str) {}
    fn step(&self, _: TaskId, _: &str) {}
    fn finish(&self, _: TaskId, _: Outcome) {}
    fn warning(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

/// A private copy of the archive, to break at will, and a cache.
struct Bench {
    dir: tempfile::TempDir,
    spec: KernelSpec,
    emulator: Emulator,
    warnings: Arc<Warnings>,
}

/// A catalogue of one kernel in the archive that is signed with a key.
fn catalogue_text(keyring: &Path) -> String {
    format!(
        r#"
            version = 2
            [emulator]
            name = "emulator"
            archive = "test"
            suite = "test"
            arch = "amd64"
            package = "emulator"
            [[archive]]
            name = "test"
            distro = "test"
            components = ["main"]
            keyring = "{}"
            keyring_package = "none"
            host_label = "none"
            host_path = "none"
            mirror_variable = "COWBIRD_TEST_MIRROR"
            [[build_root]]
            name = "root"
            archive = "test"
            suite = "test"
            arch = "amd64"
            compiler = "gcc-12"
            packages = []
            [[series]]
            archive = "test"
            suite = "test"
            series = "9.9"
            arch = "amd64"
            build_root = "root"
            flavours.test = {{ release = "9.9.*-test-amd64", tier = "quick" }}
            "#,
        keyring.display()
    )
}

const RECORD: &str = "cache/locks/test-9.9-test.toml";
const IN_RELEASE: &str = "archive/dists/test/InRelease";
const PACKAGES: &str = "archive/dists/test/main/binary-amd64/Packages";
const MODULES_DEB: &str = "archive/pool/linux-modules-9.9.10-test-amd64_9.9.10-1_amd64.deb";

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new("tests/archive");
        copy_tree(source, &dir.path().join("archive"));
        let keyring = dir.path().join("archive/keyring.gpg");
        let text = catalogue_text(&keyring);
        let mut catalogue = Catalogue::parse(&text, Path::new("test")).unwrap();
        Self {
            dir,
            spec: catalogue.kernels.remove(0),
            emulator: catalogue.emulator,
            warnings: Arc::default(),
        }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn store(&self, change: impl FnOnce(&mut StoreOptions)) -> Store {
        let mut options = StoreOptions {
            cache_dir: Some(self.path("cache")),
            mirror: Some(format!("file:{}", self.path("archive").display())),
            progress: self.warnings.clone(),
            ..StoreOptions::new(self.path("repo"))
        };
        change(&mut options);
        Store::open(options).unwrap()
    }

    /// Fetches and unpacks; the release, or the whole message of the error.
    fn fetch(&self, change: impl FnOnce(&mut StoreOptions)) -> Result<String, String> {
        let store = self.store(change);
        let unpacked = store.locked_or_chosen(&self.spec).and_then(|locked| {
            store.unpacked(&self.spec, &locked)?;
            store.remember(&locked)?;
            Ok(locked.release)
        });
        unpacked.map_err(|error| error.to_string())
    }

    fn online(&self) -> Result<String, String> {
        self.fetch(|_| {})
    }

    fn offline(&self) -> Result<String, String> {
        self.fetch(|options| options.offline = true)
    }

    fn refresh(&self) -> Result<String, String> {
        self.fetch(|options| options.refresh = true)
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "nothing to replace in {file}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn forget_kernels(&self) {
        fs::remove_dir_all(self.path("cache/kernels")).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

const NEWEST: &str = "9.9.10-test-amd64";

/// Goal: from a signed archive to modules in loading order. Method: split packages, modules with xz, with zstd and
/// plain, a dependency by alias, one that is built in; 9.9.10 must win over 9.9.9.
#[test]
fn newest_kernel_is_unpacked() {
    let bench = Bench::new();
    let store = bench.store(|_| {});
    let locked = store.locked_or_chosen(&bench.spec).unwrap();
    let entry = store.unpacked(&bench.spec, &locked).unwrap();
    assert_eq!(
        (locked.release.as_str(), locked.packages.len()),
        (NEWEST, 5)
    );
    let record: KernelRecord = record::read(&entry).unwrap();
    let vmlinuz = fs::read_to_string(kernel::tree(&entry).join(&record.vmlinuz)).unwrap();
    assert_eq!(vmlinuz, "kernel 9.9.10\n");
    assert_eq!(
        record.headers,
        Path::new("usr/src/linux-headers-9.9.10-test-amd64")
    );
    assert_eq!(
        record.binds,
        ["usr/lib/linux-kbuild-9.9", "usr/src"].map(PathBuf::from)
    );
    let table = kernel::read_table(&entry).unwrap();
    assert_eq!(
        table.order(&["upper", "other-name"]).unwrap(),
        ["extra", "lower", "plain", "upper"]
    );
    for name in ["upper", "lower"] {
        let path = kernel::tree(&entry)
            .join(&record.modules_dir)
            .join(&table.get(name).unwrap().path);
        assert!(
            fs::read(path).unwrap().starts_with(b"\x7fELF"),
            "{name} is still compressed"
        );
    }
}

/// Goal: the fixture's Release file is long past its date, and that is said but no obstacle.
#[test]
fn an_expired_release_is_warned_about() {
    let bench = Bench::new();
    bench.online().unwrap();
    let warnings = bench.warnings.0.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("was valid until Thu, 02 Jan 2020"),
        "{warnings:?}"
    );
}

/// Goal: what was prepared once needs no archive, and stays the same when the archive moves on, until a refresh.
/// Method: the archive is taken away for the offline runs, and the unpacked kernel as well; then a record of 9.9.9
/// stands for a run from before the archive had 9.9.10.
#[test]
fn versions_stay_until_refreshed() {
    let bench = Bench::new();
    bench.online().unwrap();
    fs::rename(bench.path("archive"), bench.path("away")).unwrap();
    assert_eq!(bench.offline().as_deref(), Ok(NEWEST));
    bench.forget_kernels();
    assert_eq!(
        bench.offline().as_deref(),
        Ok(NEWEST),
        "it can be unpacked again from the cache"
    );
    fs::rename(bench.path("away"), bench.path("archive")).unwrap();

    let older = narrowed(&bench);
    let text = LockFile::new(vec![older]).to_toml();
    fs::write(bench.path(RECORD), text).unwrap();
    assert_eq!(
        bench.online().as_deref(),
        Ok("9.9.9-test-amd64"),
        "the record decides"
    );
    assert_eq!(bench.offline().as_deref(), Ok("9.9.9-test-amd64"));
    assert_eq!(bench.refresh().as_deref(), Ok(NEWEST));
    assert_eq!(
        bench.offline().as_deref(),
        Ok(NEWEST),
        "the refresh was recorded"
    );
}

/// A record of 9.9.9, as a run before the archive had 9.9.10 would have left it.
fn narrowed(bench: &Bench) -> LockedKernel {
    let mut spec = bench.spec.clone();
    let KernelSource::Packages(names) = &mut spec.source else {
        panic!("it is made of packages");
    };
    names.release = "9.9.9-test-amd64".into();
    let index = bench.store(|_| {}).index(&spec).unwrap();
    let selection = select(&spec, &index).unwrap();
    LockedKernel::new(&bench.spec, &selection)
}

/// Goal: a file in the checkout decides over the cache's record, and can be written from it.
#[test]
fn the_checkout_can_pin_versions() {
    let bench = Bench::new();
    bench.online().unwrap();
    let pins = bench.path("repo").join(LockFile::PATH_IN_REPO);
    fs::create_dir_all(pins.parent().unwrap()).unwrap();
    bench
        .store(|_| {})
        .write_lock(&[&bench.spec], &pins)
        .unwrap();
    assert_eq!(
        fs::read(&pins).unwrap(),
        fs::read(bench.path(RECORD)).unwrap()
    );
    fs::write(&pins, LockFile::new(vec![narrowed(&bench)]).to_toml()).unwrap();
    assert_eq!(bench.online().as_deref(), Ok("9.9.9-test-amd64"));
}

/// Goal: nothing unsigned or changed on the way gets in. Method: a changed Release file, a changed index, a changed
/// package, and a keyring without the archive's key.
#[test]
fn forgeries_are_refused() {
    let bench = Bench::new();
    bench.replace(IN_RELEASE, "Origin: Test", "Origin: Best");
    let message = bench.online().unwrap_err();
    assert!(
        message.contains("fetching the index of test failed"),
        "{message}"
    );
    assert!(
        message.contains("BADSIG") || message.contains("not signed"),
        "{message}"
    );

    let bench = Bench::new();
    bench.replace(PACKAGES, "9.9.10-1", "9.9.11-1");
    let message = bench.online().unwrap_err();
    assert!(
        message.contains("fetching the index of test failed"),
        "{message}"
    );

    let bench = Bench::new();
    let deb = bench.path(MODULES_DEB);
    let mut bytes = fs::read(&deb).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&deb, bytes).unwrap();
    assert!(bench.online().is_err());
    let kept = fs::read_dir(bench.path("cache/debs")).unwrap().count();
    assert_eq!(
        (kept, bench.path(RECORD).exists()),
        (0, false),
        "nothing of it may be kept"
    );

    let bench = Bench::new();
    fs::write(bench.path("archive/keyring.gpg"), "").unwrap();
    let message = bench.online().unwrap_err();
    assert!(
        message.contains("NO_PUBKEY") || message.contains("not signed"),
        "{message}"
    );
}

/// Goal: the check of our own refuses what apt let through. Method: fetched files that are not what the index says,
/// handed over as apt would leave them.
#[test]
fn fetched_files_are_checked_again() {
    let bench = Bench::new();
    let store = bench.store(|_| {});
    let index = store.index(&bench.spec).unwrap();
    let selection = select(&bench.spec, &index).unwrap();
    let locked = LockedKernel::new(&bench.spec, &selection);
    let from = bench.path("fetched");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("linux-image_1_amd64.deb"), "not it").unwrap();
    let message = store
        .keep(&[&locked.packages[0]], &from)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no fetched file has the SHA-256"),
        "{message}"
    );
    assert!(message.contains("linux-image_1_amd64.deb"), "{message}");
}

/// Goal: a file of the cache that changed is noticed before it is unpacked.
#[test]
fn a_changed_package_is_noticed() {
    let bench = Bench::new();
    bench.online().unwrap();
    bench.forget_kernels();
    let deb = fs::read_dir(bench.path("cache/debs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(&deb, "changed").unwrap();
    let message = bench.offline().unwrap_err();
    assert!(message.contains("is not in the cache"), "{message}");
    let warnings = bench.warnings.0.lock().unwrap().join("\n");
    let damaged = format!("{} is damaged", deb.display());
    assert!(warnings.contains(&damaged), "{warnings}");
}

/// Goal: a recorded version that the archive dropped is an error that names the record and the way out. Method: a
/// record of a package that never was, with nothing of it in the cache.
#[test]
fn a_dropped_version_is_named() {
    let bench = Bench::new();
    bench.online().unwrap();
    bench.replace(RECORD, "9.9.10-1", "9.9.8-1");
    bench.forget_kernels();
    fs::remove_dir_all(bench.path("cache/debs")).unwrap();
    let message = bench.online().unwrap_err();
    assert!(message.contains("9.9.8-1"), "{message}");
    assert!(
        message.contains(&bench.path(RECORD).display().to_string()),
        "{message}"
    );
    assert!(message.contains("refresh the kernel"), "{message}");
    assert_eq!(bench.refresh().as_deref(), Ok(NEWEST));
}

/// Goal: with fetching forbidden, an empty cache is an error that says what to do, and so is one without the
/// packages that a record names.
#[test]
fn offline_says_what_is_missing() {
    let bench = Bench::new();
    let message = bench.offline().unwrap_err();
    insta::assert_snapshot!(message, @"test-9.9-test: a record of its packages is not in the cache, and fetching is off; run once without --offline");
    bench.online().unwrap();
    bench.forget_kernels();
    fs::remove_dir_all(bench.path("cache/debs")).unwrap();
    let message = bench.offline().unwrap_err();
    assert!(message.contains("linux-kbuild-9.9"), "{message}");
    assert!(
        message.contains("not in the cache, and fetching is off"),
        "{message}"
    );
}

/// Goal: the status tells what is there, and changes nothing. Method: before, after, and with the kernel gone.
#[test]
fn status_tells_what_is_cached() {
    let bench = Bench::new();
    let status = || {
        bench
            .store(|options| options.offline = true)
            .status(&bench.spec)
            .unwrap()
    };
    let before = status();
    assert_eq!(
        (before.release, before.kernel_bytes, before.ready),
        (None, None, false)
    );
    bench.online().unwrap();
    let after = status();
    assert_eq!(after.release.as_deref(), Some(NEWEST));
    assert_eq!(
        (after.loadable_modules, after.root_bytes, after.ready),
        (Some(4), None, false)
    );
    assert!(after.kernel_bytes.is_some_and(|bytes| bytes > 0) && after.package_bytes > 0);
    bench.forget_kernels();
    assert_eq!(status().kernel_bytes, None);
}

/// Goal: the folder of the cache follows the environment in the documented order, and empty means unset.
#[test]
fn cache_folder_follows_the_environment() {
    let with = |set: &[(&str, &str)]| {
        let set: BTreeMap<_, _> = set.iter().copied().collect();
        default_cache_dir(|name| set.get(name).map(Into::into))
    };
    let all = [
        ("COWBIRD_CACHE", "/c"),
        ("XDG_CACHE_HOME", "/x"),
        ("HOME", "/h"),
    ];
    assert_eq!(with(&all), Some("/c".into()));
    assert_eq!(with(&all[1..]), Some("/x/cowbird".into()));
    assert_eq!(with(&all[2..]), Some("/h/.cache/cowbird".into()));
    assert_eq!(
        with(&[("COWBIRD_CACHE", ""), ("HOME", "/h")]),
        Some("/h/.cache/cowbird".into())
    );
    assert_eq!(with(&[]), None);
}

/// Goal: pruning deletes what a refresh superseded and what no kernel ever was, and nothing that the kernel needs, that the
/// checkout pins or that is being made. Method: a cache with two versions of the kernel, a stray of every kind, and a
/// lock on one of them; a look deletes nothing.
#[test]
fn pruning_keeps_what_is_used() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("cache/locks")).unwrap();
    let older = LockFile::new(vec![narrowed(&bench)]).to_toml();
    fs::write(bench.path(RECORD), &older).unwrap();
    bench.online().unwrap();
    bench.refresh().unwrap();
    let stray = |path: &str| {
        fs::create_dir_all(bench.path("cache").join(path)).unwrap();
    };
    for path in [
        "kernels/9.9.1-0011223344556677",
        "kernels/9.9.2-0011223344556677",
        "roots/old-0011223344556677",
    ] {
        stray(path);
    }
    stray("modules/9.9.1-0011223344556677");
    stray("modules/9.9.10-test-amd64-0011223344556677");
    let catalogue = Catalogue {
        kernels: vec![bench.spec.clone()],
        emulator: bench.emulator.clone(),
        fresh_hosts: Vec::new(),
    };
    let emulator = Recipe::of_emulator(&bench.emulator).entry_name();
    stray(&format!("roots/{emulator}"));
    let store = bench.store(|options| options.offline = true);
    let _making = store
        .cache()
        .hold("kernels-9.9.2-0011223344556677", || {})
        .unwrap();
    let prune = |only_look: bool| -> Vec<String> {
        let found = store.prune(&catalogue, only_look).unwrap();
        let names = found.iter().map(|found| found.path.display().to_string());
        names.filter(|name| !name.starts_with("debs/")).collect()
    };
    let kernel_of_9_9_9 = |name: &String| name.starts_with("kernels/9.9.9-test-amd64-");
    let looked = prune(true);
    assert!(
        looked.iter().any(kernel_of_9_9_9) && looked.len() == 5,
        "{looked:?}"
    );
    let mut pruned = prune(false);
    assert!(pruned.iter().any(kernel_of_9_9_9), "{pruned:?}");
    pruned.retain(|name| !kernel_of_9_9_9(name));
    assert_eq!(
        pruned,
        [
            "kernels/9.9.1-0011223344556677",
            "roots/old-0011223344556677",
            "modules/9.9.1-0011223344556677"
        ]
    );
    assert!(bench.path("cache/kernels/9.9.2-0011223344556677").exists());
    assert!(bench.path("cache/roots").join(emulator).exists());
    assert!(
        bench
            .path("cache/modules/9.9.10-test-amd64-0011223344556677")
            .exists()
    );
    assert_eq!(bench.offline().unwrap(), "9.9.10-test-amd64");

    // Pinned back, the other version is the superseded one.
    fs::create_dir_all(bench.path("repo/images")).unwrap();
    fs::write(bench.path("repo").join(LockFile::PATH_IN_REPO), older).unwrap();
    bench.online().unwrap();
    let pruned = prune(false);
    assert!(
        pruned
            .iter()
            .any(|name| name.starts_with("kernels/9.9.10-test-amd64-")),
        "{pruned:?}"
    );
    assert_eq!(bench.offline().unwrap(), "9.9.9-test-amd64");
}

/// A kernel of another distribution in the catalogue, and its packages as somebody brings them.
const BROUGHT: &str = r#"
    [[brought]]
    name = "other-9.9"
    distro = "other"
    suite = "1"
    series = "9.9"
    flavour = "generic"
    arch = "amd64"
    build_root = "root"
    release = "9.9.*-test-amd64"
    packages = ["kernel-core-*.rpm", "kernel-devel-*.rpm"]
    "#;

impl Bench {
    fn with_brought() -> Self {
        let mut bench = Self::new();
        let text = catalogue_text(&bench.path("archive/keyring.gpg")) + BROUGHT;
        let catalogue = Catalogue::parse(&text, Path::new("test")).unwrap();
        bench.spec = catalogue.kernels.last().unwrap().clone();
        bench
    }

    /// Makes a package of the RPM package manager from parts of the archive's packages, laid out as Fedora does it.
    fn bring(&self, name: &str, release: &str, deb: &str, (from, to): (&str, &str)) {
        let tree = self.path(&format!("rpm/{name}-{release}"));
        fs::create_dir_all(&tree).unwrap();
        let archive = self.path("archive/pool");
        let version = release.trim_end_matches("-test-amd64");
        let deb = archive.join(format!("{deb}_{version}-1_amd64.deb"));
        run(std::process::Command::new("dpkg-deb")
            .arg("-x")
            .args([&deb, &tree]));
        let spec = self.path(&format!("rpm/{name}.spec"));
        let text = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: test\nLicense: none\nBuildArch: x86_64\n\
             %description\ntest\n%install\nmkdir -p %{{buildroot}}/{to}\ncp -a {tree}/{from}/. %{{buildroot}}/{to}\n\
             %files\n/{to}\n",
            tree = tree.display(),
        );
        fs::write(&spec, text).unwrap();
        let folder = self.path("cache/brought/other-9.9");
        fs::create_dir_all(&folder).unwrap();
        let define = |name: &str, value: &Path| format!("{name} {}", value.display());
        run(std::process::Command::new("rpmbuild")
            .args(["-bb", "--quiet"])
            .args(["--define", &define("_topdir", &self.path("rpm/top"))])
            .args(["--define", &define("_rpmdir", &folder)])
            .args(["--define", "_rpmfilename %%{NAME}-%%{VERSION}.rpm"])
            .args(["--define", "__os_install_post %{nil}"])
            .arg(&spec));
    }

    fn bring_core(&self, release: &str) {
        let modules = format!("usr/lib/modules/{release}");
        let name = format!("linux-modules-{release}");
        self.bring("kernel-core", release, &name, (&modules, &modules[4..]));
    }
}

fn run(command: &mut std::process::Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Goal: a kernel whose packages are RPMs that somebody brought is unpacked, found by what is in it and usable, and
/// none that nobody brought is looked for in an archive. Method: packages made here, laid out as Fedora's are.
#[test]
fn brought_packages_are_unpacked() {
    let bench = Bench::with_brought();
    let store = bench.store(|options| options.offline = true);
    let missing = store.not_brought(&bench.spec).unwrap();
    assert!(
        missing.contains("put kernel-core-*.rpm, kernel-devel-*.rpm of other 1 into"),
        "{missing}"
    );
    let refused = bench.offline().unwrap_err();
    assert!(refused.contains("put kernel-core-*.rpm"), "{refused}");

    bench.bring_core(NEWEST);
    let headers = format!("linux-headers-{NEWEST}");
    let (from, to) = (
        format!("usr/src/{headers}"),
        format!("usr/src/kernels/{NEWEST}"),
    );
    bench.bring("kernel-devel", NEWEST, &headers, (&from, &to));
    assert_eq!(store.not_brought(&bench.spec), None);
    let image = bench.path("cache/brought/other-9.9/kernel-core-9.9.10.rpm");
    assert_eq!(brought::Format::of(&image).unwrap(), brought::Format::Rpm);

    // This package of the archive has no kernel image; the error says what is missing of which packages.
    let incomplete = bench.offline().unwrap_err();
    assert!(
        incomplete.contains("kernel-core-9.9.10.rpm") && incomplete.contains("vmlinuz"),
        "{incomplete}"
    );
    let binary = format!("linux-binary-{NEWEST}");
    let modules = format!("usr/lib/modules/{NEWEST}");
    bench.bring(
        "kernel-core-image",
        NEWEST,
        &binary,
        (&modules, &modules[4..]),
    );
    assert_eq!(bench.offline(), Ok(NEWEST.to_owned()));

    // Another release beside it: which one is meant?
    bench.bring_core("9.9.9-test-amd64");
    let doubt = bench.offline().unwrap_err();
    assert!(
        doubt.contains("exactly one release") && doubt.contains("9.9.10-test-amd64 and 9.9.9-test"),
        "{doubt}"
    );

    // What is in the cache needs no folder.
    fs::remove_dir_all(bench.path("cache/brought")).unwrap();
    assert_eq!(bench.offline(), Ok(NEWEST.to_owned()));
}

/// Goal: whatever of the cache is damaged is made again and said, and never given out. Method: a file cut off, a byte of a
/// module changed, a package and a record emptied, each looked for with as little of the archive as it needs.
#[test]
fn what_is_damaged_is_made_again() {
    let bench = Bench::new();
    bench.online().unwrap();
    let kernels = fs::read_dir(bench.path("cache/kernels")).unwrap();
    let entry = kernels.map(|entry| entry.unwrap().path()).next().unwrap();
    let record: KernelRecord = record::read(&entry).unwrap();
    let tree = kernel::tree(&entry);
    let table = kernel::read_table(&entry).unwrap();
    let module = record.modules_dir.join(&table.get("upper").unwrap().path);
    let said = |path: &Path| {
        let warnings = bench.warnings.0.lock().unwrap();
        let start = format!("{} is damaged", path.display());
        warnings
            .iter()
            .filter(|said| said.starts_with(&start))
            .count()
    };
    fs::rename(bench.path("archive"), bench.path("away")).unwrap();
    for (name, damage) in [(&record.vmlinuz, 0), (&module, 1)] {
        let path = tree.join(name);
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        match damage {
            0 => damaged.clear(),
            at => damaged[at] ^= 1,
        }
        fs::write(&path, damaged).unwrap();
        assert_eq!(bench.offline().as_deref(), Ok(NEWEST));
        assert_eq!(fs::read(&path).unwrap(), sound, "{}", path.display());
        assert_eq!(said(&path), 1, "{}", path.display());
    }

    let mut debs = fs::read_dir(bench.path("cache/debs")).unwrap();
    let deb = debs.next().unwrap().unwrap().path();
    fs::write(&deb, "").unwrap();
    bench.forget_kernels();
    let message = bench.offline().unwrap_err();
    assert!(message.contains("is not in the cache"), "{message}");
    fs::rename(bench.path("away"), bench.path("archive")).unwrap();
    assert_eq!(bench.online().as_deref(), Ok(NEWEST));
    assert_eq!(said(&deb), 2, "by each run once");

    fs::write(bench.path(RECORD), "").unwrap();
    assert_eq!(bench.online().as_deref(), Ok(NEWEST));
    assert_eq!(said(&bench.path(RECORD)), 1);
}

/// Goal: a kernel that somebody runs is not deleted under him. Method: a superseded one in use, and not any more.
#[test]
fn what_is_in_use_is_not_pruned() {
    let bench = Bench::new();
    bench.online().unwrap();
    let text = catalogue_text(&bench.path("archive/keyring.gpg"));
    let catalogue = Catalogue::parse(&text, Path::new("test")).unwrap();
    let superseded = bench.path("cache/kernels/9.9.8-test-amd64-0011223344556677");
    fs::create_dir(&superseded).unwrap();
    let store = bench.store(|_| {});
    let in_use = InUse::of(&superseded);
    assert_eq!(store.prune(&catalogue, false).unwrap(), []);
    assert!(superseded.exists());
    drop(in_use);
    assert_eq!(store.prune(&catalogue, false).unwrap().len(), 1);
    assert!(!superseded.exists());
}
