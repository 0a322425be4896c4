//! What is forged on the way or damaged in the cache: it is noticed, and never given out.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock};

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
    let index = store.stock.index(&bench.spec).unwrap();
    let selection = select(&bench.spec, &index).unwrap();
    let locked = LockedKernel::new(&bench.spec, &selection);
    let from = bench.path("fetched");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("linux-image_1_amd64.deb"), "not it").unwrap();
    let message = store
        .stock
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
    let record: KernelRecord = entry_record::read(&entry).unwrap();
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

    let record = bench.path(RECORD);
    for (count, damage) in [&b""[..], b"\xFF\xFE"].into_iter().enumerate() {
        fs::write(&record, damage).unwrap();
        assert_eq!(bench.online().as_deref(), Ok(NEWEST));
        assert_eq!(said(&record), count + 1);
    }
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let store = bench.store(|options| options.offline = true);
    assert_eq!(store.status(&bench.spec).unwrap().release, None);
    assert_eq!(bench.online().as_deref(), Ok(NEWEST));
    assert!(record.is_file());
}

/// Goal: damage from before an entry had a seal is not sealed in. Method: an entry whose seal is taken away, and one byte of its
/// kernel changed.
#[test]
fn what_has_no_seal_is_made_again() {
    let bench = Bench::new();
    bench.online().unwrap();
    let kernels = fs::read_dir(bench.path("cache/kernels")).unwrap();
    let entry = kernels.map(|entry| entry.unwrap().path()).next().unwrap();
    let record: KernelRecord = entry_record::read(&entry).unwrap();
    let vmlinuz = kernel::tree(&entry).join(record.vmlinuz);
    let sound = fs::read(&vmlinuz).unwrap();
    fs::remove_file(entry.join(crate::seal::FILE)).unwrap();
    fs::write(&vmlinuz, "kernel 9.9.11\n").unwrap();
    assert_eq!(bench.offline().as_deref(), Ok(NEWEST));
    assert_eq!(fs::read(&vmlinuz).unwrap(), sound);
    assert!(entry.join(crate::seal::FILE).exists());
}

/// Serves a folder as web servers do: what has not changed since the client had it is not sent again. It ends with the process.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            thread::spawn(move || answer(&stream, &folder));
        }
    });
    address
}

/// Answers each request of a connection; `None` ends it.
fn answer(mut stream: &TcpStream, folder: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let request = lines.next()?.ok()?;
        let mut has_it = false;
        loop {
            let line = lines.next()?.ok()?;
            has_it |= line.to_ascii_lowercase().starts_with("if-modified-since:");
            if line.is_empty() {
                break;
            }
        }
        let path = request
            .split(' ')
            .nth(1)?
            .trim_start_matches('/')
            .to_owned();
        let content = fs::read(folder.join(path)).ok();
        let (status, body) = match content {
            Some(_) if has_it => ("304 Not Modified", Vec::new()),
            Some(content) => ("200 OK", content),
            None => ("404 Not Found", Vec::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&body).ok()?;
    }
}

/// Goal: damaged lists of apt's in the cache are fetched again. Method: each file emptied, and with one byte changed, while the
/// archive says that nothing has changed; apt does not see it of an index, and never gets over it of a Release file. The
/// mirror is a server, because of files apt looks at nothing but the time.
#[test]
fn damaged_lists_are_fetched_again() {
    let bench = Bench::new();
    let mirror = serve(bench.path("archive"));
    let online = || {
        let store = bench.store(|options| {
            options.mirror = Some(mirror.clone());
            options.refresh = true;
        });
        let kernel = store.stock.locked_or_chosen(&bench.spec);
        kernel
            .map(|kernel| kernel.release)
            .map_err(|error| error.to_string())
    };
    assert_eq!(online().as_deref(), Ok(NEWEST));
    let lists = bench.path("cache/apt/test-test-amd64/lists");
    for ending in ["_Packages", "_InRelease"] {
        for is_cut in [true, false] {
            let names = fs::read_dir(&lists)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let mut names = names.filter(|path| path.to_string_lossy().ends_with(ending));
            let list = names.next().unwrap();
            let sound = fs::read(&list).unwrap();
            let mut damaged = sound.clone();
            match is_cut {
                true => damaged.clear(),
                // In the version of the newest package, and in the signature.
                false => damaged[sound.len() - 100] ^= 1,
            }
            let time = fs::metadata(&list).unwrap().modified().unwrap();
            fs::write(&list, damaged).unwrap();
            fs::File::options()
                .write(true)
                .open(&list)
                .unwrap()
                .set_modified(time)
                .unwrap();
            assert_eq!(online().as_deref(), Ok(NEWEST), "{ending}, cut: {is_cut}");
            assert!(fs::read(&list).unwrap() == sound, "{ending}, cut: {is_cut}");
        }
    }
    let warnings = bench.warnings.0.lock().unwrap().join("\n");
    assert_eq!(
        warnings.matches("_Packages is damaged").count(),
        2,
        "{warnings}"
    );
    assert_eq!(
        warnings
            .matches("the index of test is fetched anew")
            .count(),
        2,
        "{warnings}"
    );
}

/// Goal: an apt-get that still has the lists is waited for. Method: its lock, held for some seconds.
#[test]
fn the_lock_of_the_lists_is_waited_for() {
    let bench = Bench::new();
    bench.online().unwrap();
    let lock = fs::File::options()
        .write(true)
        .open(bench.path("cache/apt/test-test-amd64/lists/lock"))
        .unwrap();
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(3));
            fcntl_lock(&lock, FlockOperation::Unlock).unwrap();
        });
        assert_eq!(bench.refresh().as_deref(), Ok(NEWEST));
    });
    let warnings = bench.warnings.0.lock().unwrap().join("\n");
    assert!(
        warnings.contains("waiting for it, for at most"),
        "{warnings}"
    );
}
