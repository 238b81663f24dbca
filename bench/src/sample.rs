//! Samples of one quantity, and how one is taken.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Durations in the order they were measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<Duration>);

impl Samples {
    /// The q-quantile by rank (nearest above), q in 0..=1.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1))
            .or(sorted.last())
            .copied()
            .unwrap_or_default()
    }

    /// The middle one.
    pub(crate) fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// `min / median / p99 (n)` in milliseconds.
    pub(crate) fn words(&self) -> String {
        if self.0.is_empty() {
            return "–".into();
        }
        format!(
            "{} / {} / {}",
            ms(self.quantile(0.0)),
            ms(self.median()),
            ms(self.quantile(0.99))
        )
    }
}

/// Milliseconds with as many digits as carry meaning.
pub(crate) fn ms(d: Duration) -> String {
    let value = d.as_secs_f64() * 1000.0;
    if value < 10.0 {
        format!("{value:.2}")
    } else if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Runs one command to its end, its output thrown away; a failure is an error, not a sample.
pub(crate) fn time(mut command: Command) -> Result<Duration> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let status = child.wait()?;
    let took = started.elapsed();
    if !status.success() {
        let out = command.stderr(Stdio::piped()).output()?;
        bail!(
            "{command:?}: {status}; again: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(took)
}

/// A B A B …: one sample of each in turn, with a pause before each.
pub(crate) fn in_turns(
    count: usize,
    pause: Duration,
    commands: &[&dyn Fn() -> Command],
) -> Result<Vec<Samples>> {
    let mut samples = vec![Samples::default(); commands.len()];
    for command in commands {
        // The first of its kind pays for cold caches and lazy start; it is not of the series.
        time(command())?;
    }
    for _ in 0..count {
        for (i, command) in commands.iter().enumerate() {
            std::thread::sleep(pause);
            samples[i].0.push(time(command())?);
        }
    }
    Ok(samples)
}
