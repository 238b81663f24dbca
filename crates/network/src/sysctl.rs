//! `/proc/sys/net` of the network namespace that the calling thread is in.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::NetworkError;

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

/// Whether this kernel has it.
pub(crate) fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Writes a value; `name` is relative to `/proc/sys/net`.
pub(crate) fn write(name: &str, value: &str) -> Result<(), NetworkError> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path(name))
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| NetworkError::kernel(format!("write {value} to net/{name}"), source))
}

/// Writes a value unless it is there already.
pub(crate) fn ensure(name: &str, value: &str) -> Result<(), NetworkError> {
    match std::fs::read_to_string(path(name)) {
        Ok(text) if text.trim() == value => Ok(()),
        _ => write(name, value),
    }
}
