//! Turns the bytes that a container writes into log records. Used by the keeper's pump threads.
//!
//! What must stay true: records are cut where Docker cuts them (16 KiB parts of a long line); the file always ends
//! with a whole record once [`LogWriter::append`] has returned, whatever went wrong; opening a file that a crash left
//! with a torn record cuts that record off and no other.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use crate::log::entry::Line;
use crate::log::rotate::{Chore, Identity, Rotation, rotate, rotation_of};
use crate::log::{LogConfig, LogDriver, json, local};
use crate::protocol::{Stream, UnixNanos};

/// A line's part has at most so many bytes, as in Docker.
pub(crate) const MAX_PART: usize = 16 * 1024;
/// Records are gathered up to about this many bytes before they are written.
const BATCH: usize = 96 * 1024;

/// The end of the last line of a stream, when its newline has not come yet.
#[derive(Debug, Default)]
struct Pending {
    /// Fewer than [`MAX_PART`] bytes.
    bytes: Vec<u8>,
    /// The time that all parts of a long line carry, once its first part is written.
    since: Option<UnixNanos>,
}

/// Writes one container's log.
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    attributes: Vec<u8>,
    file: Option<File>,
    identity: Identity,
    size: u64,
    pending: [Pending; 2],
    time: json::TimeText,
    last: UnixNanos,
    rotation: Option<Arc<Rotation>>,
}

impl LogWriter {
    /// A writer; the file is opened at the first output.
    #[must_use]
    pub fn new(config: LogConfig) -> Self {
        let attributes = match config.driver {
            LogDriver::Local => local::encode_attributes(&config.attributes),
            LogDriver::JsonFile => json::encode_attributes(&config.attributes),
            LogDriver::None => Vec::new(),
        };
        Self {
            config,
            attributes,
            file: None,
            identity: Identity::default(),
            size: 0,
            pending: Default::default(),
            time: json::TimeText::default(),
            last: 0,
            rotation: None,
        }
    }

    /// Whether anything is logged at all.
    #[must_use]
    pub(crate) fn is_none(&self) -> bool {
        self.config.driver == LogDriver::None
    }

    /// The bytes of `stream` that wait for their newline.
    #[must_use]
    pub(crate) fn pending(&self, stream: Stream) -> &[u8] {
        &self.pending[slot(stream)].bytes
    }

    /// Which file the next record goes to, and where.
    ///
    /// # Errors
    /// File errors of opening it.
    pub(crate) fn position(&mut self) -> io::Result<(Identity, u64)> {
        if self.file.is_none() {
            self.open()?;
        }
        Ok((self.identity, self.size))
    }

    /// Takes what a killed keeper may have written of a batch back: cuts the file to what it was. `false` if another
    /// file has taken its place meanwhile, because the batch was long and is in the log.
    ///
    /// # Errors
    /// File errors.
    pub(crate) fn go_back(&mut self, (identity, size): (Identity, u64)) -> io::Result<bool> {
        let file = File::options().write(true).open(&self.config.path)?;
        let meta = file.metadata()?;
        if Identity::of(&meta) != identity || meta.len() < size {
            return Ok(false);
        }
        file.set_len(size)?;
        self.file = None;
        Ok(true)
    }

    /// Takes over what a former keeper had read of an unfinished line.
    pub(crate) fn restore_pending(&mut self, stream: Stream, bytes: Vec<u8>) {
        self.pending[slot(stream)].bytes = bytes;
    }

    /// Logs what `stream` gave at `now`. `scratch` is a buffer that callers share; its content does not matter.
    ///
    /// # Errors
    /// File errors; the records that were not written are lost, the file stays whole.
    pub(crate) fn append(
        &mut self,
        scratch: &mut Vec<u8>,
        stream: Stream,
        data: &[u8],
        now: UnixNanos,
        chores: &dyn Fn(Chore),
    ) -> io::Result<()> {
        if self.is_none() {
            return Ok(());
        }
        scratch.clear();
        let mut pending = std::mem::take(&mut self.pending[slot(stream)]);
        let mut batch = Batch {
            writer: self,
            out: scratch,
            now,
            chores,
        };
        let result = batch
            .take(stream, &mut pending, data)
            .and_then(|()| batch.flush());
        self.pending[slot(stream)] = pending;
        if result.is_err() {
            self.recover_after_error();
        }
        result
    }

