//! The state table: what a new keeper must know to go on where a killed one stopped.
//!
//! A file in the exec root (`keeper.state`, mode 0600, on its tmpfs), written with `pwrite` only.
//!
//! ```text
//!   0        header: version of the layout, launchers          (one record)
//!   4 KiB    fired fail points, one byte each
//!   8 KiB    statuses that the guardian reaped: 256 × (pid u32, status i32, at i64)
//!   64 KiB   links: connections, attach sessions, log watches  8192 × 64 bytes
//!   1 MiB    tasks, 4 KiB each
//!
//!   record   length u16 | CRC-32 u32 | postcard …
//! ```
//!
//! What must stay true: a record lies within one page, so that a kill in the middle of its write leaves the old or the
//! new one; descriptors are recorded before they are relied on and struck out before they are closed; whatever is open
//! and not recorded is closed by the next keeper; a table of another layout version is not read.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use kekkai_types::ContainerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::log::LogConfig;
use crate::protocol::{Exit, StdinMode, Target, UnixNanos};

/// The version of the layout and of every record in it.
const VERSION: u16 = 1;
/// Where the fired fail points are.
pub(crate) const FAILPOINTS: u64 = 4096;
const REAPED: u64 = 8192;
const REAPED_ENTRIES: u64 = 256;
const LINKS: u64 = 64 * 1024;
const LINK: u64 = 64;
/// The most links.
pub(crate) const MAX_LINKS: usize = 8192;
const TASKS: u64 = 1 << 20;
const TASK: u64 = 4096;
/// The most tasks.
pub(crate) const MAX_TASKS: usize = 1 << 16;

/// A descriptor number in the shared table; -1 for none.
pub(crate) type FdNumber = i32;

/// What concerns the keeper as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    version: u16,
    /// The kernel's boot, so that a table of before a reboot is not taken for a present one.
    boot: String,
    pub(crate) launchers: Vec<LauncherRecord>,
}

/// A launcher.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LauncherRecord {
    pub(crate) number: u32,
    pub(crate) pid: i32,
    pub(crate) pidfd: FdNumber,
    pub(crate) socket: FdNumber,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Sessions or watches wait for its start.
    Pending,
    /// A job for a launcher.
    Starting {
        /// The job's number.
        job: u64,
        /// The launcher it was handed to; `None` while it waits.
        launcher: Option<u32>,
    },
    /// It runs.
    Running,
    /// It has ended.
    Exited {
        /// How.
        exit: Exit,
        /// Whether everybody has been told.
        told: bool,
    },
}

/// A task, as far as a new keeper must know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub(crate) target: Target,
    pub(crate) container: ContainerId,
    pub(crate) phase: Phase,
    /// How often it was started here.
    pub(crate) run: u32,
    /// The sequence number of the request that started it.
    pub(crate) request: u64,
    pub(crate) pid: u32,
    pub(crate) started_at: UnixNanos,
    pub(crate) stdin_mode: StdinMode,
    pub(crate) terminal: bool,
    pub(crate) cgroup: String,
    pub(crate) log: Option<LogConfig>,
    pub(crate) fds: TaskFds,
}

/// A task's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskFds {
    pub(crate) pidfd: FdNumber,
    /// Write end of the pipe.
    pub(crate) stdin: FdNumber,
    /// Read end, or the terminal's master.
    pub(crate) stdout: FdNumber,
    pub(crate) stderr: FdNumber,
    pub(crate) devpts: FdNumber,
    pub(crate) rootfs: FdNumber,
}

impl Default for TaskFds {
    fn default() -> Self {
        Self {
            pidfd: -1,
            stdin: -1,
            stdout: -1,
            stderr: -1,
            devpts: -1,
            rootfs: -1,
        }
    }
}

/// A socket of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LinkRecord {
    /// A daemon.
    Connection { socket: FdNumber, version: u16 },
    /// An attach session of a task.
    Session {
        socket: FdNumber,
        task: u32,
        /// The task's run that it belongs to.
        run: u32,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        /// Whether the client has ended its input.
        ended: bool,
        /// The file that holds what the client has not read yet, from its file offset on.
        spill: FdNumber,
    },
    /// A log watch of a task.
    Watch { socket: FdNumber, task: u32 },
}

