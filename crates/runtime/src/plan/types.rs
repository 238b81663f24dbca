//! The parts of a plan. Flags are the kernel's own numbers, computed at planning.

use kekkai_cgroups::Limits;
use serde::{Deserialize, Serialize};

use crate::{NamespaceKind, seccomp::Program};

/// The root mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootPlan {
    pub(crate) readonly: bool,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` with or without `MS_REC`, as for `mount(2)`.
    pub(crate) propagation: u64,
}

/// One namespace of the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NamespacePlan {
    pub(crate) kind: NamespaceKind,
    /// A namespace file to join instead of making a new one.
    pub(crate) path: Option<String>,
}

/// User namespace mappings, in the text the kernel reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IdMaps {
    pub(crate) uid_map: String,
    pub(crate) gid_map: String,
    /// The host ids of the container's root.
    pub(crate) root_uid: u32,
    pub(crate) root_gid: u32,
}

/// One mount inside the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    /// Absolute path inside the container.
    pub(crate) destination: String,
    pub(crate) kind: MountKind,
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MOUNT_ATTR_*` to set on the whole tree (`rro`, …).
    pub(crate) set_recursive: u64,
    /// `MOUNT_ATTR_*` to clear on the whole tree.
    pub(crate) clear_recursive: u64,
    /// `MS_*` propagation with `MS_REC`, 0 for none.
    pub(crate) propagation: u64,
}

/// What is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum MountKind {
    /// A bind mount of a path on the host.
    Bind { source: String, recursive: bool },
    /// A new file system.
    FileSystem {
        fstype: String,
        source: String,
        options: Vec<(String, Option<String>)>,
    },
    /// The cgroup hierarchies, by whatever version this host has.
    Cgroup,
}

/// One device node under `/dev`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DevicePlan {
    pub(crate) path: String,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` with the permission bits.
    pub(crate) mode: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where the container's processes are accounted, and the limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    /// Relative to the root of every hierarchy, no leading slash.
    pub(crate) path: String,
    pub(crate) limits: Limits,
    /// Whether it was made, with these limits, by `prepare_cgroup`.
    pub(crate) prepared: bool,
}

/// Who the process runs as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum UserPlan {
    /// Numbers, nothing to look up but HOME.
    Ids {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    /// `user[:group]` as Docker writes it.
    Named(String),
}

/// One resource limit.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RlimitPlan {
    /// `RLIMIT_*`.
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// The process itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: UserPlan,
    /// Further groups to look up, names or numbers.
    pub(crate) groups: Vec<String>,
    /// `None`: the capabilities are left as they are.
    pub(crate) capabilities: Option<CapabilityPlan>,
    pub(crate) rlimits: Vec<RlimitPlan>,
    pub(crate) no_new_privileges: bool,
    pub(crate) apparmor: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) umask: u32,
    pub(crate) terminal: bool,
    pub(crate) seccomp: Option<Program>,
}
