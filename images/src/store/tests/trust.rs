//! What is forged on the way or damaged in the cache: it is noticed, and never given out.

use super::*;
use crate::select::select;

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
