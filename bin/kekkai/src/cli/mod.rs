//! The command line.

use std::process::ExitCode;

/// Reads the arguments and runs the command.
pub fn main() -> ExitCode {
    eprintln!("kekkai: the command line is being written");
    ExitCode::FAILURE
}
