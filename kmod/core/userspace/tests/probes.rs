//! Goal: a compiler that gives no answer to a probe is none that refuses it: a module would be built that is wrong for its kernel.
//! Method: `probes/run.sh` on two controls and one probe, with a script as compiler whose answer to the probe is the test's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the compiler says of a probe whose feature the kernel lacks.
const REFUSAL: &str = "echo 'feature.c:7:9: error: no such member' >&2; exit 1";

struct Probes {
    folder: tempfile::TempDir,
}

impl Probes {
    /// With a compiler that answers the probe `feature` with a line of shell.
    fn new(answer: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let at = folder.path();
        for name in ["probes", "tmp"] {
            fs::create_dir(at.join(name)).expect("it can be made");
        }
        for name in ["control_pass", "control_fail", "feature"] {
            fs::write(at.join("probes").join(name).with_extension("c"), "\n")
                .expect("it can be written");
        }
        let compiler = at.join("compiler");
        let text = format!(
            "#!/bin/sh\nfor last; do :; done\ncase $last in\n*control_pass.c) exit 0 ;;\n\
             *control_fail.c) echo 'x.c:1: error: no' >&2; exit 1 ;;\nesac\n{answer}\n"
        );
        fs::write(&compiler, text).expect("it can be written");
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { folder }
    }

    fn header(&self) -> PathBuf {
        self.folder.path().join("cowbird_config.h")
    }

    fn run(&self) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../probes/run.sh");
        Command::new("sh")
            .arg(script)
            .arg(self.folder.path().join("probes"))
            .arg(self.header())
            .arg(self.folder.path().join("compiler"))
            .env("TMPDIR", self.folder.path().join("tmp"))
            .output()
            .expect("every host has sh")
    }
}

#[test]
fn answers_are_taken() {
    let missing =
        "echo 'feature.c:3:10: fatal error: linux/x.h: No such file or directory'; exit 1";
    // Whoever builds may have asked for colours.
    let coloured = "case \"$*\" in\n*-fdiagnostics-color=never*) echo 'f.c:3:1: error: x' ;;\n\
                    *) printf 'f.c:3:1:\\033[m \\033[01;31merror: \\033[mx\\n' ;;\nesac; exit 1";
    for (answer, line) in [
        ("exit 0", "#define HAVE_FEATURE 1"),
        (REFUSAL, "/* #undef HAVE_FEATURE */"),
        (missing, "/* #undef HAVE_FEATURE */"),
        (coloured, "/* #undef HAVE_FEATURE */"),
    ] {
        let probes = Probes::new(answer);
        let output = probes.run();
        assert!(output.status.success(), "{output:?}");
        let header = fs::read_to_string(probes.header()).expect("it is written");
        assert!(header.lines().any(|found| found == line), "{header}");
    }
}

#[test]
fn no_answer_is_no_refusal() {
    for (answer, ending) in [
        ("echo 'x.c:1:1: error: a' >&2; exit 4", "ended with 4"),
        ("kill -9 $$", "ended with 137"),
        ("exit 1", "ended with 1"),
        (
            "echo 'gcc: error: unknown option' >&2; exit 1",
            "ended with 1",
        ),
        (
            "echo 'gcc: fatal error: Killed signal terminated program cc1' >&2; exit 1",
            "ended with 1",
        ),
        (
            "echo 'x.c:1:1: error: a'; echo 'x.c:9: fatal error: error writing to /tmp/x.s: No space left on device'; exit 1",
            "ended with 1",
        ),
        ("exit 127", "ended with 127"),
    ] {
        let probes = Probes::new(answer);
        let output = probes.run();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && !probes.header().exists(),
            "{answer}: {said}"
        );
        let named = format!("no answer to the probe feature.c: none, the compiler {ending}");
        assert!(said.contains(&named), "{answer}: {said}");
    }
}

/// Without room not even the answer can be kept. Method: the compiler takes the folder of the answers away.
#[test]
fn an_answer_that_is_lost_is_no_refusal() {
    let probes = Probes::new("rm -rf \"$TMPDIR\"/tmp.*; exit 0");
    let output = probes.run();
    assert!(
        !output.status.success() && !probes.header().exists(),
        "{output:?}"
    );
}
