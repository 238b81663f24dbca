//! What the daemon runs with: directives checked and turned into types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use kekkai_api::TlsFiles;
use kekkai_engine::model::{LogSettings, Ulimit};
use kekkai_engine::{BridgeConfig, EngineConfig};
use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;

use super::options::Options;
use crate::build_id;

/// Port of TCP sockets that name none, without and with TLS.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// A socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// A unix socket's path.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
    /// Whatever systemd has handed over.
    Inherited,
}

/// Form of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// How the daemon logs.
#[derive(Debug, Clone)]
pub(super) struct LogConfig {
    pub(super) level: LevelFilter,
    pub(super) format: LogFormat,
    pub(super) file: Option<PathBuf>,
}

/// Everything that the daemon runs with.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) engine: EngineConfig,
    pub(super) hosts: Vec<Host>,
    pub(super) group: Option<String>,
    pub(super) tls: Option<TlsFiles>,
    pub(super) pidfile: PathBuf,
    pub(super) log: LogConfig,
}

impl Settings {
    /// Checks directives and makes settings of them.
    ///
    /// # Errors
    /// When one is wrong or not done; it is named.
    pub(super) fn read(directives: Map<String, Value>) -> anyhow::Result<Self> {
        let mut options = Options::new(directives);
        let data_root = path(&mut options, "data-root", || "/var/lib/kekkai".into())?;
        let exec_root = path(&mut options, "exec-root", || "/run/kekkai".into())?;
        let keeper = match options.text("keeper")? {
            Some(path) => std::path::absolute(path).context("invalid value for keeper")?,
            None => beside_this_executable()?,
        };
        let log = read_log(&mut options)?;
        let tls_mode = TlsMode::read(&mut options)?;
        let hosts = read_hosts(&mut options, &exec_root, &tls_mode)?;
        let group = options.text("group")?;
        let pidfile = path(&mut options, "pidfile", || exec_root.join("daemon.pid"))?;
        let mut engine = EngineConfig::new(data_root, exec_root, keeper);
        engine.git_commit = short_build();
        engine.failpoints = std::env::var("KEKKAI_FAILPOINTS").unwrap_or_default();
        read_containers(&mut options, &mut engine)?;
        read_defaults(&mut options, &mut engine)?;
        engine.bridge = read_bridge(&mut options)?;
        read_names(&mut options, &mut engine)?;
        read_registries(&mut options, &mut engine)?;
        accept_at_default(&mut options)?;
        options.finish()?;
        Ok(Self {
            engine,
            hosts,
            group,
            tls: tls_mode.files,
            pidfile,
            log,
        })
    }
}

/// The content of this executable in twelve digits. A keeper of another build is replaced once it keeps nothing.
pub(super) fn short_build() -> String {
    let build = build_id::current();
    let hash = build
        .split_once('-')
        .map_or(build.as_str(), |(_, hash)| hash);
    hash.chars().take(12).collect()
}

/// A path, made absolute: other processes get it too.
fn path(
    options: &mut Options,
    key: &str,
    default: impl FnOnce() -> PathBuf,
) -> anyhow::Result<PathBuf> {
    match options.text(key)? {
        None => Ok(default()),
        Some(text) => std::path::absolute(text).with_context(|| format!("invalid value for {key}")),
    }
}

fn beside_this_executable() -> anyhow::Result<PathBuf> {
    let own = std::fs::read_link("/proc/self/exe").context("finding this executable")?;
    Ok(own.with_file_name("kekkai-keeper"))
}

fn read_log(options: &mut Options) -> anyhow::Result<LogConfig> {
    let level = match options.text("log-level")?.as_deref() {
        None | Some("info") => LevelFilter::INFO,
        Some("debug") => LevelFilter::DEBUG,
        Some("warn" | "warning") => LevelFilter::WARN,
        Some("error" | "fatal" | "panic") => LevelFilter::ERROR,
        Some("trace") => LevelFilter::TRACE,
        Some(other) => bail!("invalid logging level: {other}"),
    };
    let level = if options.switch("debug")? == Some(true) {
        level.max(LevelFilter::DEBUG)
    } else {
        level
    };
    let format = match options.text("log-format")?.as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => bail!("invalid log format: {other}"),
    };
    // Our text has no colours.
    options.switch("raw-logs")?;
    Ok(LogConfig {
        level,
        format,
        file: options.text("log-file")?.map(PathBuf::from),
    })
}

