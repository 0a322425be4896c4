//! What goes to the console, or to whoever started this program. A line that cannot be written is lost and nothing else: these programs end
//! where they panic, and the end of PID 1 is a panic of the kernel, which would be charged to the module under test.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Says a line on the standard error; see [`crate::say`].
pub fn error_line(line: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a line to the standard output, for whoever started this program.
///
/// # Errors
/// When he has gone.
pub fn line(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// `eprintln!` that never panics.
#[macro_export]
macro_rules! say {
    ($($word:tt)*) => {
        $crate::console::error_line(format_args!($($word)*))
    };
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    /// Goal: a console that cannot be written ends nobody. Method: this test runs itself with a device that is always full as standard
    /// error, and says a line.
    #[test]
    fn a_console_that_is_gone_ends_nobody() {
        const CHILD: &str = "COWBIRD_TEST_NO_CONSOLE";
        if std::env::var_os(CHILD).is_some() {
            crate::say!("cowbird-guest: {}", "lost");
            std::process::exit(7);
        }
        let full = std::fs::File::options().write(true).open("/dev/full");
        let status = Command::new(std::env::current_exe().expect("it runs"))
            .args([
                "--exact",
                "console::tests::a_console_that_is_gone_ends_nobody",
            ])
            .args(["--nocapture", "-q"])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .stderr(full.expect("it is there"))
            .status()
            .expect("it can be run");
        assert_eq!(status.code(), Some(7));
    }
}
