//! Log drivers and their options, in Docker's words.
//!
//! What must stay true: an option that is not done is refused by name; nothing is silently ignored.

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
    /// Docker's bounded buffer between container and log. Our pipes and writer threads are that buffer already, so that
    /// this behaves as `Blocking` with the kernel's 64 KiB of pipe before it; nothing is ever dropped.
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
    /// `attrs` of every entry: chosen labels and variables, and the tag. Sorted; in all at most
    /// [`LogConfig::MAX_ATTRIBUTES`] bytes.
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

impl LogOptionError {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            class: ErrorClass::InvalidArgument,
        }
    }

    /// The class of this error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

impl Classify for LogOptionError {
    fn class(&self) -> ErrorClass {
        self.class
    }
}

impl LogConfig {
    /// The most bytes that all attributes together may have: they are kept in the keeper's state table.
    pub const MAX_ATTRIBUTES: usize = 2048;
    /// The most files of one log: a reader holds them all open.
    pub const MAX_FILES: u32 = 512;
    /// The longest path of a log file in bytes, for the same reason.
    pub const MAX_PATH: usize = 1024;

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
        let driver = match driver {
            "" | "local" => LogDriver::Local,
            "json-file" => LogDriver::JsonFile,
            "none" => LogDriver::None,
            other => {
                let message = format!("logger: no log driver named '{other}' is registered");
                return Err(LogOptionError::invalid(message));
            }
        };
        let mut config = Self::new(driver, path);
        if driver == LogDriver::None {
            return Ok(config);
        }
        config.mode = mode(options)?;
        for (key, value) in options {
            config.set(key, value, context)?;
        }
        config.attributes.sort();
        config.check()?;
        Ok(config)
    }

    /// A driver with its defaults: `local` 5 files of 20 MiB, compressed; `json-file` one file without bound.
    #[must_use]
    pub fn new(driver: LogDriver, path: PathBuf) -> Self {
        let local = driver == LogDriver::Local;
        Self {
            driver,
            path,
            max_size: local.then_some(20 << 20),
            max_file: if local { 5 } else { 1 },
            compress: local,
            mode: LogMode::Blocking,
            attributes: Vec::new(),
        }
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

    fn set(&mut self, key: &str, value: &str, context: &LogContext) -> Result<(), LogOptionError> {
        match key {
            "mode" | "max-buffer-size" => {}
            "max-size" => self.max_size = self.parse_max_size(value)?,
            "max-file" => self.max_file = self.parse_max_file(value)?,
            "compress" => {
                self.compress = parse_bool(value).ok_or_else(|| {
                    let message = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
                    LogOptionError::invalid(match self.driver {
                        LogDriver::Local => {
                            format!("invalid boolean value for compress: {message}")
                        }
                        _ => message,
                    })
                })?;
            }
            "labels" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    if let Some(text) = context.labels.get(name) {
                        self.attributes.push((name.to_owned(), text.clone()));
                    }
                }
            }
            "env" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    let found = context
                        .env
                        .iter()
                        .rev()
                        .filter_map(|pair| pair.split_once('='));
                    if let Some((_, text)) = found.into_iter().find(|(key, _)| *key == name) {
                        self.attributes.push((name.to_owned(), text.to_owned()));
                    }
                }
            }
            "tag" => {
                let tag = expand_tag(value, context)?;
                if !tag.is_empty() {
                    self.attributes.push(("tag".to_owned(), tag));
                }
            }
            "labels-regex" | "env-regex" => {
                let message = format!("log opt '{key}' is not supported by this engine");
                return Err(LogOptionError {
                    message,
                    class: ErrorClass::NotImplemented,
                });
            }
            other => {
                return Err(LogOptionError::invalid(match self.driver {
                    LogDriver::JsonFile => {
                        format!("unknown log opt '{other}' for json-file log driver")
                    }
                    _ => format!(
                        "unknown log opt '{other}' for log driver {}",
                        self.driver_name()
                    ),
                }));
            }
        }
        Ok(())
    }

    fn parse_max_size(&self, value: &str) -> Result<Option<u64>, LogOptionError> {
        let size = parse_human_size(value).ok_or_else(|| {
            LogOptionError::invalid(match self.driver {
                LogDriver::Local => {
                    format!("invalid value for max-size: {value}: invalid size: '{value}'")
                }
                _ => format!("invalid size: '{value}'"),
            })
        })?;
        match (self.driver, size) {
            (LogDriver::JsonFile, 0) => Err(LogOptionError::invalid(
                "max-size must be a positive number",
            )),
            (_, 0) => Ok(None),
            (_, size) => Ok(Some(size)),
        }
    }

    fn parse_max_file(&self, value: &str) -> Result<u32, LogOptionError> {
        let parsed = value.parse::<i64>().map_err(|_| {
            let message = format!("strconv.Atoi: parsing {value:?}: invalid syntax");
            LogOptionError::invalid(match self.driver {
                LogDriver::Local => format!("invalid value for max-file: {value}: {message}"),
                _ => message,
            })
        })?;
        match (self.driver, parsed) {
            (LogDriver::JsonFile, ..1) => {
                Err(LogOptionError::invalid("max-file cannot be less than 1"))
            }
            (_, ..0) => Err(LogOptionError::invalid("max-file must not be negative")),
            (_, files) if files > i64::from(Self::MAX_FILES) => Err(LogOptionError::invalid(
                format!("max-file cannot be more than {}", Self::MAX_FILES),
            )),
            // Docker keeps the current file alone for 0 too.
            (_, files) => Ok(u32::try_from(files).unwrap_or(1).max(1)),
        }
    }

    fn check(&self) -> Result<(), LogOptionError> {
        let single = self.max_file < 2;
        match self.driver {
            LogDriver::JsonFile if self.compress && (single || self.max_size.is_none()) => {
                return Err(LogOptionError::invalid(
                    "compress cannot be true when max-file is less than 2 or max-size is not set",
                ));
            }
            LogDriver::Local if self.compress && single => {
                return Err(LogOptionError::invalid(
                    "compression cannot be enabled when max file count is 1",
                ));
            }
            _ => {}
        }
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(key, value)| key.len() + value.len() + 8)
            .sum();
        if attributes > Self::MAX_ATTRIBUTES {
            let limit = Self::MAX_ATTRIBUTES;
            return Err(LogOptionError::invalid(format!(
                "log attributes take {attributes} bytes, at most {limit} fit"
            )));
        }
        if self.path.as_os_str().len() > Self::MAX_PATH {
            return Err(LogOptionError::invalid("the log's path is too long"));
        }
        Ok(())
    }
}

