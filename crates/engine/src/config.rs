//! What the daemon tells the engine when it opens it. Everything is explicit, so that several engines run side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Durable state (`/var/lib/kekkai`).
    pub data_root: PathBuf,
    /// Run-time state on a tmpfs (`/run/kekkai`).
    pub exec_root: PathBuf,
    /// The `kekkai-keeper` executable: keeper, `--init` and the built-in image's program.
    pub keeper_binary: PathBuf,
    /// Parent cgroup, relative to each hierarchy (`kekkai`).
    pub cgroup_parent: String,
    /// The default bridge network.
    pub bridge: BridgeConfig,
    /// Log driver and options of containers that name none.
    pub default_log: crate::model::LogSettings,
    /// Seconds between stop signal and SIGKILL.
    pub default_stop_timeout: i64,
    /// Size of /dev/shm.
    pub default_shm_size: i64,
    /// `private`, `shareable` or `host`.
    pub default_ipc_mode: String,
    /// `private` or `host`; by the cgroup version when absent.
    pub default_cgroupns_mode: Option<String>,
    /// Ulimits of containers that do not set them.
    pub default_ulimits: Vec<crate::model::Ulimit>,
    /// `--init` by default.
    pub default_init: bool,
    /// `--no-new-privileges` by default.
    pub no_new_privileges: bool,
    /// Name servers of containers that name none.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// What `host-gateway` means in `--add-host`; the bridge's gateway when absent.
    pub host_gateway: Option<String>,
    /// Keys that detach, when the client names none.
    pub detach_keys: String,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// Registries spoken to without TLS (host, host:port, or CIDR).
    pub insecure_registries: Vec<String>,
    /// Layers fetched at once.
    pub max_concurrent_downloads: usize,
    /// Labels of the daemon, shown by `info`.
    pub labels: BTreeMap<String, String>,
    /// This build: version and commit.
    pub version: String,
    /// Build id.
    pub git_commit: String,
    /// Fail points of the crash suite (`KEKKAI_FAILPOINTS`), for the engine and for a keeper that it starts.
    pub failpoints: String,
    /// How long `stop_all` gives each container beyond its own time-out.
    pub shutdown_grace: Duration,
}

/// The default bridge network.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// Whether there is one (`--bridge=none`).
    pub enabled: bool,
    /// Its interface (`kekkai0`).
    pub name: String,
    /// Gateway with prefix length (`--bip`), chosen when absent.
    pub address: Option<String>,
    /// Range that addresses are taken from (`--fixed-cidr`).
    pub fixed_cidr: Option<String>,
    /// MTU; 1500 when absent.
    pub mtu: Option<u32>,
    /// The nftables table (`kekkai`).
    pub table: String,
    /// Address that published ports bind to when none is given (`--ip`).
    pub default_bind_ip: Option<std::net::IpAddr>,
    /// Masquerade (`--ip-masq`).
    pub masquerade: bool,
    /// Containers may reach each other (`--icc`).
    pub inter_container: bool,
    /// Switch on IPv4 forwarding (`--ip-forward`).
    pub ip_forward: bool,
    /// Ready network namespaces to keep.
    pub pool_size: usize,
    /// Put accept rules where a foreign FORWARD chain drops (pitfalls 18).
    pub coexist: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "kekkai0".to_owned(),
            address: None,
            fixed_cidr: None,
            mtu: None,
            table: "kekkai".to_owned(),
            default_bind_ip: None,
            masquerade: true,
            inter_container: true,
            ip_forward: true,
            pool_size: 8,
            coexist: true,
        }
    }
}

impl EngineConfig {
    /// Docker's defaults for these roots and this keeper.
    pub fn new(data_root: PathBuf, exec_root: PathBuf, keeper_binary: PathBuf) -> Self {
        Self {
            data_root,
            exec_root,
            keeper_binary,
            cgroup_parent: "kekkai".to_owned(),
            bridge: BridgeConfig::default(),
            default_log: crate::model::LogSettings {
                driver: "local".to_owned(),
                options: BTreeMap::new(),
            },
            default_stop_timeout: 10,
            default_shm_size: 64 << 20,
            default_ipc_mode: "private".to_owned(),
            default_cgroupns_mode: None,
            default_ulimits: Vec::new(),
            default_init: false,
            no_new_privileges: false,
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            host_gateway: None,
            detach_keys: "ctrl-p,ctrl-q".to_owned(),
            registry_mirrors: Vec::new(),
            insecure_registries: Vec::new(),
            max_concurrent_downloads: 3,
            labels: BTreeMap::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: String::new(),
            failpoints: String::new(),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
