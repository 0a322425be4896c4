//! Goal: whatever is in a package, unpacking it runs nothing and writes nothing outside of its folder, and nothing that comes out of it
//! makes anybody another user. Method: packages that are made here with what no package has, unpacked as those of a kernel are; all that is
//! beside the folder is looked at before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cowbird_packages::digest::Sha256Digest;
use cowbird_packages::version::DebVersion;

use crate::cache::Cache;
use crate::kernel;
use crate::lock::LockedPackage;
use crate::package::deb_path;

/// A folder with what a package is made of, and what it must not touch.
struct Bench {
    dir: tempfile::TempDir,
    cache: Cache,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// All that is below a folder, with its content and mode.
fn listing(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(listing(&path));
        }
        let content = match meta.is_file() {
            true => fs::read(&path).unwrap(),
            false => Vec::new(),
        };
        found.insert(path, (meta.permissions().mode(), content));
    }
    found
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        for folder in ["victim", "parts", "place"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("victim/file"), "somebody's data").unwrap();
        Self { dir, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An archive of one file whose name becomes what `transform` makes of it.
    fn member(&self, transform: &str) -> PathBuf {
        let parts = self.path("parts");
        fs::write(parts.join("file"), "foreign").unwrap();
        self.tar(&["-P", "--transform", transform, "file"])
    }

    fn tar(&self, arguments: &[&str]) -> PathBuf {
        let tar = self.path("parts/data.tar");
        run(Command::new("tar")
            .current_dir(self.path("parts"))
            .args(["--mode=6755", "-cf"])
            .arg(&tar)
            .args(arguments));
        tar
    }

    /// An archive of a link that leads out, and of a file below it.
    fn through_a_link(&self, to: &str) -> PathBuf {
        let parts = self.path("parts");
        std::os::unix::fs::symlink(to, parts.join("link")).unwrap();
        fs::create_dir(parts.join("below")).unwrap();
        fs::write(parts.join("below/file"), "foreign").unwrap();
        self.tar(&["--transform", "s,^below,link,", "link", "below/file"])
    }

    /// A package of Debian's with that content, whose scripts say that they ran.
    fn package(&self, data: &Path) {
        let (parts, marker) = (self.path("parts"), self.path("victim/ran"));
        let script = format!("#!/bin/sh\n: > {}\n", marker.display());
        for name in ["preinst", "postinst", "config"] {
            fs::write(parts.join(name), &script).unwrap();
            fs::set_permissions(parts.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let control = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m\nDescription: d\n";
        fs::write(parts.join("control"), control).unwrap();
        fs::write(parts.join("debian-binary"), "2.0\n").unwrap();
        run(Command::new("tar").current_dir(&parts).args([
            "-cf",
            "control.tar",
            "control",
            "preinst",
            "postinst",
            "config",
        ]));
        assert_eq!(data, parts.join("data.tar"));
        let _ = fs::remove_file(parts.join("p.deb"));
        run(Command::new("ar").current_dir(&parts).args([
            "rc",
            "p.deb",
            "debian-binary",
            "control.tar",
            "data.tar",
        ]));
    }

    /// Unpacks the package; whether that was possible.
    fn unpack(&self, name: &str, packed: &Path) -> bool {
        let package = LockedPackage {
            name: name.to_owned(),
            version: DebVersion::new("1"),
            size_bytes: 1,
            sha256: Sha256Digest::of_file(packed).unwrap(),
        };
        fs::copy(packed, deb_path(&self.cache, &package)).unwrap();
        let tree = self.path("place/tree");
        fs::create_dir(&tree).unwrap();
        let before = (
            listing(&self.path("victim")),
            fs::read_dir(self.path("place")).unwrap().count(),
        );
        let log = self.cache.log("unpack");
        let done = kernel::unpack(&self.cache, &package, &tree, &log).is_ok();
        let after = (
            listing(&self.path("victim")),
            fs::read_dir(self.path("place")).unwrap().count(),
        );
        assert!(before == after, "{before:?} became {after:?}");
        if done {
            for (path, (mode, _)) in listing(&tree) {
                assert_eq!(mode & 0o6000, 0, "{}", path.display());
            }
        }
        done
    }
}

#[test]
fn a_package_writes_and_runs_nothing_outside_of_its_folder() {
    let outside = |bench: &Bench| bench.path("victim").display().to_string();
    type Make = fn(&Bench, &str) -> PathBuf;
    let kinds: [(&str, Make); 6] = [
        ("a file", |bench, _| bench.member("s,^,usr/lib/,")),
        ("..", |bench, _| bench.member("s,^,../../victim/,")),
        ("within", |bench, _| {
            bench.member("s,^,usr/../../../victim/,")
        }),
        ("absolute", |bench, victim| {
            bench.member(&format!("s,^,{victim}/,"))
        }),
        ("link", |bench, victim| bench.through_a_link(victim)),
        ("relative link", |bench, _| {
            bench.through_a_link("../../victim")
        }),
    ];
    for (what, make) in kinds {
        let bench = Bench::new();
        let data = make(&bench, &outside(&bench));
        bench.package(&data);
        let done = bench.unpack("p", &bench.path("parts/p.deb"));
        assert!(done || what != "a file", "{what}");
    }
}

/// What unpacks RPM packages takes other archives as well. Method: the same content, led by what tells an RPM package, in the one form
/// that it has.
#[test]
fn neither_does_an_rpm_package() {
    use crate::supplied::Format;
    if Command::new("bsdtar").arg("--version").output().is_err() {
        println!("SKIP: there is no bsdtar");
        return;
    }
    type Make = fn(&Bench, &str) -> PathBuf;
    let kinds: [Make; 4] = [
        |bench, _| bench.member("s,^,../../victim/,"),
        |bench, victim| bench.member(&format!("s,^,{victim}/,")),
        |bench, victim| bench.through_a_link(victim),
        |bench, _| bench.through_a_link("../../victim"),
    ];
    for make in kinds {
        let bench = Bench::new();
        let data = make(&bench, &bench.path("victim").display().to_string());
        let tree = bench.path("place/tree");
        fs::create_dir(&tree).unwrap();
        let before = listing(&bench.path("victim"));
        let tool = Format::Rpm.unpack("a test".into(), &data, &tree, bench.cache.log("rpm"));
        let _ = tool.run(std::time::Duration::from_secs(20));
        assert!(before == listing(&bench.path("victim")));
        assert_eq!(fs::read_dir(bench.path("place")).unwrap().count(), 1);
    }
}