fn mode(options: &BTreeMap<String, String>) -> Result<LogMode, LogOptionError> {
    let buffer = options.get("max-buffer-size");
    match options.get("mode").map_or("", String::as_str) {
        "" | "blocking" if buffer.is_some() => Err(LogOptionError::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        )),
        "" | "blocking" => Ok(LogMode::Blocking),
        "non-blocking" => {
            let parsed = buffer.map_or(Ok(1 << 20), |text| kekkai_types::size::parse_ram(text));
            let bytes = parsed.ok().and_then(|bytes| u64::try_from(bytes).ok());
            match (bytes, buffer) {
                (Some(max_buffer), _) => Ok(LogMode::NonBlocking { max_buffer }),
                (None, buffer) => Err(LogOptionError::invalid(format!(
                    "error parsing option max-buffer-size: invalid size: '{}'",
                    buffer.map_or("", String::as_str)
                ))),
            }
        }
        other => Err(LogOptionError::invalid(format!(
            "logger: logging mode not supported: {other}"
        ))),
    }
}

/// Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// go-units' `FromHumanSize`: decimal units, `20m` is 20,000,000 bytes.
fn parse_human_size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1_000,
        "m" | "mb" | "mib" => 1_000_000,
        "g" | "gb" | "gib" => 1_000_000_000,
        "t" | "tb" | "tib" => 1_000_000_000_000,
        "p" | "pb" | "pib" => 1_000_000_000_000_000,
        _ => return None,
    };
    // A fraction needs six digits at most to be exact to the byte in any size a log has.
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = if whole.is_empty() && !fraction.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction: String = fraction.chars().take(6).collect();
    let parts = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u64>().ok()?
    };
    let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    whole
        .checked_mul(factor)?
        .checked_add(parts.checked_mul(factor)? / scale)
}

