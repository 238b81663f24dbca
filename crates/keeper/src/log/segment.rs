//! The files of a log as a reader holds them: opened together, so that rotation and removal cannot take them away.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::log::rotate::{Identity, with_suffix};
use crate::log::{LogDriver, LogError, json, local};

/// The most bytes that a compressed file may unpack to: far above any `max-size` one would compress.
const MAX_UNPACKED: u64 = 8 << 30;
/// How often the set of files is opened anew when a rotation came between.
const ATTEMPTS: usize = 20;

/// One file of a log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: File,
    /// Which file it was when it was written; a compressed one remembers it.
    pub(crate) identity: Identity,
    /// Whether `file` is compressed still.
    compressed: bool,
    path: PathBuf,
}

impl Segment {
    fn open(path: PathBuf, compressed: bool) -> io::Result<Option<Self>> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let identity = if compressed {
            original_identity(&file)
        } else {
            Some(Identity::of(&file.metadata()?))
        };
        Ok(Some(Self {
            file,
            identity: identity.unwrap_or_default(),
            compressed,
            path,
        }))
    }

    /// Unpacks a compressed file into an unlinked one, so that it can be read from both ends.
    pub(crate) fn unpack(&mut self) -> Result<(), LogError> {
        if !self.compressed {
            return Ok(());
        }
        let failed = |source| LogError::Io {
            operation: "cannot unpack log file",
            path: self.path.clone(),
            source,
        };
        let mut unpacked =
            temporary(self.path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let mut decoder = flate2::read::MultiGzDecoder::new(&self.file).take(MAX_UNPACKED);
        // A damaged file is read as far as it goes.
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = decoder.read(&mut buffer) {
            unpacked.write_all(&buffer[..count]).map_err(failed)?;
        }
        self.file = unpacked;
        self.compressed = false;
        Ok(())
    }

    /// Where the last `wanted` entries begin, and how many there are from there.
    pub(crate) fn tail(&mut self, driver: LogDriver, wanted: u64) -> Result<(u64, u64), LogError> {
        self.unpack()?;
        match driver {
            LogDriver::Local => self.tail_local(wanted),
            LogDriver::JsonFile | LogDriver::None => self.tail_lines(wanted),
        }
        .map_err(|source| LogError::Io {
            operation: "cannot read log file",
            path: self.path.clone(),
            source,
        })
    }

    fn tail_local(&self, wanted: u64) -> io::Result<(u64, u64)> {
        let start = local::MAGIC.len() as u64;
        let length = self.file.metadata()?.len();
        let mut window = Window {
            file: &self.file,
            base: length,
            bytes: Vec::new(),
        };
        let mut at = length;
        let mut count = 0;
        while count < wanted && at > start {
            match window.record_before(at, start)? {
                Some(before) => at = before,
                // Damage, or a record that is being written: count from the front.
                None => return self.tail_scan(wanted),
            }
            count += 1;
        }
        Ok((at.max(start.min(length)), count))
    }

    fn tail_scan(&self, wanted: u64) -> io::Result<(u64, u64)> {
        let mut bytes = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let mut starts = VecDeque::new();
        let mut at = local::MAGIC.len();
        while at < bytes.len() {
            if let local::Scan::Record(head, _) = local::scan(&bytes[at..]) {
                starts.push_back(at as u64);
                if starts.len() as u64 > wanted {
                    starts.pop_front();
                }
                at += head.record();
            } else {
                at += 1;
            }
        }
        Ok((
            starts.front().copied().unwrap_or(bytes.len() as u64),
            starts.len() as u64,
        ))
    }

    fn tail_lines(&self, wanted: u64) -> io::Result<(u64, u64)> {
        const STEP: u64 = 64 * 1024;
        let length = self.file.metadata()?.len();
        let mut end = length;
        // Newlines seen; the one that ends the file ends the last entry.
        let mut count = 0;
        while end > 0 {
            let start = end.saturating_sub(STEP);
            let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
            self.file.read_exact_at(&mut bytes, start)?;
            for newline in memchr::memrchr_iter(b'\n', &bytes) {
                if count == wanted {
                    return Ok((start + newline as u64 + 1, count));
                }
                count += 1;
            }
            end = start;
        }
        Ok((0, count))
    }
}

