//! Which hierarchies this host has, and what they can do.

use std::path::{Path, PathBuf};

use crate::{CgroupError, files};

/// One version-1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers (`cpu`, `cpuacct`), or `name=systemd`.
    pub controllers: Vec<String>,
    /// Where its root is mounted.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// Whether it has this controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// The cgroup hierarchies of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Version 1, or hybrid: the controllers are in hierarchies of their own.
    V1(Vec<Hierarchy>),
    /// Version 2: one hierarchy, mounted here.
    V2(PathBuf),
}

/// What a host's controllers can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a table of facts, one per limit"
)]
#[allow(missing_docs, reason = "named as the limits of `docker info`")]
pub struct Features {
    pub version: u8,
    pub memory: bool,
    pub swap: bool,
    pub memory_reservation: bool,
    pub oom_kill_disable: bool,
    pub swappiness: bool,
    pub cpu_shares: bool,
    pub cpu_quota: bool,
    pub cpuset: bool,
    pub pids: bool,
    pub blkio_weight: bool,
    pub blkio_throttle: bool,
    pub hugetlb: bool,
    pub devices: bool,
}

/// Finds the hierarchies that are mounted here.
///
/// # Errors
/// [`CgroupError::NotMounted`] if there are none.
pub fn detect() -> Result<Layout, CgroupError> {
    parse_mounts(&files::read(Path::new("/proc/self/mountinfo"))?)
}

fn parse_mounts(mountinfo: &str) -> Result<Layout, CgroupError> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    let mut unified = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount) = left.split(' ').nth(4) else {
            continue;
        };
        let mut right = right.split(' ');
        let (fstype, options) = (
            right.next().unwrap_or_default(),
            right.nth(1).unwrap_or_default(),
        );
        match fstype {
            "cgroup2" if unified.is_none() => unified = Some(PathBuf::from(unescape(mount))),
            "cgroup" => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| option.starts_with("name=") || is_controller(option))
                    .map(str::to_owned)
                    .collect();
                // Bind mounts show a hierarchy a second time; the first one counts.
                if !controllers.is_empty()
                    && !hierarchies
                        .iter()
                        .any(|known| known.controllers == controllers)
                {
                    hierarchies.push(Hierarchy {
                        controllers,
                        mount: PathBuf::from(unescape(mount)),
                    });
                }
            }
            _ => {}
        }
    }
    let has_controllers = hierarchies.iter().any(|known| {
        !known
            .controllers
            .iter()
            .all(|name| name.starts_with("name="))
    });
    match unified {
        _ if has_controllers => Ok(Layout::V1(hierarchies)),
        Some(mount) => Ok(Layout::V2(mount)),
        None => Err(CgroupError::NotMounted),
    }
}

fn is_controller(option: &str) -> bool {
    matches!(
        option,
        "cpu"
            | "cpuacct"
            | "cpuset"
            | "memory"
            | "devices"
            | "freezer"
            | "blkio"
            | "pids"
            | "net_cls"
            | "net_prio"
            | "perf_event"
            | "hugetlb"
            | "rdma"
            | "misc"
    )
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

impl Layout {
    /// The mount of the v1 hierarchy that has a controller.
    #[must_use]
    pub fn v1_mount(&self, controller: &str) -> Option<&Path> {
        match self {
            Self::V1(hierarchies) => hierarchies
                .iter()
                .find(|hierarchy| hierarchy.has(controller))
                .map(|hierarchy| hierarchy.mount.as_path()),
            Self::V2(_) => None,
        }
    }

    /// What can be limited, found out by looking at `parent`, a cgroup that exists (`""` is the root, which on v2
    /// lacks most files: there the list of controllers counts).
    #[must_use]
    pub fn features(&self, parent: &str) -> Features {
        match self {
            Self::V1(_) => {
                let file = |controller, name: &str| {
                    self.v1_mount(controller)
                        .is_some_and(|mount| mount.join(parent).join(name).exists())
                };
                Features {
                    version: 1,
                    memory: file("memory", "memory.limit_in_bytes"),
                    swap: file("memory", "memory.memsw.limit_in_bytes"),
                    memory_reservation: file("memory", "memory.soft_limit_in_bytes"),
                    oom_kill_disable: file("memory", "memory.oom_control"),
                    swappiness: file("memory", "memory.swappiness"),
                    cpu_shares: file("cpu", "cpu.shares"),
                    cpu_quota: file("cpu", "cpu.cfs_quota_us"),
                    cpuset: file("cpuset", "cpuset.cpus"),
                    pids: self.v1_mount("pids").is_some(),
                    blkio_weight: file("blkio", "blkio.weight")
                        || file("blkio", "blkio.bfq.weight"),
                    blkio_throttle: file("blkio", "blkio.throttle.read_bps_device"),
                    hugetlb: self.v1_mount("hugetlb").is_some(),
                    devices: self.v1_mount("devices").is_some(),
                }
            }
            Self::V2(root) => {
                let controllers = files::read(&root.join("cgroup.controllers")).unwrap_or_default();
                let has = |name: &str| controllers.split_whitespace().any(|known| known == name);
                Features {
                    version: 2,
                    memory: has("memory"),
                    swap: has("memory") && Path::new("/proc/swaps").exists(),
                    memory_reservation: has("memory"),
                    oom_kill_disable: false,
                    swappiness: false,
                    cpu_shares: has("cpu"),
                    cpu_quota: has("cpu"),
                    cpuset: has("cpuset"),
                    pids: has("pids"),
                    blkio_weight: has("io"),
                    blkio_throttle: has("io"),
                    hugetlb: has("hugetlb"),
                    devices: true,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_is_v1() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        let Layout::V1(hierarchies) = parse_mounts(text).unwrap() else {
            panic!("not v1")
        };
        assert_eq!(hierarchies.len(), 2);
        assert_eq!(hierarchies[0].controllers, ["cpu", "cpuacct"]);
        assert!(hierarchies[1].has("name=systemd"));
    }

    #[test]
    fn unified() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            parse_mounts(text).unwrap(),
            Layout::V2(PathBuf::from("/sys/fs/cgroup"))
        );
        assert!(matches!(parse_mounts(""), Err(CgroupError::NotMounted)));
    }
}
