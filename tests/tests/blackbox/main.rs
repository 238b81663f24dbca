//! The black-box suite: every case through the docker CLI on Docker's own daemon, then through the docker CLI and
//! ours on our daemon.

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
    kekkai_tests::runner::main(areas.into_iter().flat_map(|cases| cases()).collect())
}
