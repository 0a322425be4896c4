//! How apt-get is asked to install packages, by this program and by whoever reads what to do.

use std::time::Duration;

/// How long others may hold apt's or dpkg's lock: an upgrade of a whole system takes minutes.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// The words that install packages and remove none; `lock_wait_s` is how long apt-get itself waits for dpkg's lock. For others,
/// as that of the lists, it never waits: see [`crate::locks::wait_for_locks`].
#[must_use]
pub fn install_words(packages: &[&str], lock_wait_s: u64) -> Vec<String> {
    let wait = format!("DPkg::Lock::Timeout={lock_wait_s}");
    let options = ["install", "-y", "--no-install-recommends", "--no-remove"];
    let options = options.into_iter().chain(["-o", wait.as_str()]);
    options
        .chain(packages.iter().copied())
        .map(str::to_owned)
        .collect()
}

/// The command for people.
#[must_use]
pub fn install_command(packages: &[&str], is_root: bool) -> String {
    let sudo = if is_root { "" } else { "sudo " };
    let words = install_words(packages, LOCK_WAIT_MAX.as_secs());
    format!("{sudo}apt-get {}", words.join(" "))
}
