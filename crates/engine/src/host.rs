//! What this host can do, read once when the engine opens. Pure data afterwards, so that checks can be tested.

use std::fs;
use std::path::Path;

/// What this host can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostFacts {
    /// CPUs online.
    pub(crate) ncpu: usize,
    /// The same as a list: `0-1`.
    pub(crate) cpus: String,
    /// Memory nodes as a list.
    pub(crate) mems: String,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// 1 or 2.
    pub(crate) cgroup_version: u8,
    /// Controllers that are there.
    pub(crate) controllers: Vec<String>,
    /// Swap can be limited.
    pub(crate) swap_limit: bool,
    /// Block I/O weights work.
    pub(crate) blkio_weight: bool,
    /// AppArmor is enabled.
    pub(crate) apparmor: bool,
    /// Host name.
    pub(crate) hostname: String,
    /// Kernel's release.
    pub(crate) kernel: String,
    /// Distribution's name for people.
    pub(crate) os: String,
    /// Its version.
    pub(crate) os_version: String,
    /// Machine: `x86_64`.
    pub(crate) machine: String,
}

fn line(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The number in a line of /proc/meminfo, in bytes.
fn meminfo(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(':')?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kib| kib * 1024)
}

fn os_release(text: &str, key: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
        .unwrap_or_default()
}

/// How many numbers a list such as `0-3,5` has; `None` when it is none.
pub(crate) fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.split_once('-') {
            Some((low, high)) => {
                let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
                if low > high || high > 8192 {
                    return None;
                }
                numbers.extend(low..=high);
            }
            None => numbers.push(part.parse().ok()?),
        }
    }
    Some(numbers)
}

impl HostFacts {
    /// Reads them from /proc and /sys.
    pub(crate) fn probe() -> Self {
        let uname = rustix::system::uname();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let cpus = line("/sys/devices/system/cpu/online");
        let mut mems = line("/sys/devices/system/node/online");
        if mems.is_empty() {
            mems.push('0');
        }
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let controllers = if v2 {
            line("/sys/fs/cgroup/cgroup.controllers")
                .split(' ')
                .map(str::to_owned)
                .collect()
        } else {
            line("/proc/cgroups")
                .lines()
                .filter(|line| !line.starts_with('#') && line.ends_with('1'))
                .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
                .collect()
        };
        let exists = |path: &str| Path::new(path).exists();
        Self {
            ncpu: parse_list(&cpus).map_or(1, |list| list.len().max(1)),
            cpus,
            mems,
            memory: meminfo(
                &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
                "MemTotal",
            ),
            cgroup_version: if v2 { 2 } else { 1 },
            controllers,
            swap_limit: if v2 {
                exists("/proc/swaps")
            } else {
                exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
            },
            blkio_weight: if v2 {
                exists("/sys/kernel/debug/block") || exists("/sys/fs/cgroup/system.slice/io.weight")
            } else {
                exists("/sys/fs/cgroup/blkio/blkio.weight")
                    || exists("/sys/fs/cgroup/blkio/blkio.bfq.weight")
            },
            apparmor: line("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os: os_release(&release, "PRETTY_NAME"),
            os_version: os_release(&release, "VERSION_ID"),
            machine: uname.machine().to_string_lossy().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-1,3"), Some(vec![0, 1, 3]));
        assert_eq!(parse_list("x"), None);
        assert_eq!(parse_list("3-1"), None);
    }

    #[test]
    fn this_host() {
        let facts = HostFacts::probe();
        assert!(facts.ncpu > 0 && facts.memory > 0 && !facts.kernel.is_empty());
    }
}