/// Expands the fields of Docker's log tags; other template actions are refused.
fn expand_tag(template: &str, context: &LogContext) -> Result<String, LogOptionError> {
    let short = |id: &str| -> String {
        id.strip_prefix("sha256:")
            .unwrap_or(id)
            .chars()
            .take(12)
            .collect()
    };
    let mut tag = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let refused =
            || LogOptionError::invalid(format!("log tag template {template:?} is not supported"));
        let (action, after) = after.split_once("}}").ok_or_else(refused)?;
        tag.push_str(before);
        match action.trim() {
            ".ID" => tag.push_str(&short(&context.id)),
            ".FullID" => tag.push_str(&context.id),
            ".Name" => tag.push_str(&context.name),
            ".ImageID" => tag.push_str(&short(&context.image_id)),
            ".ImageFullID" => tag.push_str(&context.image_id),
            ".ImageName" => tag.push_str(&context.image_name),
            ".DaemonName" => tag.push_str("docker"),
            _ => return Err(refused()),
        }
        rest = after;
    }
    tag.push_str(rest);
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, options: &[(&str, &str)]) -> Result<LogConfig, String> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let context = LogContext {
            id: "0123456789abcdef".repeat(4),
            labels: BTreeMap::from([("tier".to_owned(), "web".to_owned())]),
            env: vec!["A=1".to_owned(), "B=2".to_owned()],
            ..LogContext::default()
        };
        LogConfig::from_docker(driver, &options, "/x/container.log".into(), &context)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let local = parse("", &[]).unwrap();
        assert_eq!(
            (local.driver, local.max_size, local.max_file, local.compress),
            (LogDriver::Local, Some(20 << 20), 5, true)
        );
        let json = parse("json-file", &[]).unwrap();
        assert_eq!(
            (json.max_size, json.max_file, json.compress),
            (None, 1, false)
        );
        assert_eq!(
            parse("none", &[("anything", "x")]).unwrap().driver,
            LogDriver::None
        );
    }

    #[test]
    fn values() {
        let config = parse(
            "json-file",
            &[("max-size", "10m"), ("max-file", "3"), ("compress", "true")],
        )
        .unwrap();
        assert_eq!(
            (config.max_size, config.max_file, config.compress),
            (Some(10_000_000), 3, true)
        );
        let config = parse(
            "json-file",
            &[("labels", "tier,other"), ("env", "B"), ("tag", "x-{{.ID}}")],
        )
        .unwrap();
        let expected = [("B", "2"), ("tag", "x-0123456789ab"), ("tier", "web")];
        assert_eq!(
            config.attributes,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
        assert_eq!(
            parse("local", &[("max-size", "1.5k")]).unwrap().max_size,
            Some(1500)
        );
        assert_eq!(
            parse("local", &[("mode", "non-blocking")]).unwrap().mode,
            LogMode::NonBlocking {
                max_buffer: 1 << 20
            }
        );
    }

    #[test]
    fn refused() {
        for (driver, options, message) in [
            (
                "syslog",
                &[][..],
                "logger: no log driver named 'syslog' is registered",
            ),
            (
                "json-file",
                &[("foo", "1")],
                "unknown log opt 'foo' for json-file log driver",
            ),
            (
                "local",
                &[("foo", "1")],
                "unknown log opt 'foo' for log driver local",
            ),
            (
                "json-file",
                &[("max-file", "0")],
                "max-file cannot be less than 1",
            ),
            (
                "json-file",
                &[("max-size", "0")],
                "max-size must be a positive number",
            ),
            ("json-file", &[("max-size", "x")], "invalid size: 'x'"),
            (
                "json-file",
                &[("compress", "true")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            (
                "local",
                &[("max-file", "1")],
                "compression cannot be enabled when max file count is 1",
            ),
            (
                "local",
                &[("mode", "odd")],
                "logger: logging mode not supported: odd",
            ),
            (
                "local",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "json-file",
                &[("labels-regex", "a")],
                "log opt 'labels-regex' is not supported by this engine",
            ),
        ] {
            assert_eq!(parse(driver, options).unwrap_err(), message);
        }
    }
}