/// What was said about TLS.
struct TlsMode {
    files: Option<TlsFiles>,
    /// Plain TCP was asked for in so many words.
    refused: bool,
}

impl TlsMode {
    fn read(options: &mut Options) -> anyhow::Result<Self> {
        let home = std::env::var_os("HOME")
            .map_or_else(|| PathBuf::from("/root"), PathBuf::from)
            .join(".docker");
        let (tls, verify) = (options.switch("tls")?, options.switch("tlsverify")?);
        let mut path = |key: &str, default: &str| {
            options
                .text(key)
                .map(|path| path.map_or_else(|| home.join(default), PathBuf::from))
        };
        let authority = path("tlscacert", "ca.pem")?;
        let (certificate, key) = (path("tlscert", "cert.pem")?, path("tlskey", "key.pem")?);
        let on = verify.unwrap_or(false) || tls.unwrap_or(false);
        let client_authority = verify.unwrap_or(false).then_some(authority);
        let files = on.then_some(TlsFiles {
            certificate,
            key,
            client_authority,
        });
        Ok(Self {
            files,
            refused: tls == Some(false) || verify == Some(false),
        })
    }
}

fn read_hosts(options: &mut Options, exec_root: &Path, tls: &TlsMode) -> anyhow::Result<Vec<Host>> {
    let words = options.list("hosts")?;
    if words.is_empty() {
        return Ok(vec![Host::Unix(exec_root.join("kekkai.sock"))]);
    }
    let mut hosts = Vec::new();
    for word in words {
        let host = parse_host(&word, exec_root, tls.files.is_some())?;
        if let Host::Tcp(address) = &host
            && tls.files.is_none()
            && !address.ip().is_loopback()
            && !tls.refused
        {
            bail!(
                "{word} would give everybody who reaches it full control of this host: use --tlsverify, or say --tls=false if it is meant so"
            );
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn parse_host(word: &str, exec_root: &Path, tls: bool) -> anyhow::Result<Host> {
    let word = word.trim();
    if let Some(path) = word.strip_prefix("unix://") {
        let path = if path.is_empty() {
            exec_root.join("kekkai.sock")
        } else {
            PathBuf::from(path)
        };
        return Ok(Host::Unix(path));
    }
    match word {
        "fd://" | "fd://*" => return Ok(Host::Inherited),
        "" => return Ok(Host::Unix(exec_root.join("kekkai.sock"))),
        _ => {}
    }
    if let Some((scheme, _)) = word.split_once("://")
        && scheme != "tcp"
    {
        bail!("invalid bind address ({word}): unsupported proto '{scheme}'");
    }
    let address = word
        .strip_prefix("tcp://")
        .unwrap_or(word)
        .trim_end_matches('/');
    let default_port = if tls { TLS_PORT } else { PLAIN_PORT };
    parse_address(address, default_port)
        .map(Host::Tcp)
        .with_context(|| format!("invalid bind address ({word})"))
}

/// `address:port` with either part left out. Names are not looked up: a daemon listens on addresses.
fn parse_address(text: &str, default_port: u16) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().context("bad port")?)
        }
        _ => (text, default_port),
    };
    let host = match host {
        "" => "127.0.0.1",
        "localhost" => "127.0.0.1",
        other => other.trim_start_matches('[').trim_end_matches(']'),
    };
    Ok(SocketAddr::new(
        host.parse()
            .with_context(|| format!("{host:?} is not an IP address"))?,
        port,
    ))
}

fn read_containers(options: &mut Options, engine: &mut EngineConfig) -> anyhow::Result<()> {
    if let Some(parent) = options.text("cgroup-parent")? {
        engine.cgroup_parent = parent.trim_start_matches('/').to_owned();
    }
    let driver = options.text("log-driver")?;
    let log_options = options.pairs("log-opts")?;
    if driver.is_some() || !log_options.is_empty() {
        let driver = driver.unwrap_or_else(|| engine.default_log.driver.clone());
        if !matches!(driver.as_str(), "local" | "json-file" | "none") {
            bail!("log-driver={driver} is not supported by Kekkai yet");
        }
        engine.default_log = LogSettings {
            driver,
            options: log_options,
        };
    }
    if let Some(seconds) = options.number("shutdown-timeout")? {
        engine.shutdown_grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX / 4));
    }
    if options.switch("live-restore")? == Some(false) {
        bail!(
            "live-restore=false is not supported: containers outlive the daemon; \"kekkai system stop\" stops them"
        );
    }
    let mut labels = BTreeMap::new();
    for label in options.list("labels")? {
        let (key, value) = label
            .split_once('=')
            .with_context(|| format!("bad attribute format: {label}"))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    engine.labels = labels;
    for word in options.list("exec-opts")? {
        if word != "native.cgroupdriver=cgroupfs" {
            bail!("exec-opt {word} is not supported by Kekkai yet");
        }
    }
    Ok(())
}

