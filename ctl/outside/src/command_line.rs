//! The command line: help and versions are output like any other.

use std::process::ExitCode;

use clap::Parser;

use crate::out;

/// What clap ends with when the command makes no sense.
const USAGE: u8 = 2;

/// Reads the command line, or says what is wrong with it, or prints the help that was asked for.
///
/// # Errors
/// With the exit code that is then due. Help that could not be written fails.
pub fn parse<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        if error.use_stderr() {
            // If that fails there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(USAGE);
        }
        out::text(&error.render().to_string());
        finish(program, ExitCode::SUCCESS)
    })
}

/// Ends a program: `code`, or failure when it is success and not all output could be written.
pub fn finish(program: &str, code: ExitCode) -> ExitCode {
    let Err(error) = out::finish() else {
        return code;
    };
    out::complain(program, format_args!("{error:#}"));
    match code == ExitCode::SUCCESS {
        true => ExitCode::FAILURE,
        false => code,
    }
}
