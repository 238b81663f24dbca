//! The daemon's own log: text or JSON lines, to stderr or a file, at a level that a reload may change.

use std::fs::File;
use std::sync::Mutex;

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::settings::{LogConfig, LogFormat};

/// Changes the level while the daemon runs.
pub(super) type LevelHandle = reload::Handle<LevelFilter, Registry>;

/// Starts logging.
///
/// # Errors
/// When the log file cannot be opened.
pub(super) fn start(config: &LogConfig) -> anyhow::Result<LevelHandle> {
    match &config.file {
        None => Ok(start_with(config, std::io::stderr)),
        Some(path) => {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))
                .with_context(|| format!("opening the log file {}", path.display()))?;
            Ok(start_with(config, Mutex::new(File::from(file))))
        }
    }
}

fn start_with<W>(config: &LogConfig, writer: W) -> LevelHandle
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let (level, handle) = reload::Layer::new(config.level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false);
    let lines: Box<dyn Layer<_> + Send + Sync> = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(level)
        .with(lines)
        .init();
    handle
}
