//! One moment of a container, for list and inspect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kekkai_types::{ContainerId, ExecId, PortKey, Timestamp};

use super::{ContainerSpec, Lifecycle, Status};

/// One moment of a container. Cheap to make: the specification is shared.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: Arc<str>,
    /// When it was created.
    pub created: Timestamp,
    /// What it is.
    pub spec: Arc<ContainerSpec>,
    /// Where it is in its life.
    pub state: StateView,
    /// How often the policy has restarted it.
    pub restart_count: u32,
    /// Its endpoints and published ports.
    pub network: NetworkSettingsView,
    /// Host paths of its files; empty until they exist.
    pub paths: ContainerPaths,
    /// Exec sessions that were made in it and are not gone.
    pub exec_ids: Vec<ExecId>,
    /// Sizes, when asked for.
    pub size: Option<ContainerSize>,
}

/// The state of a container at one moment.
#[derive(Debug, Clone)]
pub struct StateView {
    /// Our own state.
    pub lifecycle: Lifecycle,
    /// Docker's word; `Starting` reads as what was before.
    pub status: Status,
    /// 0 when it does not run.
    pub pid: u32,
    /// The last exit code; 0 while it runs.
    pub exit_code: i32,
    /// Why the last start failed, or why removal did.
    pub error: Arc<str>,
    /// The kernel killed it for memory.
    pub oom_killed: bool,
    /// The last start, if there was one.
    pub started_at: Option<Timestamp>,
    /// The last end, if there was one.
    pub finished_at: Option<Timestamp>,
}

impl StateView {
    /// Docker's `Running`: true while paused and while restarting.
    pub fn running(&self) -> bool {
        matches!(
            self.status,
            Status::Running | Status::Paused | Status::Restarting
        )
    }

    /// Docker's `Paused`.
    pub fn paused(&self) -> bool {
        self.status == Status::Paused
    }

    /// Docker's `Restarting`.
    pub fn restarting(&self) -> bool {
        self.status == Status::Restarting
    }

    /// Docker's `Dead`.
    pub fn dead(&self) -> bool {
        self.status == Status::Dead
    }
}

/// Docker's `NetworkSettings`.
#[derive(Debug, Clone, Default)]
pub struct NetworkSettingsView {
    /// Id of the sandbox; empty when it does not run.
    pub sandbox_id: String,
    /// Path of the network namespace; empty when it has none of its own.
    pub sandbox_key: String,
    /// Published ports as they are bound now; an exposed one that is not published has no bindings.
    pub ports: BTreeMap<PortKey, Vec<BoundPort>>,
    /// Endpoints by network name.
    pub endpoints: BTreeMap<String, EndpointView>,
}

/// A published port as it is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundPort {
    /// Address on the host.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host_port: u16,
}

/// One endpoint as inspect shows it; addresses are empty when the container does not run.
#[derive(Debug, Clone, Default)]
pub struct EndpointView {
    /// The network's id.
    pub network_id: String,
    /// The endpoint's id.
    pub endpoint_id: String,
    /// IPv4 address.
    pub ip_address: String,
    /// Prefix length of it.
    pub prefix_len: u8,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv6 address.
    pub ipv6_address: String,
    /// Prefix length of it.
    pub ipv6_prefix_len: u8,
    /// IPv6 gateway.
    pub ipv6_gateway: String,
    /// MAC address.
    pub mac_address: String,
    /// Names by which others on the network find it.
    pub dns_names: Vec<String>,
    /// What was asked for.
    pub requested: Option<super::EndpointOptions>,
}

/// Host paths of a container's files.
#[derive(Debug, Clone, Default)]
pub struct ContainerPaths {
    /// /etc/hostname.
    pub hostname: String,
    /// /etc/hosts.
    pub hosts: String,
    /// /etc/resolv.conf.
    pub resolv_conf: String,
    /// The log, for drivers that have a file Docker users know (`json-file`).
    pub log: String,
    /// `overlay2`-like driver facts for inspect's `GraphDriver.Data`.
    pub graph_driver: BTreeMap<String, String>,
    /// Name of the storage driver.
    pub driver: String,
}

/// Bytes a container takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerSize {
    /// Its own changes.
    pub writable: u64,
    /// With the image below.
    pub root_fs: u64,
}

/// One process, as `top` shows it: the columns of `titles`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopResult {
    /// Column titles.
    pub titles: Vec<String>,
    /// One row per process.
    pub processes: Vec<Vec<String>>,
}

/// One path that differs from the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Absolute path inside.
    pub path: String,
}

/// Docker's kinds of change, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// 0
    Modified,
    /// 1
    Added,
    /// 2
    Deleted,
}