/// The open table.
#[derive(Debug)]
pub(crate) struct StateTable {
    file: File,
}

impl StateTable {
    /// Opens or makes the table of an exec root.
    pub(crate) fn open(exec_root: &Path) -> io::Result<Self> {
        let path = exec_root.join("keeper.state");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file })
    }

    /// The table behind a descriptor that the guardian holds.
    pub(crate) fn inherit(fd: std::os::fd::OwnedFd) -> Self {
        Self { file: fd.into() }
    }

    /// The table's descriptor.
    pub(crate) fn number(&self) -> FdNumber {
        self.file.as_raw_fd()
    }

    /// Another handle of the same table.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Empties the table and writes a fresh header.
    pub(crate) fn reset(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.write_header(&[])
    }

    /// Makes a table that another pair of guardian and keeper left behind one of this pair: what it says about
    /// descriptors, launchers and links holds no more.
    pub(crate) fn disown(&self) -> io::Result<()> {
        let tasks = if self.header().is_some() {
            self.tasks()?
        } else {
            Vec::new()
        };
        self.reset()?;
        for (slot, mut task) in tasks {
            task.fds = TaskFds::default();
            self.write_task(slot, Some(&task))?;
        }
        Ok(())
    }

    /// The header, if the table is of this boot and this layout.
    pub(crate) fn header(&self) -> Option<Header> {
        let header: Header = self.read(0, 4096)?;
        (header.version == VERSION && header.boot == boot_id()).then_some(header)
    }

    pub(crate) fn write_header(&self, launchers: &[LauncherRecord]) -> io::Result<()> {
        let header = Header {
            version: VERSION,
            boot: boot_id(),
            launchers: launchers.to_vec(),
        };
        self.write(0, 4096, Some(&header))
    }

    pub(crate) fn write_task(&self, slot: usize, task: Option<&TaskRecord>) -> io::Result<()> {
        self.write(TASKS + slot as u64 * TASK, TASK, task)
    }

    pub(crate) fn write_link(&self, slot: usize, link: Option<&LinkRecord>) -> io::Result<()> {
        self.write(LINKS + slot as u64 * LINK, LINK, link)
    }

    /// Every task with its slot.
    pub(crate) fn tasks(&self) -> io::Result<Vec<(usize, TaskRecord)>> {
        let length = self.file.metadata()?.len();
        let slots = usize::try_from(length.saturating_sub(TASKS).div_ceil(TASK))
            .unwrap_or(0)
            .min(MAX_TASKS);
        Ok((0..slots)
            .filter_map(|slot| Some((slot, self.read(TASKS + slot as u64 * TASK, TASK)?)))
            .collect())
    }

    /// Every link with its slot.
    pub(crate) fn links(&self) -> Vec<(usize, LinkRecord)> {
        let mut bytes = vec![0; MAX_LINKS * usize::try_from(LINK).unwrap_or(64)];
        let count = self.file.read_at(&mut bytes, LINKS).unwrap_or(0);
        // The last record may be the end of the file.
        let records = bytes[..count].chunks(usize::try_from(LINK).unwrap_or(64));
        records
            .enumerate()
            .filter_map(|(slot, record)| Some((slot, decode(record)?)))
            .collect()
    }

    /// Notes a status that the guardian reaped as its `count`-th.
    pub(crate) fn note_reaped(
        &self,
        count: u64,
        pid: i32,
        status: i32,
        at: UnixNanos,
    ) -> io::Result<()> {
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&pid.to_le_bytes());
        entry[4..8].copy_from_slice(&status.to_le_bytes());
        entry[8..].copy_from_slice(&at.to_le_bytes());
        self.file
            .write_all_at(&entry, REAPED + count % REAPED_ENTRIES * 16)
    }

    /// The status that the guardian reaped for a pid since the given time.
    pub(crate) fn reaped(&self, pid: i32, since: UnixNanos) -> Option<i32> {
        let mut bytes = [0; 4096];
        let count = self.file.read_at(&mut bytes, REAPED).ok()?;
        bytes[..count].chunks_exact(16).find_map(|entry| {
            let [a, b, c, d, e, f, g, h, time @ ..] = entry.first_chunk::<16>()?;
            let found =
                i32::from_le_bytes([*a, *b, *c, *d]) == pid && i64::from_le_bytes(*time) >= since;
            found.then(|| i32::from_le_bytes([*e, *f, *g, *h]))
        })
    }

    fn write<T: Serialize>(&self, at: u64, size: u64, value: Option<&T>) -> io::Result<()> {
        let Some(value) = value else {
            return self.file.write_all_at(&[0; 6], at);
        };
        let body = postcard::to_stdvec(value).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(6 + body.len());
        let length = u16::try_from(body.len()).map_err(io::Error::other)?;
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&checksum(&body).to_le_bytes());
        record.extend_from_slice(&body);
        if record.len() as u64 > size {
            return Err(io::Error::other("state record too long"));
        }
        self.file.write_all_at(&record, at)
    }

    fn read<T: DeserializeOwned>(&self, at: u64, size: u64) -> Option<T> {
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        let count = self.file.read_at(&mut bytes, at).ok()?;
        decode(&bytes[..count])
    }
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Option<T> {
    let ([a, b, c, d, e, f], body) = record.split_first_chunk::<6>()?;
    let length = usize::from(u16::from_le_bytes([*a, *b]));
    let body = body.get(..length).filter(|body| !body.is_empty())?;
    if checksum(body) != u32::from_le_bytes([*c, *d, *e, *f]) {
        return None;
    }
    postcard::from_bytes(body).ok()
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogDriver;

    fn record(log: LogConfig) -> TaskRecord {
        let container = ContainerId::random();
        TaskRecord {
            target: Target::Container(container),
            container,
            phase: Phase::Running,
            run: 1,
            request: u64::MAX,
            pid: 7,
            started_at: 2,
            stdin_mode: StdinMode::Once,
            terminal: false,
            cgroup: "c".repeat(512),
            log: Some(log),
            fds: TaskFds::default(),
        }
    }

    #[test]
    fn round_trip_and_damage() {
        let directory = tempfile::tempdir().unwrap();
        let table = StateTable::open(directory.path()).unwrap();
        assert!(table.header().is_none());
        table.reset().unwrap();
        assert!(table.header().unwrap().launchers.is_empty());
        // The longest record that requests can make fits.
        let mut log = LogConfig::new(LogDriver::JsonFile, "p".repeat(LogConfig::MAX_PATH).into());
        log.attributes = vec![("k".to_owned(), "v".repeat(LogConfig::MAX_ATTRIBUTES - 9))];
        table.write_task(3, Some(&record(log))).unwrap();
        table
            .write_task(
                5,
                Some(&record(LogConfig::new(LogDriver::Local, "x".into()))),
            )
            .unwrap();
        let link = LinkRecord::Session {
            socket: 1 << 20,
            task: 65_535,
            run: 70_000,
            stdin: true,
            stdout: true,
            stderr: true,
            ended: true,
            spill: -1,
        };
        table.write_link(9, Some(&link)).unwrap();
        assert_eq!(
            table
                .tasks()
                .unwrap()
                .iter()
                .map(|(slot, _)| *slot)
                .collect::<Vec<_>>(),
            [3, 5]
        );
        assert_eq!(table.links(), [(9, link)]);
        table
            .file
            .write_all_at(b"x", TASKS + 3 * TASK + 100)
            .unwrap();
        assert_eq!(table.tasks().unwrap().len(), 1);
        table.write_task(5, None).unwrap();
        assert!(table.tasks().unwrap().is_empty());
        table.note_reaped(257, 42, 9, 100).unwrap();
        assert_eq!(
            (
                table.reaped(42, 100),
                table.reaped(42, 101),
                table.reaped(0, 1)
            ),
            (Some(9), None, None)
        );
    }
}
