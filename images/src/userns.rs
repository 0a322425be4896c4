//! Whether a user who is not root may have namespaces of his own, in which build roots are made and entered.

use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// A setting that forbids it, by the value that does, and how it is allowed.
struct Setting {
    path: &'static str,
    forbids: &'static str,
    name: &'static str,
    allows: &'static str,
}

const SETTINGS: [Setting; 3] = [
    // Debian's and Ubuntu's own.
    Setting {
        path: "/proc/sys/kernel/unprivileged_userns_clone",
        forbids: "0",
        name: "kernel.unprivileged_userns_clone=0",
        allows: "kernel.unprivileged_userns_clone=1",
    },
    // Ubuntu 23.10 and later.
    Setting {
        path: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbids: "1",
        name: "kernel.apparmor_restrict_unprivileged_userns=1",
        allows: "kernel.apparmor_restrict_unprivileged_userns=0",
    },
    Setting {
        path: "/proc/sys/user/max_user_namespaces",
        forbids: "0",
        name: "user.max_user_namespaces=0",
        allows: "user.max_user_namespaces=10000",
    },
];

/// Makes sure that build roots can be made and entered, before minutes are spent.
pub(crate) fn ensure() -> Result<()> {
    // What is allowed depends on the program as well (AppArmor), and in a container on what is mounted over /proc: the program that
    // is used is tried with all that is asked of it.
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--net"])
        .args(["--fork", "--mount-proc", "true"])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        // It is missing; who runs it next says which package brings it.
        Err(_) => return Ok(()),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let read = |path: &str| std::fs::read_to_string(path).ok();
    Err(Error::NoUserNamespaces {
        why: why(said, read),
    })
}

fn why(said: String, read: impl Fn(&str) -> Option<String>) -> String {
    let forbids = |setting: &&Setting| {
        read(setting.path).is_some_and(|value| value.trim() == setting.forbids)
    };
    match SETTINGS.iter().find(forbids) {
        Some(setting) => format!(
            "{} forbids it ({said}): run as root, or allow it with `sudo sysctl -w {}`",
            setting.name, setting.allows
        ),
        None => format!(
            "{said}: run as root; in a container, give it the right to (docker: `--privileged`, or \
             `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the setting that forbids it is named, with what allows it. Method: in namespaces in which no further ones are allowed, this test runs
    /// itself; and each setting by itself.
    #[test]
    fn the_setting_that_forbids_is_named() {
        const CHILD: &str = "COWBIRD_TEST_NO_USER_NAMESPACES";
        if std::env::var_os(CHILD).is_some() {
            let message = ensure().unwrap_err().to_string();
            assert!(
                message.contains("user.max_user_namespaces=0 forbids"),
                "{message}"
            );
            assert!(message.contains("run as root, or"), "{message}");
            return;
        }
        for setting in &SETTINGS {
            let read =
                |path: &str| (path == setting.path).then(|| format!("{}\n", setting.forbids));
            let why = why("no".to_owned(), read);
            assert!(
                why.starts_with(setting.name) && why.contains(setting.allows),
                "{why}"
            );
        }
        assert!(why("no".to_owned(), |_| None).contains("--privileged"));
        ensure().expect("whoever runs these tests may make roots");
        let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "userns::tests::the_setting_that_forbids_is_named",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains(" 1 passed;"),
            "{said}"
        );
    }
}
