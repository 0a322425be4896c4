//! What pruning deletes, and what it leaves.

use super::*;
use crate::build_root::Recipe;

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

/// Goal: an emulator's root is not deleted under whoever runs it, be it superseded or damaged. Method: a root of the cache that is
/// held, of a catalogue that now names another one; then a damaged one.
#[test]
fn a_root_in_use_stays() {
    let bench = Bench::new();
    let name = Recipe::of_emulator(&bench.emulator).entry_name();
    let entry = bench.path("cache/roots").join(&name);
    let store = bench.store(|options| options.offline = true);
    fs::create_dir_all(crate::build_root::tree(&entry).join("usr/bin")).unwrap();
    let record = crate::build_root::RootRecord {
        name: "emulator".to_owned(),
        bytes: 0,
        digest: cowbird_packages::digest::Sha256Digest::of_bytes(b""),
        packages: Vec::new(),
    };
    entry_record::write(&entry, &record).unwrap();
    crate::seal::write(&entry).unwrap();
    let (tree, in_use) = store.emulator(&bench.emulator).unwrap();
    assert_eq!(tree, crate::build_root::tree(&entry));
    let mut other = bench.emulator.clone();
    other.package = "another".into();
    let catalogue = Catalogue {
        kernels: vec![bench.spec.clone()],
        emulator: other,
        fresh_hosts: Vec::new(),
    };
    assert_eq!(store.prune(&catalogue, false).unwrap(), []);

    // Open folders stay what they are when the root is made again, or cannot be.
    let inside = fs::File::open(tree.join("usr")).unwrap();
    fs::write(entry.join(crate::seal::FILE), "").unwrap();
    let message = store.emulator(&bench.emulator).unwrap_err().to_string();
    assert!(
        message.contains("root emulator is not in the cache"),
        "{message}"
    );
    let found = rustix::fs::openat(
        &inside,
        "bin",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    );
    assert!(found.is_ok(), "{found:?}");
    drop(in_use);

    // Whoever finds it damaged while another one makes it again takes what that one made.
    bench.warnings.0.lock().unwrap().clear();
    let remaking = store.stock.hold(&format!("roots-{name}"), "test").unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| store.emulator(&bench.emulator));
        let waits = || {
            bench
                .warnings
                .0
                .lock()
                .unwrap()
                .concat()
                .contains("waiting")
        };
        while !waits() {
            assert!(!second.is_finished());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        crate::seal::write(&entry).unwrap();
        drop(remaking);
        assert_eq!(second.join().unwrap().unwrap().0, tree);
    });
}

/// Goal: one kernel's unreadable record keeps nobody from pruning what is of others.
#[test]
fn pruning_takes_each_kernel_by_itself() {
    let bench = Bench::new();
    bench.online().unwrap();
    fs::remove_file(bench.path(RECORD)).unwrap();
    fs::create_dir(bench.path(RECORD)).unwrap();
    let text = catalogue_text(&bench.path("archive/keyring.gpg"));
    let catalogue = Catalogue::parse(&text, Path::new("test")).unwrap();
    let stray = bench.path("cache/roots/old-0011223344556677");
    fs::create_dir(&stray).unwrap();
    let pruned = bench.store(|_| {}).prune(&catalogue, false).unwrap();
    assert!(!stray.exists() && !pruned.is_empty());
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