fn read_defaults(options: &mut Options, engine: &mut EngineConfig) -> anyhow::Result<()> {
    if let Some(size) = options.size("default-shm-size")? {
        engine.default_shm_size = size;
    }
    if let Some(mode) = options.text("default-ipc-mode")? {
        if !matches!(mode.as_str(), "private" | "shareable") {
            bail!(
                "default IPC mode setting (ipc: {mode}) is invalid: use \"private\" or \"shareable\""
            );
        }
        engine.default_ipc_mode = mode;
    }
    if let Some(mode) = options.text("default-cgroupns-mode")? {
        if !matches!(mode.as_str(), "private" | "host") {
            bail!("default cgroup namespace mode ({mode}) is invalid: use \"host\" or \"private\"");
        }
        engine.default_cgroupns_mode = Some(mode);
    }
    for mut limit in options.objects("default-ulimits")? {
        let name = limit
            .remove("Name")
            .and_then(|name| name.as_str().map(str::to_owned))
            .context("a default ulimit without a Name")?;
        let mut number = |key: &str| {
            limit
                .remove(key)
                .and_then(|value| value.as_i64())
                .unwrap_or(0)
        };
        let (soft, hard) = (number("Soft"), number("Hard"));
        if hard != -1 && (soft > hard || soft == -1) {
            bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
        }
        engine.default_ulimits.push(Ulimit { name, soft, hard });
    }
    engine.default_init = options.switch("init")?.unwrap_or(false);
    engine.no_new_privileges = options.switch("no-new-privileges")?.unwrap_or(false);
    Ok(())
}

fn read_bridge(options: &mut Options) -> anyhow::Result<BridgeConfig> {
    let mut bridge = BridgeConfig::default();
    if let Some(name) = options.text("bridge")? {
        if name == "none" {
            bridge.enabled = false;
        } else {
            bridge.name = name;
        }
    }
    if let Some(table) = options.text("nft-table")? {
        bridge.table = table;
    }
    bridge.address = options.text("bip")?;
    bridge.fixed_cidr = options.text("fixed-cidr")?;
    if let Some(mtu) = options.number("mtu")?.filter(|mtu| *mtu != 0) {
        bridge.mtu = Some(
            u32::try_from(mtu)
                .ok()
                .filter(|mtu| (68..=65_535).contains(mtu))
                .with_context(|| format!("invalid mtu: {mtu}"))?,
        );
    }
    if let Some(address) = options.text("ip")? {
        bridge.default_bind_ip = Some(
            address
                .parse()
                .with_context(|| format!("invalid ip: {address}"))?,
        );
    }
    bridge.masquerade = options.switch("ip-masq")?.unwrap_or(true);
    bridge.inter_container = options.switch("icc")?.unwrap_or(true);
    bridge.ip_forward = options.switch("ip-forward")?.unwrap_or(true);
    bridge.coexist = options.switch("coexist")?.unwrap_or(true);
    if options.switch("iptables")? == Some(false) {
        bail!("iptables=false is not supported by Kekkai yet");
    }
    Ok(bridge)
}

fn read_names(options: &mut Options, engine: &mut EngineConfig) -> anyhow::Result<()> {
    engine.dns = options.list("dns")?;
    for server in &engine.dns {
        server
            .parse::<std::net::IpAddr>()
            .with_context(|| format!("{server} is not an ip address"))?;
    }
    engine.dns_options = options.list("dns-opts")?;
    engine.dns_search = options.list("dns-search")?;
    let mut gateways = options.list("host-gateway-ips")?;
    gateways.extend(options.text("host-gateway-ip")?);
    if gateways.len() > 1 {
        bail!("more than one host-gateway-ip is not supported by Kekkai yet");
    }
    engine.host_gateway = gateways.pop();
    Ok(())
}

