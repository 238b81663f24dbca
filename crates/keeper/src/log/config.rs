//! Log drivers and their options, in Docker's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kekkai_types::{Classify, ErrorClass};
use serde::{Deserialize, Serialize};

/// Which form the log has on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogDriver {
    /// Our compact binary records, rotated; the default.
    Local,
    /// Docker's `json-file`, byte for byte.
    JsonFile,
    /// Nothing is kept.
    None,
}

/// What happens to output when the log's disk is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogMode {
    /// The container waits.
    Blocking,
    /// Output beyond this many waiting bytes is dropped from the log.
    NonBlocking {
        /// Bytes.
        max_buffer: u64,
    },
}

/// A container's log: driver, place and bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The driver.
    pub driver: LogDriver,
    /// The current file; rotated ones stand beside it as `<path>.1`, `<path>.2.gz` … (the directory must exist).
    pub path: PathBuf,
    /// A file that has reached this many bytes is rotated; `None` never.
    pub max_size: Option<u64>,
    /// How many files are kept, the current one included; at least 1.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// Blocking or not.
    pub mode: LogMode,
    /// `attrs` of `json-file`: chosen labels and variables, and the tag. In all at most 2 KiB.
    pub attributes: Vec<(String, String)>,
}

/// What a container tells about itself to the options `labels`, `env` and `tag`.
#[derive(Debug, Clone, Default)]
pub struct LogContext {
    /// Its 64-digit id.
    pub id: String,
    /// Its name without the slash.
    pub name: String,
    /// Its image's id, `sha256:…`.
    pub image_id: String,
    /// Its image as it was asked for.
    pub image_name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its environment as `NAME=value`.
    pub env: Vec<String>,
}

/// An option that is wrong, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LogOptionError {
    message: String,
    class: ErrorClass,
}

impl Classify for LogOptionError {
    fn class(&self) -> ErrorClass {
        self.class
    }
}

impl LogConfig {
    /// Reads `--log-driver` and `--log-opt`; `path` is the current log file. An empty driver is the default, `local`.
    ///
    /// # Errors
    /// An unknown driver or option, or a bad value.
    pub fn from_docker(
        driver: &str,
        options: &BTreeMap<String, String>,
        path: PathBuf,
        context: &LogContext,
    ) -> Result<Self, LogOptionError> {
        let _ = (options, context);
        let driver = match driver {
            "" | "local" => LogDriver::Local,
            "json-file" => LogDriver::JsonFile,
            "none" => LogDriver::None,
            other => {
                return Err(LogOptionError {
                    message: format!("logger: no log driver named '{other}' is registered"),
                    class: ErrorClass::InvalidArgument,
                });
            }
        };
        Ok(Self {
            driver,
            path,
            max_size: (driver == LogDriver::Local).then_some(20 << 20),
            max_file: if driver == LogDriver::Local { 5 } else { 1 },
            compress: driver == LogDriver::Local,
            mode: LogMode::Blocking,
            attributes: Vec::new(),
        })
    }

    /// The driver's name.
    #[must_use]
    pub fn driver_name(&self) -> &'static str {
        match self.driver {
            LogDriver::Local => "local",
            LogDriver::JsonFile => "json-file",
            LogDriver::None => "none",
        }
    }
}
