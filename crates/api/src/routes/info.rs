//! `GET /info`: what engine and host are and can do.

use std::sync::Arc;

use kekkai_engine::model::EngineInfo;
use kekkai_types::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::{ApiError, Reply};
use crate::routes::Api;

/// Tells about engine and host.
pub(super) async fn info(api: Arc<Api>) -> Result<Reply, ApiError> {
    let info = api.engine().info().await?;
    Reply::json(&InfoOut::new(&api, &info))
}

/// Docker's `SystemInfo`, fields in dockerd's order; those of other runtimes' parts are left empty.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InfoOut<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    driver: &'a str,
    driver_status: &'a [(String, String)],
    plugins: Value,
    memory_limit: bool,
    swap_limit: bool,
    cpu_cfs_period: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    cpu_set: bool,
    pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    ipv4_forwarding: bool,
    debug: bool,
    #[serde(rename = "NFd")]
    fds: usize,
    oom_kill_disable: bool,
    #[serde(rename = "NGoroutines")]
    tasks: usize,
    system_time: String,
    logging_driver: &'a str,
    cgroup_driver: &'a str,
    cgroup_version: &'a str,
    #[serde(rename = "NEventsListener")]
    event_listeners: usize,
    kernel_version: &'a str,
    operating_system: &'a str,
    #[serde(rename = "OSVersion")]
    os_version: &'a str,
    #[serde(rename = "OSType")]
    os_type: &'a str,
    architecture: &'a str,
    index_server_address: &'static str,
    registry_config: Value,
    #[serde(rename = "NCPU")]
    ncpu: usize,
    mem_total: u64,
    generic_resources: Option<()>,
    docker_root_dir: &'a str,
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    name: &'a str,
    labels: Vec<String>,
    experimental_build: bool,
    server_version: &'a str,
    runtimes: Value,
    default_runtime: &'static str,
    swarm: Value,
    live_restore_enabled: bool,
    isolation: &'static str,
    init_binary: &'static str,
    containerd_commit: Commit,
    runc_commit: Commit,
    init_commit: Commit,
    security_options: &'a [String],
    #[serde(rename = "CDISpecDirs")]
    cdi_spec_dirs: [(); 0],
    firewall_backend: Value,
    warnings: Option<&'a [String]>,
}

#[derive(Default, Serialize)]
struct Commit {
    #[serde(rename = "ID")]
    id: &'static str,
}

fn registry_config(info: &EngineInfo) -> Value {
    let (ranges, names): (Vec<&String>, Vec<&String>) = info
        .insecure_registries
        .iter()
        .partition(|registry| registry.contains('/'));
    let mut indexes = serde_json::Map::new();
    indexes.insert(
        "docker.io".to_owned(),
        json!({"Mirrors": info.registry_mirrors, "Name": "docker.io", "Official": true, "Secure": true}),
    );
    for name in names {
        indexes.insert(
            name.clone(),
            json!({"Mirrors": [], "Name": name, "Official": false, "Secure": false}),
        );
    }
    let mut cidrs: Vec<&str> = vec!["::1/128", "127.0.0.0/8"];
    cidrs.extend(ranges.into_iter().map(String::as_str));
    let mirrors = Some(&info.registry_mirrors).filter(|mirrors| !mirrors.is_empty());
    json!({"IndexConfigs": indexes, "InsecureRegistryCIDRs": cidrs, "Mirrors": mirrors})
}

impl<'a> InfoOut<'a> {
    fn new(api: &Api, info: &'a EngineInfo) -> Self {
        let environment = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            id: &info.id,
            containers: info.containers,
            containers_running: info.running,
            containers_paused: info.paused,
            containers_stopped: info.stopped,
            images: info.images,
            driver: &info.driver,
            driver_status: &info.driver_status,
            plugins: json!({
                "Volume": ["local"],
                "Network": ["bridge", "host", "null"],
                "Authorization": null,
                "Log": info.log_drivers,
            }),
            memory_limit: info.memory_limit,
            swap_limit: info.swap_limit,
            cpu_cfs_period: info.cpu_cfs,
            cpu_cfs_quota: info.cpu_cfs,
            cpu_shares: info.cpu_shares,
            cpu_set: info.cpu_set,
            pids_limit: info.pids_limit,
            ipv4_forwarding: info.ipv4_forwarding,
            debug: api.settings().debug,
            fds: info.fds,
            oom_kill_disable: info.oom_kill_disable,
            tasks: info.tasks,
            system_time: Timestamp::now().to_string(),
            logging_driver: &info.logging_driver,
            cgroup_driver: &info.cgroup_driver,
            cgroup_version: &info.cgroup_version,
            event_listeners: info.event_listeners,
            kernel_version: &info.kernel_version,
            operating_system: &info.operating_system,
            os_version: &info.os_version,
            os_type: &info.os_type,
            architecture: &info.architecture,
            index_server_address: "https://index.docker.io/v1/",
            registry_config: registry_config(info),
            ncpu: info.ncpu,
            mem_total: info.mem_total,
            generic_resources: None,
            docker_root_dir: &info.root_dir,
            http_proxy: environment("HTTP_PROXY"),
            https_proxy: environment("HTTPS_PROXY"),
            no_proxy: environment("NO_PROXY"),
            name: &info.name,
            labels: api
                .engine()
                .config()
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
            experimental_build: false,
            server_version: &info.server_version,
            runtimes: json!({"kekkai": {"path": "kekkai-keeper"}}),
            default_runtime: "kekkai",
            swarm: json!({
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": false,
                "Error": "",
                "RemoteManagers": null,
            }),
            live_restore_enabled: info.live_restore,
            isolation: "",
            init_binary: "docker-init",
            containerd_commit: Commit::default(),
            runc_commit: Commit::default(),
            init_commit: Commit::default(),
            security_options: &info.security_options,
            cdi_spec_dirs: [],
            firewall_backend: json!({"Driver": "nftables"}),
            warnings: Some(info.warnings.as_slice()).filter(|warnings| !warnings.is_empty()),
        }
    }
}
