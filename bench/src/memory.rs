//! What memory an engine takes: the proportional set size of all its processes, its memfds that nobody has mapped, its
//! files on a tmpfs; and what the kernel took beside it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;

/// Bytes, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Sum of `Pss` of `smaps_rollup`.
    pub(crate) pss: i64,
    /// Sum of resident sets.
    pub(crate) rss: i64,
    /// Pages of memfds that are in no engine process's map.
    pub(crate) memfd: i64,
    /// Pages of files on the engine's tmpfs.
    pub(crate) tmpfs: i64,
    /// `Slab + Percpu + KernelStack + PageTables`.
    pub(crate) kernel: i64,
}

impl Memory {
    /// What the target of the issue counts.
    pub(crate) fn engine(&self) -> i64 {
        self.pss + self.memfd + self.tmpfs
    }
}

fn field(text: &str, name: &str) -> i64 {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|v| v.parse::<i64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Looks at all of the processes at once.
pub(crate) fn of(processes: &[u32], tmpfs: Option<&Path>) -> Result<Memory> {
    let mut memory = Memory::default();
    let mut memfds: BTreeMap<u64, i64> = BTreeMap::new();
    let mut mapped: Vec<u64> = Vec::new();
    for pid in processes {
        let proc = format!("/proc/{pid}");
        let rollup = std::fs::read_to_string(format!("{proc}/smaps_rollup")).unwrap_or_default();
        memory.pss += field(&rollup, "Pss:");
        memory.rss += field(&rollup, "Rss:");
        for line in std::fs::read_to_string(format!("{proc}/maps"))
            .unwrap_or_default()
            .lines()
        {
            if line.contains("/memfd:") {
                mapped.extend(
                    line.split_whitespace()
                        .nth(4)
                        .and_then(|i| i.parse::<u64>().ok()),
                );
            }
        }
        for entry in std::fs::read_dir(format!("{proc}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            if target.to_string_lossy().starts_with("/memfd:")
                && let Ok(data) = std::fs::metadata(entry.path())
            {
                memfds.insert(data.ino(), data.blocks() as i64 * 512);
            }
        }
    }
    memory.memfd = memfds
        .iter()
        .filter(|(inode, _)| !mapped.contains(inode))
        .map(|(_, bytes)| bytes)
        .sum();
    if let Some(path) = tmpfs {
        let stat = rustix::fs::statvfs(path)?;
        memory.tmpfs = ((stat.f_blocks - stat.f_bfree) * stat.f_frsize) as i64;
    }
    let info = std::fs::read_to_string("/proc/meminfo")?;
    memory.kernel = ["Slab:", "Percpu:", "KernelStack:", "PageTables:"]
        .iter()
        .map(|n| field(&info, n))
        .sum();
    Ok(memory)
}
