//! Reads logs while they are written.
//!
//! What must stay true: a record is given out once and whole; a damaged one is passed over and the next whole one is
//! found; rotation, compression and removal of files that the reader has begun with do not disturb it.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;

use crate::log::segment::{Segment, json_record, open_all, successors};
use crate::log::{LogConfig, LogDriver, LogEntry, LogError, LogQuery, json, local};
use crate::protocol::Stream;

/// How much is read at once.
const STEP: usize = 64 * 1024;
/// A line of a `json-file` that is longer than this is no entry of ours: 16 KiB, escaped, and attributes.
const MAX_LINE: usize = 1 << 20;

/// Reads a log's entries, oldest first, over its rotated files, while it may be written.
///
/// At the end [`LogReader::next_entry`] answers `None`; called again after the log has grown (see
/// [`crate::protocol::Request::WatchLog`]) it goes on where it was, across rotations.
#[derive(Debug)]
pub struct LogReader {
    config: LogConfig,
    query: LogQuery,
    current: Option<Segment>,
    later: VecDeque<Segment>,
    /// Bytes of the current file that are not given out yet: `buffer[start..]`, followed in the file at `offset`.
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
    done: bool,
}

impl LogReader {
    /// Opens the log of this configuration. A log that does not exist yet is empty.
    ///
    /// # Errors
    /// [`LogError::Unreadable`] for `none`; file errors.
    pub fn open(config: &LogConfig, query: LogQuery) -> Result<Self, LogError> {
        if config.driver == LogDriver::None {
            return Err(LogError::Unreadable);
        }
        let mut reader = Self {
            config: config.clone(),
            query,
            current: None,
            later: open_all(&config.path, config.max_file)?,
            buffer: Vec::new(),
            start: 0,
            offset: 0,
            done: false,
        };
        reader.seek_tail()?;
        Ok(reader)
    }

