//! daemon.json: reading it, and joining it with the flags as dockerd does.
//!
//! What must stay true: a directive that nobody knows is an error, and so is one that is both a flag and in the file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// Where the file is when no flag says so.
const DEFAULT_FILE: &str = "/etc/kekkai/daemon.json";

/// Largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Every directive: what `Settings` reads.
const KNOWN: &[&str] = &[
    "allow-direct-routing",
    "allow-nondistributable-artifacts",
    "authorization-plugins",
    "bip",
    "bip6",
    "bridge",
    "builder",
    "cdi-spec-dirs",
    "cgroup-parent",
    "coexist",
    "containerd",
    "containerd-namespace",
    "containerd-plugin-namespace",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "data-root",
    "debug",
    "default-address-pools",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-ipc-mode",
    "default-network-opts",
    "default-runtime",
    "default-shm-size",
    "default-ulimits",
    "dns",
    "dns-opts",
    "dns-search",
    "exec-opts",
    "exec-root",
    "experimental",
    "features",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "host-gateway-ip",
    "host-gateway-ips",
    "hosts",
    "http-proxy",
    "https-proxy",
    "icc",
    "init",
    "init-path",
    "insecure-registries",
    "ip",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "keeper",
    "labels",
    "live-restore",
    "log-driver",
    "log-file",
    "log-format",
    "log-level",
    "log-opts",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "metrics-addr",
    "mtu",
    "nft-table",
    "no-new-privileges",
    "no-proxy",
    "node-generic-resources",
    "oom-score-adjust",
    "pidfile",
    "proxies",
    "raw-logs",
    "registry-mirrors",
    "runtimes",
    "seccomp-profile",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-driver",
    "storage-opts",
    "swarm-default-advertise-addr",
    "tls",
    "tlscacert",
    "tlscert",
    "tlskey",
    "tlsverify",
    "userland-proxy",
    "userland-proxy-path",
    "userns-remap",
];

/// The configuration file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    path: PathBuf,
    /// Named by the user: it must exist.
    named: bool,
}

impl Source {
    /// The file that a flag names, or the default one.
    pub(super) fn new(named: Option<&Path>) -> Self {
        Self {
            path: named.unwrap_or(Path::new(DEFAULT_FILE)).to_owned(),
            named: named.is_some(),
        }
    }

    /// The directives of the file; none when the default one is not there.
    fn read(&self) -> anyhow::Result<Map<String, Value>> {
        let text = match std::fs::metadata(&self.path).map(|data| data.len()) {
            Ok(length) if length > LARGEST => bail!("the file is larger than {LARGEST} bytes"),
            Ok(_) => std::fs::read_to_string(&self.path)?,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.named => {
                return Ok(Map::new());
            }
            Err(error) => return Err(error).context(format!("open {}", self.path.display())),
        };
        if text.trim().is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_str(&text).context("invalid JSON")
    }
}

/// Flags and file as one.
///
/// # Errors
/// As dockerd's: the file cannot be read, has unknown directives, or says what a flag says too.
pub(super) fn merge(
    flags: &Map<String, Value>,
    file: &Source,
) -> anyhow::Result<Map<String, Value>> {
    merge_maps(flags, file.read()).with_context(|| {
        format!(
            "unable to configure the daemon with file {}",
            file.path.display()
        )
    })
}

fn merge_maps(
    flags: &Map<String, Value>,
    file: anyhow::Result<Map<String, Value>>,
) -> anyhow::Result<Map<String, Value>> {
    let mut file = file?;
    let mut unknown: Vec<&str> = file
        .keys()
        .map(String::as_str)
        .filter(|key| !KNOWN.contains(key))
        .collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        bail!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        );
    }
    let mut twice: Vec<String> = flags
        .iter()
        .filter_map(|(key, flag)| {
            file.get(key).map(|value| {
                format!(
                    "{key}: (from flag: {}, from file: {})",
                    shown(flag),
                    shown(value)
                )
            })
        })
        .collect();
    if !twice.is_empty() {
        twice.sort_unstable();
        bail!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            twice.join(", ")
        );
    }
    file.extend(
        flags
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    Ok(file)
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", shown(value)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn dockerds_words() {
        let error =
            merge_maps(&Map::new(), Ok(map(&json!({"foo": 1, "debug": true})))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the following directives don't match any configuration option: foo"
        );
        let flags = map(&json!({"debug": true, "hosts": ["unix:///y"]}));
        let error = merge_maps(
            &flags,
            Ok(map(&json!({"debug": true, "hosts": ["unix:///x"]}))),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: true), hosts: (from flag: [unix:///y], from file: [unix:///x])"
        );
        let both = merge_maps(&flags, Ok(map(&json!({"mtu": 9000})))).unwrap();
        assert_eq!(both.len(), 3);
    }

    #[test]
    fn known_directives_are_sorted() {
        assert!(KNOWN.is_sorted());
    }
}
