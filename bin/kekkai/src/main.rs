//! The `kekkai` executable: the command line, and with `kekkai daemon` the engine's daemon.
//!
//! Only glue. The daemon's flags are read with clap because nobody waits for them; the command line's own tables
//! (`cli`) cost nothing at start, because somebody does.

#![forbid(unsafe_code)]

mod build_id;
mod cli;
mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let first = std::env::args_os().nth(1);
    if first
        .as_ref()
        .is_some_and(|word| word == cli::auto_start::START_WORD)
    {
        return cli::auto_start::become_daemon();
    }
    if first.is_some_and(|word| word == "daemon") {
        let rest = program.into_iter().chain(arguments.skip(1));
        return daemon::run(<daemon::DaemonArgs as clap::Parser>::parse_from(rest));
    }
    cli::main()
}
