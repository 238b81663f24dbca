//! The flags, by dockerd's names. Each becomes a directive of daemon.json's name, so that both are checked in one place.

use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgAction, Parser};
use serde_json::{Map, Value, json};

/// Flags of `kekkai daemon`. Those of dockerd that are not here are unknown; those that are here and not done are
/// refused by name when they are set.
#[derive(Debug, Parser)]
#[command(
    name = "kekkai daemon",
    bin_name = "kekkai daemon",
    about = "The daemon of Kekkai, a container engine that speaks Docker's Engine API",
    disable_version_flag = true,
    max_term_width = 120
)]
pub(crate) struct DaemonArgs {
    /// Daemon configuration file [default: /etc/kekkai/daemon.json]
    #[arg(long, value_name = "PATH")]
    pub(super) config_file: Option<PathBuf>,
    /// Validate the configuration and exit
    #[arg(long)]
    pub(super) validate: bool,
    /// Print the build that a keeper started for this daemon must name, and exit
    #[arg(long, hide = true)]
    pub(super) print_build: bool,
    /// Print the names of the crash suite's fail points and exit
    #[arg(long, hide = true)]
    pub(super) failpoints: bool,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    containers: Containers,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    undone: Undone,
}

#[derive(Debug, clap::Args)]
struct Places {
    /// Directory of durable state [default: /var/lib/kekkai]
    #[arg(long, value_name = "DIR")]
    data_root: Option<String>,
    /// Directory of run-time state, on a tmpfs [default: /run/kekkai]
    #[arg(long, value_name = "DIR")]
    exec_root: Option<String>,
    /// File for the daemon's process id [default: EXEC_ROOT/daemon.pid]
    #[arg(long, short = 'p', value_name = "PATH")]
    pidfile: Option<String>,
    /// The kekkai-keeper executable [default: beside this one]
    #[arg(long, value_name = "PATH")]
    keeper: Option<String>,
    /// Log messages above this level: debug, info, warn, error, fatal [default: info]
    #[arg(long, short = 'l', value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of log messages: text or json
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
    /// Write log messages to this file, not to stderr
    #[arg(long, value_name = "PATH")]
    log_file: Option<String>,
    /// Log at debug level
    #[arg(long, short = 'D', num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    debug: Option<bool>,
    /// Text logs without colours
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    raw_logs: Option<bool>,
}

