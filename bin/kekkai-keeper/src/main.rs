//! One static file under three names: the keeper, the `--init` of containers, and the built-in image's program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = name.to_string_lossy();
    match name.rsplit('/').next().unwrap_or_default() {
        "docker-init" | "kekkai-init" => kekkai_keeper::init::run(),
        "kekkai-hello" | "hello" => kekkai_keeper::hello::run(),
        _ => kekkai_keeper::server::run(),
    }
}
