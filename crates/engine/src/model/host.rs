//! Docker's `HostConfig` as the engine knows it: resources, isolation, mounts, restart policy.
//!
//! Zero, empty and absent mean "not set", as on the wire, so that mapping is mechanical and a default is recognised.

use std::collections::BTreeMap;

use kekkai_types::PortKey;
use serde::{Deserialize, Serialize};

/// How the host runs a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostOptions {
    /// `source:destination[:mode]`, as written.
    pub binds: Vec<String>,
    /// `--mount` entries.
    pub mounts: Vec<MountRequest>,
    /// Destination → options.
    pub tmpfs: BTreeMap<String, String>,
    /// Containers whose volumes to mount too (`id[:ro|rw]`).
    pub volumes_from: Vec<String>,
    /// Driver of the volumes made by `binds`.
    pub volume_driver: String,
    /// File the CLI wrote the id to; shown only.
    pub container_id_file: String,
    /// Log driver and its options.
    pub log: LogSettings,
    /// `""`/`default`, `bridge`, `none`, `host`, `container:ID` or a network's name or id.
    pub network_mode: String,
    /// Published ports.
    pub port_bindings: BTreeMap<PortKey, Vec<PortBinding>>,
    /// Publish every exposed port on a port of the engine's choice.
    pub publish_all_ports: bool,
    /// What happens after an exit.
    pub restart_policy: RestartPolicy,
    /// `--rm`.
    pub auto_remove: bool,
    /// Height and width of the first terminal.
    pub console_size: Option<[u16; 2]>,
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
    /// Capabilities to add; `ALL` allowed.
    pub cap_add: Vec<String>,
    /// Capabilities to drop; `ALL` allowed.
    pub cap_drop: Vec<String>,
    /// `""`, `private` or `host`.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `host:address` lines for /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// Further groups, names or numbers.
    pub group_add: Vec<String>,
    /// `""`, `none`, `private`, `shareable`, `host` or `container:ID`.
    pub ipc_mode: String,
    /// `""`, `host` or `container:ID`.
    pub pid_mode: String,
    /// `""` or `host`.
    pub uts_mode: String,
    /// `""` or `host`.
    pub userns_mode: String,
    /// Docker's `Cgroup`; refused when set.
    pub cgroup: String,
    /// Legacy links; refused when set.
    pub links: Vec<String>,
    /// −1000…1000.
    pub oom_score_adj: i32,
    /// All capabilities and devices, no masks.
    pub privileged: bool,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `no-new-privileges[:bool]`, `systempaths=unconfined`, `apparmor=…`, `label=…`.
    pub security_opt: Vec<String>,
    /// Storage driver options; refused when set.
    pub storage_opt: BTreeMap<String, String>,
    /// Size of /dev/shm in bytes; 64 MiB when zero.
    pub shm_size: i64,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Runtime by name; ours when empty.
    pub runtime: String,
    /// Windows' isolation; `""` or `default`.
    pub isolation: String,
    /// Replacement of the masked paths; Docker's when absent.
    pub masked_paths: Option<Vec<String>>,
    /// Replacement of the read-only paths; Docker's when absent.
    pub readonly_paths: Option<Vec<String>>,
    /// Run our reaper as pid 1; the daemon's default when absent.
    pub init: Option<bool>,
    /// Limits and devices.
    pub resources: Resources,
}

