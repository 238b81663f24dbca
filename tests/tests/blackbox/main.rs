//! The black-box suite: every case through the docker CLI on Docker's own daemon, then through the docker CLI and
//! ours on our daemon.

mod run;

fn main() -> std::process::ExitCode {
    let mut cases = Vec::new();
    cases.extend(run::cases());
    kekkai_tests::runner::main(cases)
}
