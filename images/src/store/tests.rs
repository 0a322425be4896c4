//! The way from an archive to an unpacked kernel, with the host's own apt and a small archive in `tests/archive` that
//! is signed with a key of its own. No network; build roots, which would need it, are left out.

mod pruning;
mod supplied;
mod trust;

use std::sync::{Arc, Mutex};

use super::*;
use crate::catalogue::Emulator;
use crate::lock::LockFile;
use crate::progress::{Outcome, Progress, TaskId};
use crate::select::select;

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
        let unpacked = store.stock.locked_or_chosen(&self.spec).and_then(|locked| {
            store.stock.unpacked(&self.spec, &locked)?;
            store.stock.remember(&locked)?;
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
    let locked = store.stock.locked_or_chosen(&bench.spec).unwrap();
    let entry = store.stock.unpacked(&bench.spec, &locked).unwrap();
    assert_eq!(
        (locked.release.as_str(), locked.packages.len()),
        (NEWEST, 5)
    );
    let record: KernelRecord = entry_record::read(&entry).unwrap();
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
    let mut warnings = bench.warnings.0.lock().unwrap().clone();
    // Another test may be starting a program at this moment: its child has all locks until it executes.
    warnings.retain(|warning| !warning.contains("waiting for another process"));
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
    let index = bench.store(|_| {}).stock.index(&spec).unwrap();
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