/// The part of a file before some place, read in steps towards the front.
struct Window<'a> {
    file: &'a File,
    base: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes `from..to`, which lie before anything asked for earlier.
    fn bytes(&mut self, from: u64, to: u64) -> io::Result<&[u8]> {
        const STEP: u64 = 64 * 1024;
        if from < self.base {
            self.base = from.min(to.saturating_sub(STEP));
            self.bytes.resize(
                usize::try_from(to - self.base).map_err(io::Error::other)?,
                0,
            );
            self.file.read_exact_at(&mut self.bytes, self.base)?;
        }
        let offset = |at: u64| usize::try_from(at - self.base).map_err(io::Error::other);
        let (from, to) = (offset(from)?, offset(to)?);
        self.bytes
            .get(from..to)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Where the record that ends at `end` begins.
    fn record_before(&mut self, end: u64, start: u64) -> io::Result<Option<u64>> {
        let framing = (local::HEAD + local::TAIL) as u64;
        if end < start + framing {
            return Ok(None);
        }
        let tail = self.bytes(end - local::TAIL as u64, end)?;
        let length = tail
            .first_chunk::<4>()
            .map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes));
        if length as usize > local::MAX_PAYLOAD || end - framing < start + u64::from(length) {
            return Ok(None);
        }
        let from = end - framing - u64::from(length);
        let whole = matches!(local::scan(self.bytes(from, end)?), local::Scan::Record(head, _) if head.record() as u64 == end - from);
        Ok(whole.then_some(from))
    }
}

/// An unlinked file beside the log, or in memory where the directory has no room for one.
fn temporary(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    match open(
        directory,
        OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    ) {
        Ok(fd) => Ok(fd.into()),
        Err(_) => Ok(memfd_create("kekkai-log", MemfdFlags::CLOEXEC)?.into()),
    }
}

/// The identity that our own compression wrote into the gzip header's extra field (RFC 1952, 2.3).
fn original_identity(file: &File) -> Option<Identity> {
    let decoder = flate2::read::GzDecoder::new(file);
    let identity = decoder
        .header()?
        .extra()?
        .first_chunk::<16>()
        .map(Identity::from_bytes);
    let mut file = file;
    file.seek(SeekFrom::Start(0)).ok()?;
    identity
}

/// Opens every file of the log, oldest first.
pub(crate) fn open_all(path: &Path, files: u32) -> Result<VecDeque<Segment>, LogError> {
    let failed = |source| LogError::Io {
        operation: "cannot open log file",
        path: path.to_owned(),
        source,
    };
    let mut last = VecDeque::new();
    for _ in 0..ATTEMPTS {
        let before = identity(path);
        last = open_once(path, files).map_err(failed)?;
        if identity(path) == before {
            break;
        }
    }
    Ok(last)
}

fn open_once(path: &Path, files: u32) -> io::Result<VecDeque<Segment>> {
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut gaps = 0;
    segments.extend(Segment::open(path.to_owned(), false)?);
    for number in 1..files.max(1) {
        let plain = Segment::open(with_suffix(path, format_args!(".{number}")), false)?;
        let found = match plain {
            Some(segment) => Some(segment),
            None => Segment::open(with_suffix(path, format_args!(".{number}.gz")), true)?,
        };
        match found {
            // A file that moved on meanwhile is met twice.
            Some(segment)
                if segments
                    .iter()
                    .any(|known| known.identity.is(segment.identity)) => {}
            Some(segment) => segments.push_front(segment),
            None => gaps += 1,
        }
        if gaps > 2 {
            break;
        }
    }
    Ok(segments)
}

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|meta| Identity::of(&meta))
}

/// What follows this file, which is not the current one any more: newer files, oldest first. `None` if
/// it still is the current one (or there is none yet).
pub(crate) fn successors(
    path: &Path,
    files: u32,
    known: Identity,
) -> Result<Option<VecDeque<Segment>>, LogError> {
    if identity(path).is_none_or(|current| current == known) {
        return Ok(None);
    }
    let mut segments = open_all(path, files)?;
    if let Some(place) = segments
        .iter()
        .position(|segment| segment.identity.is(known))
    {
        segments.drain(..=place);
    }
    Ok(if segments.is_empty() {
        None
    } else {
        Some(segments)
    })
}

/// Decodes a line of a `json-file`.
pub(crate) fn json_record(line: &[u8]) -> Option<json::Record<'_>> {
    serde_json::from_slice(line).ok()
}