    /// The next entry; `None` at the present end. Blocks only on the disk.
    ///
    /// # Errors
    /// File errors. Damaged records are passed over.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>, LogError> {
        while !self.done {
            let Some(entry) = self.next_any()? else {
                return Ok(None);
            };
            if self.query.until.is_some_and(|until| entry.at > until) {
                self.done = true;
            } else if self.query.since.is_none_or(|since| entry.at >= since) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Whether an entry later than `until` was met: nothing more will come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Starts at the last `tail` entries: counts backwards from the newest file.
    fn seek_tail(&mut self) -> Result<(), LogError> {
        let Some(mut wanted) = self.query.tail else {
            return Ok(());
        };
        let mut kept = VecDeque::new();
        let mut offset = 0;
        while let Some(mut segment) = self.later.pop_back() {
            let (start, count) = segment.tail(self.config.driver, wanted)?;
            wanted -= count.min(wanted);
            offset = start;
            kept.push_front(segment);
            if wanted == 0 {
                break;
            }
        }
        self.later = kept;
        self.current = self.later.pop_front();
        self.offset = offset;
        Ok(())
    }

    fn next_any(&mut self) -> Result<Option<LogEntry>, LogError> {
        loop {
            if self.current.is_none() && !self.advance()? {
                return Ok(None);
            }
            if let Some(entry) = self.parse() {
                return Ok(Some(entry));
            }
            if self.fill()? {
                continue;
            }
            // The end of this file. If it is not the current one any more, it may have grown before it was rotated.
            if self.later.is_empty() && !self.find_successors()? {
                self.rewind();
                return Ok(None);
            }
            if self.fill()? {
                continue;
            }
            if self.config.driver == LogDriver::Local && self.start < self.buffer.len() {
                // What looked like the front of a record never became one; another may follow it.
                self.start += 1;
            } else {
                self.current = None;
            }
        }
    }

    /// Forgets a record that has only begun: when a new keeper cuts a torn one off, other bytes will stand there.
    fn rewind(&mut self) {
        self.offset -= (self.buffer.len() - self.start) as u64;
        self.buffer.clear();
        self.start = 0;
    }

    /// Whether newer files than the current one were found.
    fn find_successors(&mut self) -> Result<bool, LogError> {
        let Some(current) = &self.current else {
            return Ok(false);
        };
        let found = successors(&self.config.path, self.config.max_file, current.identity)?;
        if let Some(found) = found {
            self.later = found;
            return Ok(true);
        }
        Ok(false)
    }

    /// Goes to the next file; `false` if there is none.
    fn advance(&mut self) -> Result<bool, LogError> {
        if self.later.is_empty() && self.offset == 0 && self.buffer.is_empty() {
            // Nothing was there yet when the reader was opened.
            self.later = open_all(&self.config.path, self.config.max_file)?;
        }
        let Some(mut segment) = self.later.pop_front() else {
            return Ok(false);
        };
        segment.unpack()?;
        self.current = Some(segment);
        self.buffer.clear();
        self.start = 0;
        self.offset = 0;
        Ok(true)
    }

    /// Reads on; `false` at the end of the file.
    fn fill(&mut self) -> Result<bool, LogError> {
        let Some(segment) = &self.current else {
            return Ok(false);
        };
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + STEP, 0);
        let count = loop {
            match segment.file.read_at(&mut self.buffer[old..], self.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    self.buffer.truncate(old);
                    return Err(LogError::Io {
                        operation: "cannot read log file",
                        path: self.config.path.clone(),
                        source,
                    });
                }
                Ok(count) => break count,
            }
        };
        self.buffer.truncate(old + count);
        self.offset += count as u64;
        Ok(count > 0)
    }

    /// The next whole entry of the buffer.
    fn parse(&mut self) -> Option<LogEntry> {
        match self.config.driver {
            LogDriver::Local => self.parse_local(),
            LogDriver::JsonFile | LogDriver::None => self.parse_json(),
        }
    }

    fn parse_local(&mut self) -> Option<LogEntry> {
        if self.offset == self.buffer.len() as u64 && self.start == 0 {
            // The front of the file. A file of another version has nothing that could be read.
            if self.buffer.len() < local::MAGIC.len() {
                return None;
            }
            if self.buffer.starts_with(local::MAGIC) {
                self.start = local::MAGIC.len();
            }
        }
        loop {
            let rest = &self.buffer[self.start..];
            match local::scan(rest) {
                local::Scan::Short => return None,
                local::Scan::Damaged => self.start += 1,
                local::Scan::Record(head, payload) => {
                    self.start += head.record();
                    let split = if head.attributes {
                        local::split_attributes(payload)
                    } else {
                        Some((Vec::new(), payload))
                    };
                    let Some((attributes, line)) = split else {
                        continue;
                    };
                    let mut line = line.to_vec();
                    if !head.partial {
                        line.push(b'\n');
                    }
                    return Some(LogEntry {
                        stream: head.stream,
                        at: head.at,
                        line,
                        attributes,
                    });
                }
            }
        }
    }

    fn parse_json(&mut self) -> Option<LogEntry> {
        loop {
            let rest = &self.buffer[self.start..];
            let Some(newline) = memchr::memchr(b'\n', rest) else {
                if rest.len() > MAX_LINE {
                    self.start = self.buffer.len();
                }
                return None;
            };
            let line = &rest[..newline];
            let entry = json_record(line).and_then(|record| {
                Some(LogEntry {
                    stream: if record.stream == "stderr" {
                        Stream::Stderr
                    } else {
                        Stream::Stdout
                    },
                    at: json::parse_time(&record.time)?,
                    line: record.log.into_owned().into_bytes(),
                    attributes: record.attrs.into_iter().collect(),
                })
            });
            self.start += newline + 1;
            if entry.is_some() {
                return entry;
            }
        }
    }
}

impl Iterator for LogReader {
    type Item = Result<LogEntry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}
