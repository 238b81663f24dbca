//! `kekkai daemon`: reads flags and daemon.json, opens the engine, serves the API until it is told to stop.
//!
//! ```text
//! flags ─┐
//!        ├─ merged directives ─▶ Settings ─▶ locks, sockets ─▶ Engine::open ─▶ serve ─▶ signal ─▶ leave
//! file  ─┘
//! ```
//!
//! What must stay true: an option that is not done is refused by name; leaving never stops a container.

mod activation;
mod directives;
mod flags;
mod instance;
mod logging;
mod options;
mod serve;
mod settings;

use std::process::ExitCode;

pub(crate) use flags::DaemonArgs;

/// Runs the daemon until it is told to stop.
pub(crate) fn run(args: DaemonArgs) -> ExitCode {
    let inherited = activation::take_listeners();
    match start(args, inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kekkai daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(
    args: DaemonArgs,
    inherited: anyhow::Result<Vec<std::os::fd::OwnedFd>>,
) -> anyhow::Result<()> {
    if args.failpoints {
        for name in kekkai_engine::failpoint::ALL
            .iter()
            .chain(kekkai_engine::failpoint::OF_IMAGES)
        {
            println!("{name}");
        }
        return Ok(());
    }
    if args.print_build {
        println!("{} {}", env!("CARGO_PKG_VERSION"), settings::short_build());
        return Ok(());
    }
    let validate = args.validate;
    let file = directives::Source::new(args.config_file.as_deref());
    let from_flags = args.into_directives()?;
    let settings = settings::Settings::read(directives::merge(&from_flags, &file)?)?;
    if validate {
        println!("configuration OK");
        return Ok(());
    }
    serve::run(settings, &from_flags, &file, inherited?)
}