fn read_registries(options: &mut Options, engine: &mut EngineConfig) -> anyhow::Result<()> {
    engine.registry_mirrors = options.list("registry-mirrors")?;
    engine.insecure_registries = options.list("insecure-registries")?;
    if let Some(count) = options.number("max-concurrent-downloads")? {
        engine.max_concurrent_downloads = usize::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .with_context(|| format!("invalid max concurrent downloads: {count}"))?;
    }
    Ok(())
}

/// Directives that say what is so anyway.
fn accept_at_default(options: &mut Options) -> anyhow::Result<()> {
    options.only("storage-driver", &[json!("overlay2"), json!("overlay")])?;
    options.only("default-runtime", &[json!("kekkai")])?;
    options.only("seccomp-profile", &[json!("builtin")])?;
    // No proxy is needed, whatever is said.
    options.only("userland-proxy", &[json!(true)])?;
    options.only("ip6tables", &[json!(true)])?;
    options.only("max-concurrent-uploads", &[json!(5)])?;
    options.only("max-download-attempts", &[json!(5)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> anyhow::Result<Settings> {
        Settings::read(value.as_object().unwrap().clone())
    }

    #[test]
    fn defaults_are_the_contracts() {
        let settings = read(&json!({})).unwrap();
        assert_eq!(
            settings.hosts,
            [Host::Unix("/run/kekkai/kekkai.sock".into())]
        );
        assert_eq!(settings.pidfile, Path::new("/run/kekkai/daemon.pid"));
        assert_eq!(settings.engine.data_root, Path::new("/var/lib/kekkai"));
        assert!(settings.tls.is_none());
    }

    #[test]
    fn hosts() {
        let root = Path::new("/x");
        for (word, host) in [
            ("unix:///a/b", Host::Unix("/a/b".into())),
            ("unix://", Host::Unix("/x/kekkai.sock".into())),
            ("fd://", Host::Inherited),
            (
                "tcp://127.0.0.1:4000",
                Host::Tcp("127.0.0.1:4000".parse().unwrap()),
            ),
            ("tcp://:4000", Host::Tcp("127.0.0.1:4000".parse().unwrap())),
            (
                "tcp://127.0.0.1",
                Host::Tcp("127.0.0.1:2375".parse().unwrap()),
            ),
            ("127.0.0.1:1", Host::Tcp("127.0.0.1:1".parse().unwrap())),
            ("tcp://[::1]:5", Host::Tcp("[::1]:5".parse().unwrap())),
        ] {
            assert_eq!(parse_host(word, root, false).unwrap(), host, "{word}");
        }
        assert!(
            parse_host("foo://x", root, false)
                .unwrap_err()
                .to_string()
                .contains("unsupported proto 'foo'")
        );
        assert!(parse_host("tcp://example.org:1", root, false).is_err());
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (directives, word) in [
            (json!({"userns-remap": "default"}), "userns-remap"),
            (json!({"ipv6": true}), "ipv6"),
            (json!({"live-restore": false}), "live-restore"),
            (json!({"storage-driver": "zfs"}), "storage-driver=zfs"),
            (
                json!({"features": {"containerd-snapshotter": true}}),
                "features",
            ),
            (json!({"log-driver": "journald"}), "log-driver=journald"),
            (
                json!({"exec-opts": ["native.cgroupdriver=systemd"]}),
                "native.cgroupdriver=systemd",
            ),
            (json!({"hosts": ["tcp://0.0.0.0:2375"]}), "--tlsverify"),
            (json!({"mtu": "x"}), "mtu"),
        ] {
            let error = format!("{:#}", read(&directives).unwrap_err());
            assert!(error.contains(word), "{directives}: {error}");
        }
        let fine = json!({
            "live-restore": true, "storage-driver": "overlay2", "userland-proxy": false, "ipv6": false,
            "features": {"buildkit": false}, "log-opts": {"max-size": "1m"}, "hosts": ["tcp://0.0.0.0:2375"], "tls": false,
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 3, "Soft": 2}}, "default-shm-size": "1G",
        });
        let settings = read(&fine).unwrap();
        assert_eq!(settings.engine.default_shm_size, 1 << 30);
        assert_eq!(settings.engine.default_ulimits.len(), 1);
        assert_eq!(settings.engine.default_log.driver, "local");
    }
}