    /// Logs the rest of `stream`, which has ended: Docker writes it without a newline.
    ///
    /// # Errors
    /// File errors.
    pub(crate) fn end(
        &mut self,
        scratch: &mut Vec<u8>,
        stream: Stream,
        now: UnixNanos,
        chores: &dyn Fn(Chore),
    ) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending[slot(stream)]);
        if self.is_none() || pending.bytes.is_empty() {
            return Ok(());
        }
        scratch.clear();
        let mut batch = Batch {
            writer: self,
            out: scratch,
            now,
            chores,
        };
        let result = batch
            .record(stream, pending.since, [&[], &pending.bytes], true)
            .and_then(|_| batch.flush());
        if result.is_err() {
            self.recover_after_error();
        }
        result
    }

    /// Closes the file; the next output opens it again.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    /// A write failed half-way: cut the torn record off. The file is reopened (and checked) at the next output.
    fn recover_after_error(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file.set_len(self.size));
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.config.path)?;
        let meta = file.metadata()?;
        self.identity = Identity::of(&meta);
        let length = meta.len();
        let whole = match self.config.driver {
            LogDriver::Local => whole_local(&mut file, length)?,
            LogDriver::JsonFile | LogDriver::None => whole_lines(&mut file, length)?,
        };
        if whole != length {
            file.set_len(whole)?;
        }
        self.size = whole;
        if whole == 0 && self.config.driver == LogDriver::Local {
            file.write_all(local::MAGIC)?;
            self.size = local::MAGIC.len() as u64;
        }
        self.file = Some(file);
        Ok(())
    }
}

fn slot(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

/// Records on their way into the file.
struct Batch<'a> {
    writer: &'a mut LogWriter,
    out: &'a mut Vec<u8>,
    now: UnixNanos,
    chores: &'a dyn Fn(Chore),
}

