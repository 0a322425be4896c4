//! Packages that somebody supplies.

use super::*;
use crate::supplied;

/// A kernel of another distribution in the catalogue, and its packages as somebody supplies them.
const SUPPLIED: &str = r#"
    [[supplied]]
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
    fn with_supplied() -> Self {
        let mut bench = Self::new();
        let text = catalogue_text(&bench.path("archive/keyring.gpg")) + SUPPLIED;
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
        let folder = self.path("cache/supplied/other-9.9");
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

/// Goal: a kernel whose packages are RPMs that somebody supplied is unpacked, found by what is in it and usable, and
/// none that nobody supplied is looked for in an archive. Method: packages made here, laid out as Fedora's are.
#[test]
fn supplied_packages_are_unpacked() {
    let bench = Bench::with_supplied();
    let store = bench.store(|options| options.offline = true);
    let missing = store.not_supplied(&bench.spec).unwrap();
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
    assert_eq!(store.not_supplied(&bench.spec), None);
    let image = bench.path("cache/supplied/other-9.9/kernel-core-9.9.10.rpm");
    assert_eq!(supplied::Format::of(&image).unwrap(), supplied::Format::Rpm);

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

    // Cut off in the cache, as by a power cut or a full disk.
    for entry in fs::read_dir(bench.path("cache/debs")).unwrap() {
        fs::write(entry.unwrap().path(), "").unwrap();
    }
    bench.forget_kernels();
    assert_eq!(bench.offline(), Ok(NEWEST.to_owned()));
    let warnings = bench.warnings.0.lock().unwrap().join("\n");
    assert_eq!(warnings.matches(".rpm is damaged").count(), 3, "{warnings}");

    // Another release beside it: which one is meant?
    bench.bring_core("9.9.9-test-amd64");
    let doubt = bench.offline().unwrap_err();
    assert!(
        doubt.contains("exactly one release") && doubt.contains("9.9.10-test-amd64 and 9.9.9-test"),
        "{doubt}"
    );

    // The folder may have its name of before.
    let before = bench.path("cache/brought");
    fs::rename(bench.path("cache/supplied"), &before).unwrap();
    assert_eq!(
        bench.offline().unwrap_err(),
        doubt.replace("supplied", "brought")
    );

    // What is in the cache needs no folder.
    fs::remove_dir_all(before).unwrap();
    assert_eq!(bench.offline(), Ok(NEWEST.to_owned()));

    // Damaged and gone: what must be supplied again is named.
    for entry in fs::read_dir(bench.path("cache/debs")).unwrap() {
        fs::write(entry.unwrap().path(), "").unwrap();
    }
    bench.forget_kernels();
    let gone = bench.offline().unwrap_err();
    assert!(
        gone.contains("no sound kernel-core-9.9.10.rpm; put it into"),
        "{gone}"
    );
}
