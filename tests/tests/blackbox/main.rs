//! The black-box suite: every case through the docker CLI on Docker's own daemon, then through the docker CLI and
//! ours on our daemon.

#![allow(clippy::unwrap_used, reason = "a row fails where it stands")]

mod errors;
mod exec;
mod files;
mod images;
mod lifecycle;
mod listing;
mod networks;
mod options;
mod run;
mod streams;

fn main() -> std::process::ExitCode {
    let areas = [
        run::cases,
        options::cases,
        lifecycle::cases,
        streams::cases,
        exec::cases,
        files::cases,
        images::cases,
        listing::cases,
        networks::cases,
        errors::cases,
    ];
    let cases: Vec<_> = areas.into_iter().flat_map(|cases| cases()).collect();
    kekkai_tests::runner::main(&cases)
}