impl Batch<'_> {
    fn take(&mut self, stream: Stream, pending: &mut Pending, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        if !pending.bytes.is_empty() || pending.since.is_some() {
            rest = self.finish_pending(stream, pending, rest)?;
        }
        let mut start = 0;
        if pending.bytes.is_empty() && pending.since.is_none() {
            for newline in memchr::memchr_iter(b'\n', rest) {
                let line = &rest[start..newline];
                if line.len() >= MAX_PART {
                    let mut long = Pending::default();
                    let kept = self.parts(stream, &mut long, line)?;
                    self.record(stream, long.since, [&[], kept], false)?;
                } else {
                    self.record(stream, None, [&[], line], false)?;
                }
                start = newline + 1;
            }
        }
        let kept = self.parts(stream, pending, &rest[start..])?;
        pending.bytes.extend_from_slice(kept);
        Ok(())
    }

    /// Completes the line that an earlier batch began, if its newline is here; returns what follows it. Without one,
    /// everything joins the pending line.
    fn finish_pending<'d>(
        &mut self,
        stream: Stream,
        pending: &mut Pending,
        data: &'d [u8],
    ) -> io::Result<&'d [u8]> {
        let newline = memchr::memchr(b'\n', data);
        let mut line = &data[..newline.unwrap_or(data.len())];
        while pending.bytes.len() + line.len() >= MAX_PART {
            let (part, rest) = line.split_at(MAX_PART - pending.bytes.len());
            pending.since =
                Some(self.record(stream, pending.since, [&pending.bytes, part], true)?);
            pending.bytes.clear();
            line = rest;
        }
        match newline {
            Some(newline) => {
                self.record(stream, pending.since.take(), [&pending.bytes, line], false)?;
                *pending = Pending::default();
                Ok(&data[newline + 1..])
            }
            None => {
                pending.bytes.extend_from_slice(line);
                Ok(&[])
            }
        }
    }

    /// Writes the whole 16 KiB parts of a line whose end is not known; returns the rest.
    fn parts<'d>(
        &mut self,
        stream: Stream,
        pending: &mut Pending,
        line: &'d [u8],
    ) -> io::Result<&'d [u8]> {
        let mut line = line;
        while let Some((part, rest)) = line.split_at_checked(MAX_PART) {
            pending.since = Some(self.record(stream, pending.since, [&[], part], true)?);
            line = rest;
        }
        Ok(line)
    }

    /// Adds one record; returns its time.
    fn record(
        &mut self,
        stream: Stream,
        at: Option<UnixNanos>,
        halves: [&[u8]; 2],
        partial: bool,
    ) -> io::Result<UnixNanos> {
        if self.writer.file.is_none() {
            self.writer.open()?;
        }
        let limit = self.writer.config.max_size.unwrap_or(u64::MAX);
        if self.writer.size + self.out.len() as u64 >= limit {
            self.rotate()?;
        } else if self.out.len() >= BATCH {
            self.flush()?;
        }
        let at = at.unwrap_or_else(|| {
            self.writer.last = self.now.max(self.writer.last + 1);
            self.writer.last
        });
        let line = Line {
            stream,
            at,
            halves,
            partial,
        };
        let LogWriter {
            config,
            attributes,
            time,
            ..
        } = &mut *self.writer;
        match config.driver {
            LogDriver::Local => local::append(self.out, &line, attributes),
            LogDriver::JsonFile => json::append(self.out, time, &line, attributes),
            LogDriver::None => {}
        }
        Ok(at)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.writer.file {
            file.write_all(self.out)?;
        }
        self.writer.size += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        let LogWriter {
            config, rotation, ..
        } = &mut *self.writer;
        let rotation = rotation.get_or_insert_with(|| rotation_of(&config.path));
        rotate(
            &config.path,
            config.max_file,
            config.compress,
            rotation,
            self.chores,
        )?;
        self.writer.close();
        self.writer.open()
    }
}

/// The length of the part of a `local` file that consists of whole records.
fn whole_local(file: &mut File, length: u64) -> io::Result<u64> {
    let magic = local::MAGIC.len() as u64;
    if length <= magic {
        return Ok(if length == magic { magic } else { 0 });
    }
    if ends_with_record(file, length)? {
        return Ok(length);
    }
    // Damage: walk from the start, over anything that is no record, and keep up to the end of the last whole one.
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let mut at = local::MAGIC.len().min(bytes.len());
    let mut whole = at;
    while at < bytes.len() {
        if let local::Scan::Record(head, _) = local::scan(&bytes[at..]) {
            at += head.record();
            whole = at;
        } else {
            at += 1;
        }
    }
    Ok(whole as u64)
}

fn ends_with_record(file: &mut File, length: u64) -> io::Result<bool> {
    let mut tail = [0; local::TAIL];
    file.seek(SeekFrom::Start(length - tail.len() as u64))?;
    file.read_exact(&mut tail)?;
    let record = (local::HEAD + local::TAIL) as u64 + u64::from(u32::from_le_bytes(tail));
    let Some(start) = length
        .checked_sub(record)
        .filter(|start| *start >= local::MAGIC.len() as u64)
    else {
        return Ok(false);
    };
    if record > (local::HEAD + local::TAIL + local::MAX_PAYLOAD) as u64 {
        return Ok(false);
    }
    let mut bytes = vec![0; usize::try_from(record).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(matches!(local::scan(&bytes), local::Scan::Record(head, _) if head.record() == bytes.len()))
}

/// The length of the part of a text file that consists of whole lines.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    const STEP: u64 = 4096;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if let Some(newline) = memchr::memrchr(b'\n', &bytes) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
