//! Volumes, networks, and what the engine says about itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kekkai_types::Timestamp;

/// A volume to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeCreate {
    /// Its name; a random one (anonymous) when empty.
    pub name: String,
    /// Its driver; `local` when empty.
    pub driver: String,
    /// Driver options.
    pub driver_options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Where its files are.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Containers that use it.
    pub references: usize,
}

/// One network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// IPv4 subnet in CIDR form; empty for host and none.
    pub subnet: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// Whether it has IPv6.
    pub enable_ipv6: bool,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers on it by id.
    pub containers: BTreeMap<String, NetworkMember>,
}

/// A container on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkMember {
    /// Its name.
    pub name: String,
    /// Its endpoint.
    pub endpoint_id: String,
    /// MAC address.
    pub mac_address: String,
    /// IPv4 address in CIDR form.
    pub ipv4_address: String,
    /// IPv6 address in CIDR form.
    pub ipv6_address: String,
}

/// What `info` says.
#[derive(Debug, Clone, Default)]
pub struct EngineInfo {
    /// Id of this engine, made once.
    pub id: String,
    /// All containers.
    pub containers: usize,
    /// Those that run (paused ones not).
    pub running: usize,
    /// Frozen ones.
    pub paused: usize,
    /// All others.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// Storage driver.
    pub driver: String,
    /// Lines about it, as Docker's `DriverStatus`.
    pub driver_status: Vec<(String, String)>,
    /// Default log driver.
    pub logging_driver: String,
    /// Log drivers there are.
    pub log_drivers: Vec<String>,
    /// `cgroupfs`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// Controllers that limits can use: `memory`, `pids` …
    pub cgroup_controllers: Vec<String>,
    /// Swap can be limited.
    pub swap_limit: bool,
    /// Kernel's release.
    pub kernel_version: String,
    /// Name of the distribution.
    pub operating_system: String,
    /// Its version.
    pub os_version: String,
    /// `linux`.
    pub os_type: String,
    /// `x86_64` …
    pub architecture: String,
    /// CPUs.
    pub ncpu: usize,
    /// Bytes of memory.
    pub mem_total: u64,
    /// Host name.
    pub name: String,
    /// Data root.
    pub root_dir: String,
    /// Version of this engine.
    pub server_version: String,
    /// Security options: `name=seccomp,profile=builtin` …
    pub security_options: Vec<String>,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// Registries spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// IPv4 forwarding is on.
    pub ipv4_forwarding: bool,
    /// OOM killer can be switched off.
    pub oom_kill_disable: bool,
    /// CPU shares work.
    pub cpu_shares: bool,
    /// CPU quota works.
    pub cpu_cfs: bool,
    /// Memory limit works.
    pub memory_limit: bool,
    /// Pids limit works.
    pub pids_limit: bool,
    /// CPU sets work.
    pub cpu_set: bool,
    /// Block I/O weights work.
    pub blkio_weight: bool,
    /// Open descriptors of the daemon.
    pub fds: usize,
    /// Tasks of the daemon.
    pub tasks: usize,
    /// Listeners for events.
    pub event_listeners: usize,
    /// Containers survive the daemon: always true.
    pub live_restore: bool,
    /// Things about this host that limit us.
    pub warnings: Vec<String>,
}

/// What `version` says.
#[derive(Debug, Clone, Default)]
pub struct VersionInfo {
    /// Version of this engine.
    pub version: String,
    /// Build id.
    pub git_commit: String,
    /// When it was built, if that is known.
    pub build_time: String,
    /// Kernel's release.
    pub kernel_version: String,
    /// `linux`.
    pub os: String,
    /// Go's word for the architecture: `amd64`.
    pub arch: String,
    /// The keeper's version and build id.
    pub keeper: (String, String),
}
