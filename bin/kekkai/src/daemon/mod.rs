//! `kekkai daemon`: reads flags and daemon.json, opens the engine, serves the API. (Placeholder of helper CLI until helper API's module is here.)

use std::process::ExitCode;

/// Flags of `kekkai daemon`.
#[derive(Debug, clap::Parser)]
#[command(name = "kekkai daemon", disable_version_flag = true)]
pub struct DaemonArgs {}

/// Runs the daemon until it is told to stop.
pub fn run(_args: DaemonArgs) -> ExitCode {
    eprintln!("kekkai: this build has no daemon yet");
    ExitCode::FAILURE
}
