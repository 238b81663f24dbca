//! Measures Kekkai beside Docker on one machine in one run, for the table of bench/README.md.
//!
//! Commands are spawned without a shell, in turns A B A B; minimum, median and p99 are reported, back to back and with
//! 100 ms between runs, because the kernel's RCU makes these differ. No sample is ever dropped.
//!
//! `cargo run --release -p kekkai-bench -- [--quick] [--no-docker] [--only ROW,ROW] [--write]`

mod engine;
mod floor;
mod memory;
mod report;
mod rows;
mod sample;

use std::process::ExitCode;

use anyhow::Result;

/// What the command line asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// A tenth of the samples: a look, not a figure to publish.
    pub(crate) quick: bool,
    /// Kekkai alone.
    pub(crate) no_docker: bool,
    /// Docker alone, to try the benchmark itself.
    pub(crate) no_kekkai: bool,
    /// Names of the rows wanted; empty means all.
    pub(crate) only: Vec<String>,
    /// Put the table into bench/README.md.
    pub(crate) write: bool,
}

impl Options {
    /// `full` samples, or a tenth of them, five at least.
    pub(crate) fn count(&self, full: usize) -> usize {
        if self.quick {
            (full / 10).max(5).min(full)
        } else {
            full
        }
    }
}

fn parse() -> Result<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => options.quick = true,
            "--no-docker" => options.no_docker = true,
            "--no-kekkai" => options.no_kekkai = true,
            "--write" => options.write = true,
            "--only" => {
                options.only = words
                    .next()
                    .unwrap_or_default()
                    .split(',')
                    .map(str::to_owned)
                    .collect()
            }
            other => anyhow::bail!(
                "unknown argument {other}; rows are: {}",
                rows::NAMES.join(", ")
            ),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let outcome = parse().and_then(|options| {
        let report = rows::run(&options)?;
        println!("{}", report.markdown());
        if options.write {
            report.write_into_readme()?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kekkai-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