/// Docker's `Resources`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative CPU weight (v1 scale: 2…262144).
    pub cpu_shares: i64,
    /// CPU quota in 10⁻⁹ CPUs.
    pub nano_cpus: i64,
    /// CFS period in µs.
    pub cpu_period: i64,
    /// CFS quota in µs.
    pub cpu_quota: i64,
    /// Real-time period in µs; refused when set.
    pub cpu_realtime_period: i64,
    /// Real-time runtime in µs; refused when set.
    pub cpu_realtime_runtime: i64,
    /// CPUs by number: `0-3,5`.
    pub cpuset_cpus: String,
    /// Memory nodes by number.
    pub cpuset_mems: String,
    /// Hard limit in bytes.
    pub memory: i64,
    /// Soft limit in bytes.
    pub memory_reservation: i64,
    /// Memory and swap in bytes; −1 unlimited.
    pub memory_swap: i64,
    /// 0…100; absent or −1 leaves it.
    pub memory_swappiness: Option<i64>,
    /// Kernel memory; refused when set, as dockerd does.
    pub kernel_memory: i64,
    /// Kernel TCP memory; refused when set.
    pub kernel_memory_tcp: i64,
    /// No OOM killer (v1).
    pub oom_kill_disable: Option<bool>,
    /// Most processes; absent, 0 and −1 unlimited.
    pub pids_limit: Option<i64>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Path of the cgroup to be in; the engine's when empty.
    pub cgroup_parent: String,
    /// Block I/O weight, 10…1000.
    pub blkio_weight: u16,
    /// Weight per device.
    pub blkio_weight_device: Vec<DeviceRate>,
    /// Bytes per second.
    pub blkio_device_read_bps: Vec<DeviceRate>,
    /// Bytes per second.
    pub blkio_device_write_bps: Vec<DeviceRate>,
    /// Operations per second.
    pub blkio_device_read_iops: Vec<DeviceRate>,
    /// Operations per second.
    pub blkio_device_write_iops: Vec<DeviceRate>,
    /// Devices of the host.
    pub devices: Vec<DeviceMapping>,
    /// Rules such as `c 42:* rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// GPUs and CDI; refused when not empty.
    pub device_requests: Vec<String>,
}

/// A limit or weight of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Device node on the host.
    pub path: String,
    /// Weight, bytes per second or operations per second.
    pub rate: u64,
}

/// A device of the host inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Node (or directory of nodes) on the host.
    pub path_on_host: String,
    /// Path inside.
    pub path_in_container: String,
    /// Some of `rwm`.
    pub cgroup_permissions: String,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `core` …
    pub name: String,
    /// −1 unlimited.
    pub soft: i64,
    /// −1 unlimited.
    pub hard: i64,
}

/// Log driver and options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// `local`, `json-file` or `none`; the daemon's default when empty.
    pub driver: String,
    /// `max-size`, `max-file`, `compress`, `labels`, `env`, `tag`, `mode`, `max-buffer-size`.
    pub options: BTreeMap<String, String>,
}

/// Where a published port is reachable on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// Address; all of them when empty.
    pub host_ip: String,
    /// Port or range `a-b`; the engine's choice when empty or `0`.
    pub host_port: String,
}

/// What happens after an exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// `""`/`no`, `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// Most restarts of `on-failure`; 0 unlimited.
    pub maximum_retry_count: i32,
}

/// One `--mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountRequest {
    /// `bind`, `volume`, `tmpfs`; others are refused by name.
    pub kind: String,
    /// Path or volume name; empty makes an anonymous volume.
    pub source: String,
    /// Path inside.
    pub target: String,
    /// Not writable.
    pub read_only: bool,
    /// `consistent`, `cached`, `delegated`; no effect on Linux.
    pub consistency: String,
    /// Bind options.
    pub bind: Option<BindMountOptions>,
    /// Volume options.
    pub volume: Option<VolumeMountOptions>,
    /// Tmpfs options.
    pub tmpfs: Option<TmpfsMountOptions>,
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire's own shape: independent switches"
)]
pub struct BindMountOptions {
    /// `rprivate` …
    pub propagation: String,
    /// Not recursive.
    pub non_recursive: bool,
    /// Make a missing source directory.
    pub create_mountpoint: bool,
    /// Only the top mount read-only.
    pub read_only_non_recursive: bool,
    /// Fail when submounts cannot be read-only.
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMountOptions {
    /// Do not copy the image's content into an empty volume.
    pub no_copy: bool,
    /// Labels of a volume that is made.
    pub labels: BTreeMap<String, String>,
    /// Path within the volume.
    pub subpath: String,
    /// Driver of a volume that is made.
    pub driver: String,
    /// Driver options of a volume that is made.
    pub driver_options: BTreeMap<String, String>,
}

/// Options of a tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsMountOptions {
    /// Bytes; 0 unlimited.
    pub size_bytes: i64,
    /// Mode bits; 0 means 1777.
    pub mode: u32,
    /// Further mount options: `["uid", "1"]`, `["exec"]`.
    pub options: Vec<Vec<String>>,
}
