//! Container logs: how they are configured, written and read.
//!
//! Written by the keeper's pump threads only, read by the daemon ([`LogReader`]) at the same time; the two share
//! nothing but the files. What must stay true: no truncation, unlinking or renaming-over where output waits; a reader
//! never sees half a record as a whole one; a torn last record after a crash costs that record and no other.

mod config;
mod entry;
mod json;
mod local;
mod reader;
pub(crate) mod rotate;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{LogConfig, LogContext, LogDriver, LogMode, LogOptionError};
pub use entry::{LogEntry, LogError, LogQuery};
pub use reader::LogReader;
pub use writer::LogWriter;
pub(crate) use writer::MAX_PART;
