//! A process that ignores the ends of its processes, as `nohup`-like starters and some service managers leave it. In a program of its
//! own, because that is true of a whole process.

use std::path::Path;

use cowbird_devices::probe;

/// Goal: the answer of a child arrives however this program was started.
#[test]
fn answers_arrive_although_ends_were_ignored() {
    // SAFETY: a plain call; nothing else runs in this program that waits for a process.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    probe::opens(Path::new("/dev/null")).expect("it opens");
    let error = probe::opens(Path::new("/dev/missing")).expect_err("it is not there");
    assert!(format!("{error:#}").contains("No such file"), "{error:#}");
}