#[derive(Debug, clap::Args)]
struct Listening {
    /// Socket to listen on: unix:///path, tcp://address:port, fd://; several are allowed
    #[arg(long = "host", short = 'H', value_name = "HOST")]
    hosts: Vec<String>,
    /// Group of the unix socket [default: kekkai, where it exists]
    #[arg(long, short = 'G', value_name = "GROUP")]
    group: Option<String>,
    /// Use TLS on TCP sockets; implied by --tlsverify
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    tls: Option<bool>,
    /// Use TLS and verify the clients' certificates
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    tlsverify: Option<bool>,
    /// Trust clients' certificates signed by this authority only [default: ~/.docker/ca.pem]
    #[arg(long, value_name = "PATH")]
    tlscacert: Option<String>,
    /// The daemon's certificate [default: ~/.docker/cert.pem]
    #[arg(long, value_name = "PATH")]
    tlscert: Option<String>,
    /// The daemon's key [default: ~/.docker/key.pem]
    #[arg(long, value_name = "PATH")]
    tlskey: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Containers {
    /// Parent cgroup of all containers [default: kekkai]
    #[arg(long, value_name = "CGROUP")]
    cgroup_parent: Option<String>,
    /// Default limits of containers: nofile=1024:2048
    #[arg(long = "default-ulimit", value_name = "ULIMIT")]
    default_ulimits: Vec<String>,
    /// Default size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES")]
    default_shm_size: Option<String>,
    /// Default ipc mode: shareable or private
    #[arg(long, value_name = "MODE")]
    default_ipc_mode: Option<String>,
    /// Default cgroup namespace mode: host or private
    #[arg(long, value_name = "MODE")]
    default_cgroupns_mode: Option<String>,
    /// Default OCI runtime (only kekkai)
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// Run an init in containers that forwards signals and reaps processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    init: Option<bool>,
    /// Set no-new-privileges by default for new containers
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    no_new_privileges: Option<bool>,
    /// Default log driver of containers: local, json-file or none [default: local]
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Default log driver options: max-size=10m
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    log_opts: Vec<String>,
    /// Containers survive the daemon: always so
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    live_restore: Option<bool>,
    /// Seconds that a system stop gives each container beyond its own time-out [default: 15]
    #[arg(long, value_name = "SECONDS")]
    shutdown_timeout: Option<i64>,
    /// Key=value labels of the daemon
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Execution options: native.cgroupdriver=cgroupfs
    #[arg(long = "exec-opt", value_name = "KEY=VALUE")]
    exec_opts: Vec<String>,
    /// Seccomp profile of containers (only builtin)
    #[arg(long, value_name = "PROFILE")]
    seccomp_profile: Option<String>,
    /// Storage driver (only overlay2, also named overlay)
    #[arg(long, short = 's', value_name = "DRIVER")]
    storage_driver: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Network {
    /// Interface of the default bridge network, or none [default: kekkai0]
    #[arg(long, short = 'b', value_name = "INTERFACE")]
    bridge: Option<String>,
    /// Address of the default bridge with its prefix: 10.1.0.1/24
    #[arg(long, value_name = "CIDR")]
    bip: Option<String>,
    /// Range of the default bridge's containers
    #[arg(long, value_name = "CIDR")]
    fixed_cidr: Option<String>,
    /// MTU of the default bridge [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<i64>,
    /// Host address of published ports [default: all]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Containers on the default bridge may reach each other [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    icc: Option<bool>,
    /// Switch on IPv4 forwarding [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ip_forward: Option<bool>,
    /// Masquerade what leaves the default bridge [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ip_masq: Option<bool>,
    /// Firewall rules: always made, with nf_tables
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    iptables: Option<bool>,
    /// No effect: published ports need no proxy here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    userland_proxy: Option<bool>,
    /// Name of our nf_tables table [default: kekkai]
    #[arg(long, value_name = "TABLE")]
    nft_table: Option<String>,
    /// Let forwarded packets pass a firewall of others that drops them (Docker's) [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    coexist: Option<bool>,
    /// Name servers of containers
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Resolver options of containers
    #[arg(long = "dns-opt", value_name = "OPTION")]
    dns_opts: Vec<String>,
    /// Search domains of containers
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Address that host-gateway means in --add-host [default: the default bridge's]
    #[arg(long = "host-gateway-ip", value_name = "ADDRESS")]
    host_gateway_ips: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Images {
    /// Mirror of Docker Hub
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String>,
    /// Registry that is spoken to without verified TLS: host, host:port or CIDR
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    insecure_registries: Vec<String>,
    /// Layers that are fetched at once [default: 3]
    #[arg(long, value_name = "COUNT")]
    max_concurrent_downloads: Option<i64>,
}

/// Known to dockerd, not done here: accepted at their defaults only.
#[derive(Debug, clap::Args)]
struct Undone {
    #[arg(long, hide = true)]
    containerd: Option<String>,
    #[arg(long, hide = true)]
    init_path: Option<String>,
    #[arg(long, hide = true)]
    bip6: Option<String>,
    #[arg(long, hide = true)]
    fixed_cidr_v6: Option<String>,
    #[arg(long, hide = true)]
    default_gateway: Option<String>,
    #[arg(long, hide = true)]
    default_gateway_v6: Option<String>,
    #[arg(long, hide = true)]
    userns_remap: Option<String>,
    #[arg(long, hide = true)]
    userland_proxy_path: Option<String>,
    #[arg(long, hide = true)]
    metrics_addr: Option<String>,
    #[arg(long, hide = true)]
    http_proxy: Option<String>,
    #[arg(long, hide = true)]
    https_proxy: Option<String>,
    #[arg(long, hide = true)]
    no_proxy: Option<String>,
    #[arg(long, hide = true)]
    max_concurrent_uploads: Option<i64>,
    #[arg(long, hide = true)]
    max_download_attempts: Option<i64>,
    #[arg(long = "default-address-pool", hide = true)]
    default_address_pools: Vec<String>,
    #[arg(long = "storage-opt", hide = true)]
    storage_opts: Vec<String>,
    #[arg(long = "add-runtime", hide = true)]
    runtimes: Vec<String>,
    #[arg(long = "authorization-plugin", hide = true)]
    authorization_plugins: Vec<String>,
    #[arg(long = "cdi-spec-dir", hide = true)]
    cdi_spec_dirs: Vec<String>,
    #[arg(long = "feature", hide = true)]
    features: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip6tables: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ip_forward_no_drop: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_direct_routing: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    selinux_enabled: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    experimental: Option<bool>,
    #[arg(long, hide = true, action = ArgAction::Set)]
    oom_score_adjust: Option<i64>,
}

/// Puts what was given into a map of directives.
struct Given(Map<String, Value>);

impl Given {
    fn one(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    fn list(&mut self, key: &str, values: Vec<String>) {
        if !values.is_empty() {
            self.0.insert(key.to_owned(), values.into());
        }
    }

    /// `KEY=VALUE` words as an object.
    fn pairs(&mut self, key: &str, flag: &str, words: Vec<String>) -> anyhow::Result<()> {
        let mut map = Map::new();
        for word in words {
            let (name, value) = word.split_once('=').with_context(|| {
                format!("invalid argument {word:?} for \"--{flag}\": want KEY=VALUE")
            })?;
            map.insert(name.to_owned(), value.into());
        }
        if !map.is_empty() {
            self.0.insert(key.to_owned(), map.into());
        }
        Ok(())
    }
}

/// `nofile=1024:2048` as the file writes it.
fn ulimit(word: &str) -> anyhow::Result<(String, Value)> {
    let invalid = || format!("invalid argument {word:?} for \"--default-ulimit\" flag");
    let (name, limits) = word.split_once('=').with_context(invalid)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<i64>().with_context(invalid);
    Ok((
        name.to_owned(),
        json!({"Name": name, "Hard": number(hard)?, "Soft": number(soft)?}),
    ))
}

impl DaemonArgs {
    /// What was given, by the names of daemon.json.
    pub(super) fn into_directives(self) -> anyhow::Result<Map<String, Value>> {
        let mut given = Given(Map::new());
        self.places.give(&mut given);
        self.listening.give(&mut given);
        self.containers.give(&mut given)?;
        self.network.give(&mut given);
        given.list("registry-mirrors", self.images.registry_mirrors);
        given.list("insecure-registries", self.images.insecure_registries);
        given.one(
            "max-concurrent-downloads",
            self.images.max_concurrent_downloads,
        );
        self.undone.give(&mut given)?;
        Ok(given.0)
    }
}

impl Places {
    fn give(self, given: &mut Given) {
        given.one("data-root", self.data_root);
        given.one("exec-root", self.exec_root);
        given.one("pidfile", self.pidfile);
        given.one("keeper", self.keeper);
        given.one("log-level", self.log_level);
        given.one("log-format", self.log_format);
        given.one("log-file", self.log_file);
        given.one("debug", self.debug);
        given.one("raw-logs", self.raw_logs);
    }
}

impl Listening {
    fn give(self, given: &mut Given) {
        given.list("hosts", self.hosts);
        given.one("group", self.group);
        given.one("tls", self.tls);
        given.one("tlsverify", self.tlsverify);
        given.one("tlscacert", self.tlscacert);
        given.one("tlscert", self.tlscert);
        given.one("tlskey", self.tlskey);
    }
}

impl Containers {
    fn give(self, given: &mut Given) -> anyhow::Result<()> {
        given.one("cgroup-parent", self.cgroup_parent);
        if !self.default_ulimits.is_empty() {
            let limits = self
                .default_ulimits
                .iter()
                .map(|word| ulimit(word))
                .collect::<anyhow::Result<Map<_, _>>>()?;
            given.one("default-ulimits", Some(limits));
        }
        given.one("default-shm-size", self.default_shm_size);
        given.one("default-ipc-mode", self.default_ipc_mode);
        given.one("default-cgroupns-mode", self.default_cgroupns_mode);
        given.one("default-runtime", self.default_runtime);
        given.one("init", self.init);
        given.one("no-new-privileges", self.no_new_privileges);
        given.one("log-driver", self.log_driver);
        given.pairs("log-opts", "log-opt", self.log_opts)?;
        given.one("live-restore", self.live_restore);
        given.one("shutdown-timeout", self.shutdown_timeout);
        given.list("labels", self.labels);
        given.list("exec-opts", self.exec_opts);
        given.one("seccomp-profile", self.seccomp_profile);
        given.one("storage-driver", self.storage_driver);
        Ok(())
    }
}

impl Network {
    fn give(self, given: &mut Given) {
        given.one("bridge", self.bridge);
        given.one("bip", self.bip);
        given.one("fixed-cidr", self.fixed_cidr);
        given.one("mtu", self.mtu);
        given.one("ip", self.ip);
        given.one("icc", self.icc);
        given.one("ip-forward", self.ip_forward);
        given.one("ip-masq", self.ip_masq);
        given.one("iptables", self.iptables);
        given.one("userland-proxy", self.userland_proxy);
        given.one("nft-table", self.nft_table);
        given.one("coexist", self.coexist);
        given.list("dns", self.dns);
        given.list("dns-opts", self.dns_opts);
        given.list("dns-search", self.dns_search);
        given.list("host-gateway-ips", self.host_gateway_ips);
    }
}

impl Undone {
    fn give(self, given: &mut Given) -> anyhow::Result<()> {
        let texts = [
            ("containerd", self.containerd),
            ("init-path", self.init_path),
            ("bip6", self.bip6),
            ("fixed-cidr-v6", self.fixed_cidr_v6),
            ("default-gateway", self.default_gateway),
            ("default-gateway-v6", self.default_gateway_v6),
            ("userns-remap", self.userns_remap),
            ("userland-proxy-path", self.userland_proxy_path),
            ("metrics-addr", self.metrics_addr),
            ("http-proxy", self.http_proxy),
            ("https-proxy", self.https_proxy),
            ("no-proxy", self.no_proxy),
        ];
        for (key, value) in texts {
            given.one(key, value);
        }
        let lists = [
            ("default-address-pools", self.default_address_pools),
            ("storage-opts", self.storage_opts),
            ("runtimes", self.runtimes),
            ("authorization-plugins", self.authorization_plugins),
            ("cdi-spec-dirs", self.cdi_spec_dirs),
        ];
        for (key, values) in lists {
            given.list(key, values);
        }
        let switches = [
            ("ipv6", self.ipv6),
            ("ip6tables", self.ip6tables),
            ("ip-forward-no-drop", self.ip_forward_no_drop),
            ("allow-direct-routing", self.allow_direct_routing),
            ("selinux-enabled", self.selinux_enabled),
            ("experimental", self.experimental),
        ];
        for (key, value) in switches {
            given.one(key, value);
        }
        given.one("max-concurrent-uploads", self.max_concurrent_uploads);
        given.one("max-download-attempts", self.max_download_attempts);
        given.one("oom-score-adjust", self.oom_score_adjust);
        given.pairs("features", "feature", self.features)
    }
}
