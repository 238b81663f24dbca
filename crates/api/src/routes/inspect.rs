//! `GET /containers/{id}/json`: everything about one container.

use std::collections::BTreeMap;
use std::sync::Arc;

use kekkai_engine::model::{
    BoundPort, ContainerSpec, ContainerView, MountKind, NetworkSettingsView, StateView,
};
use kekkai_types::Timestamp;
use serde::Serialize;

use crate::http::{ApiError, Call, Reply};
use crate::routes::Api;
use crate::wire::{ConfigOut, EndpointOut, HostOut};

/// Tells everything about a container.
pub(super) async fn inspect(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let view = api.engine().inspect(&id, call.query.bool("size")).await?;
    Reply::json(&InspectOut::new(&view))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InspectOut<'a> {
    id: String,
    created: String,
    path: &'a str,
    args: &'a [String],
    state: StateOut<'a>,
    image: String,
    resolv_conf_path: &'a str,
    hostname_path: &'a str,
    hosts_path: &'a str,
    log_path: &'a str,
    name: String,
    restart_count: u32,
    driver: &'a str,
    platform: &'a str,
    mount_label: &'a str,
    process_label: &'a str,
    app_armor_profile: &'a str,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: HostOut<'a>,
    graph_driver: GraphDriverOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<MountPointOut<'a>>,
    config: ConfigOut<'a>,
    network_settings: NetworkSettingsOut<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateOut<'a> {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: &'a str,
    started_at: String,
    finished_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriverOut<'a> {
    data: &'a BTreeMap<String, String>,
    name: &'a str,
}

/// A mount in an answer.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MountPointOut<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    source: &'a str,
    destination: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<&'a str>,
    mode: &'a str,
    #[serde(rename = "RW")]
    read_write: bool,
    propagation: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettingsOut<'a> {
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: &'a str,
    sandbox_key: &'a str,
    ports: BTreeMap<String, Option<Vec<BindingOut>>>,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Option<()>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Option<()>,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    gateway: &'a str,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: &'a str,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress")]
    ip_address: &'a str,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: &'a str,
    mac_address: &'a str,
    networks: BTreeMap<&'a str, EndpointOut<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindingOut {
    host_ip: String,
    host_port: String,
}

fn moment(at: Option<Timestamp>) -> String {
    at.unwrap_or(Timestamp::ZERO).to_string()
}

impl<'a> InspectOut<'a> {
    pub(super) fn new(view: &'a ContainerView) -> Self {
        let spec = &*view.spec;
        Self {
            id: view.id.to_string(),
            created: view.created.to_string(),
            path: &spec.path,
            args: &spec.args,
            state: StateOut::new(&view.state),
            image: spec.image_id.to_string(),
            resolv_conf_path: &view.paths.resolv_conf,
            hostname_path: &view.paths.hostname,
            hosts_path: &view.paths.hosts,
            log_path: &view.paths.log,
            name: format!("/{}", view.name),
            restart_count: view.restart_count,
            driver: &view.paths.driver,
            platform: &spec.platform.os,
            mount_label: "",
            process_label: "",
            app_armor_profile: "",
            exec_ids: (!view.exec_ids.is_empty())
                .then(|| view.exec_ids.iter().map(ToString::to_string).collect()),
            host_config: HostOut::new(&spec.host),
            graph_driver: GraphDriverOut {
                data: &view.paths.graph_driver,
                name: &view.paths.driver,
            },
            size_rw: view.size.map(|size| size.writable),
            size_root_fs: view.size.map(|size| size.root_fs),
            mounts: mount_points(spec),
            config: ConfigOut::new(&spec.config),
            network_settings: NetworkSettingsOut::new(&view.network),
        }
    }
}

impl<'a> StateOut<'a> {
    fn new(state: &'a StateView) -> Self {
        Self {
            status: state.status.as_str(),
            running: state.running(),
            paused: state.paused(),
            restarting: state.restarting(),
            oom_killed: state.oom_killed,
            dead: state.dead(),
            pid: state.pid,
            exit_code: state.exit_code,
            error: &state.error,
            started_at: moment(state.started_at),
            finished_at: moment(state.finished_at),
        }
    }
}

/// The mounts that Docker lists: those of `--tmpfs` are told in `HostConfig` only.
pub(super) fn mount_points(spec: &ContainerSpec) -> Vec<MountPointOut<'_>> {
    spec.mounts
        .iter()
        .filter(|mount| {
            mount.kind != MountKind::Tmpfs || !spec.host.tmpfs.contains_key(&mount.destination)
        })
        .map(|mount| MountPointOut {
            r#type: mount.kind.as_str(),
            name: mount.name.as_deref(),
            source: &mount.source,
            destination: &mount.destination,
            driver: (mount.kind == MountKind::Volume).then_some(mount.driver.as_str()),
            mode: &mount.mode,
            read_write: mount.read_write,
            propagation: &mount.propagation,
        })
        .collect()
}

impl BindingOut {
    fn new(port: &BoundPort) -> Self {
        Self {
            host_ip: port.host_ip.to_string(),
            host_port: port.host_port.to_string(),
        }
    }
}

impl<'a> NetworkSettingsOut<'a> {
    fn new(network: &'a NetworkSettingsView) -> Self {
        let bridge = network.endpoints.get("bridge");
        let ports = network
            .ports
            .iter()
            .map(|(key, bound)| {
                let bindings =
                    (!bound.is_empty()).then(|| bound.iter().map(BindingOut::new).collect());
                (key.to_string(), bindings)
            })
            .collect();
        Self {
            bridge: "",
            sandbox_id: &network.sandbox_id,
            sandbox_key: &network.sandbox_key,
            ports,
            hairpin_mode: false,
            link_local_ipv6_address: "",
            link_local_ipv6_prefix_len: 0,
            secondary_ip_addresses: None,
            secondary_ipv6_addresses: None,
            endpoint_id: bridge.map_or("", |endpoint| &endpoint.endpoint_id),
            gateway: bridge.map_or("", |endpoint| &endpoint.gateway),
            global_ipv6_address: bridge.map_or("", |endpoint| &endpoint.ipv6_address),
            global_ipv6_prefix_len: bridge.map_or(0, |endpoint| endpoint.ipv6_prefix_len),
            ip_address: bridge.map_or("", |endpoint| &endpoint.ip_address),
            ip_prefix_len: bridge.map_or(0, |endpoint| endpoint.prefix_len),
            ipv6_gateway: bridge.map_or("", |endpoint| &endpoint.ipv6_gateway),
            mac_address: bridge.map_or("", |endpoint| &endpoint.mac_address),
            networks: network
                .endpoints
                .iter()
                .map(|(name, endpoint)| (name.as_str(), EndpointOut::from(endpoint)))
                .collect(),
        }
    }
}
