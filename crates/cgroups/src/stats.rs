//! What a container uses.

use crate::files::{read, read_number, value_of};
use crate::{Cgroup, Layout};

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "nanoseconds and counts as the kernel names them"
)]
pub struct CpuStats {
    pub total: u64,
    pub user: u64,
    pub system: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// The most there ever was, 0 where the kernel does not tell.
    pub peak: u64,
    /// The limit; `None` is unlimited.
    pub limit: Option<u64>,
    /// Page cache that can be dropped first: `docker stats` subtracts it.
    pub inactive_file: u64,
    /// How often the OOM killer killed a process of this cgroup.
    pub oom_kills: u64,
}

/// Tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// The limit; `None` is unlimited.
    pub limit: Option<u64>,
}

/// One reading. Files that are missing read as zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the types say it")]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
}

/// Version 1 writes "no limit" as a number near 2⁶³.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroup<'_> {
    /// Reads the counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match self.layout() {
            Layout::V1(_) => self.stats_v1(),
            Layout::V2(root) => {
                let directory = root.join(self.path());
                let cpu = read(&directory.join("cpu.stat")).unwrap_or_default();
                let micro = |key| value_of(&cpu, key).unwrap_or_default().saturating_mul(1000);
                let stat = read(&directory.join("memory.stat")).unwrap_or_default();
                Stats {
                    cpu: CpuStats {
                        total: micro("usage_usec"),
                        user: micro("user_usec"),
                        system: micro("system_usec"),
                        periods: value_of(&cpu, "nr_periods").unwrap_or_default(),
                        throttled_periods: value_of(&cpu, "nr_throttled").unwrap_or_default(),
                        throttled_time: micro("throttled_usec"),
                    },
                    memory: MemoryStats {
                        usage: read_number(&directory.join("memory.current")).unwrap_or_default(),
                        peak: read_number(&directory.join("memory.peak")).unwrap_or_default(),
                        limit: read_number(&directory.join("memory.max")),
                        inactive_file: value_of(&stat, "inactive_file").unwrap_or_default(),
                        oom_kills: self.oom_kills(),
                    },
                    pids: PidsStats {
                        current: read_number(&directory.join("pids.current")).unwrap_or_default(),
                        limit: read_number(&directory.join("pids.max")),
                    },
                }
            }
        }
    }

    fn stats_v1(&self) -> Stats {
        let text = |controller, name| {
            self.v1_file(controller, name)
                .and_then(|file| read(&file).ok())
                .unwrap_or_default()
        };
        let number = |controller, name| {
            self.v1_file(controller, name)
                .and_then(|file| read_number(&file))
        };
        let cpu = text("cpu", "cpu.stat");
        let memory = text("memory", "memory.stat");
        let key = |text: &str, key| value_of(text, key).unwrap_or_default();
        Stats {
            cpu: CpuStats {
                total: number("cpuacct", "cpuacct.usage").unwrap_or_default(),
                user: number("cpuacct", "cpuacct.usage_user").unwrap_or_default(),
                system: number("cpuacct", "cpuacct.usage_sys").unwrap_or_default(),
                periods: key(&cpu, "nr_periods"),
                throttled_periods: key(&cpu, "nr_throttled"),
                throttled_time: key(&cpu, "throttled_time"),
            },
            memory: MemoryStats {
                usage: number("memory", "memory.usage_in_bytes").unwrap_or_default(),
                peak: number("memory", "memory.max_usage_in_bytes").unwrap_or_default(),
                limit: number("memory", "memory.limit_in_bytes")
                    .filter(|limit| *limit < V1_UNLIMITED),
                inactive_file: key(&memory, "total_inactive_file"),
                oom_kills: self.oom_kills(),
            },
            pids: PidsStats {
                current: number("pids", "pids.current").unwrap_or_default(),
                limit: number("pids", "pids.max"),
            },
        }
    }

    /// How often the OOM killer killed a process of this cgroup.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let (file, key) = match self.layout() {
            Layout::V1(_) => (self.v1_file("memory", "memory.oom_control"), "oom_kill"),
            Layout::V2(root) => (
                Some(root.join(self.path()).join("memory.events")),
                "oom_kill",
            ),
        };
        file.and_then(|file| read(&file).ok())
            .and_then(|text| value_of(&text, key))
            .unwrap_or_default()
    }
}
