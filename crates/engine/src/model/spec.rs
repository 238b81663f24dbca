//! What a container is: the request to create one and the immutable specification that results.
//!
//! `ContainerSpec` is stored as versioned JSON; every field added later needs `#[serde(default)]`.

use std::collections::BTreeMap;

use kekkai_types::{Digest, Platform, PortKey};
use serde::{Deserialize, Serialize};

use super::HostOptions;

/// Everything a client may say when it creates a container.
#[derive(Debug, Clone, Default)]
pub struct CreateContainer {
    /// The wanted name, with or without a leading slash; a random one is chosen when absent.
    pub name: Option<String>,
    /// The wanted platform; the host's when absent.
    pub platform: Option<Platform>,
    /// Docker's `Config`: what runs.
    pub config: ContainerConfig,
    /// Docker's `HostConfig`: how the host runs it.
    pub host: HostOptions,
    /// Docker's `NetworkingConfig.EndpointsConfig`, by network name or id.
    pub endpoints: BTreeMap<String, EndpointOptions>,
}

/// Docker's `Config`. In a request, an absent value is taken from the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Host name inside; the short container id when absent.
    pub hostname: Option<String>,
    /// NIS domain name inside.
    pub domainname: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Whether the client said it attaches to stdin (only shown by inspect).
    pub attach_stdin: bool,
    /// Whether the client said it attaches to stdout.
    pub attach_stdout: bool,
    /// Whether the client said it attaches to stderr.
    pub attach_stderr: bool,
    /// Ports declared as listening.
    pub exposed_ports: Vec<PortKey>,
    /// Give the process a terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Close stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// `KEY=value`; a bare `KEY` removes the image's one.
    pub env: Vec<String>,
    /// Arguments; the image's when absent.
    pub cmd: Option<Vec<String>>,
    /// Program and leading arguments; `Some([])` and `Some([""])` clear the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The image as the client wrote it.
    pub image: String,
    /// Anonymous volumes: paths inside.
    pub volumes: Vec<String>,
    /// Working directory, absolute.
    pub working_dir: Option<String>,
    /// No network at all (old clients).
    pub network_disabled: bool,
    /// MAC address of the default endpoint (API before 1.44).
    pub mac_address: Option<String>,
    /// Labels; the image's are merged in beneath.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to stop, name or number.
    pub stop_signal: Option<String>,
    /// Seconds until SIGKILL after the stop signal; negative waits forever.
    pub stop_timeout: Option<i64>,
    /// `SHELL` of the image, shown only.
    pub shell: Option<Vec<String>>,
    /// Docker's `Healthcheck`.
    pub healthcheck: Option<HealthCheck>,
    /// Docker's `OnBuild`, shown only.
    pub on_build: Vec<String>,
    /// Windows' flag, shown only.
    pub args_escaped: bool,
}

/// Docker's `Healthcheck`. Durations are nanoseconds; zero means "inherit".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `[]` inherit, `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Time between probes.
    pub interval: i64,
    /// Time after which a probe has failed.
    pub timeout: i64,
    /// Time in which failures do not count.
    pub start_period: i64,
    /// Time between probes within the start period.
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    pub retries: i64,
}

/// Docker's `EndpointSettings` of one network, as a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointOptions {
    /// Fixed IPv4 address.
    pub ipv4_address: Option<String>,
    /// Fixed IPv6 address.
    pub ipv6_address: Option<String>,
    /// Link-local addresses.
    pub link_local_ips: Vec<String>,
    /// Further names on that network.
    pub aliases: Vec<String>,
    /// Legacy links.
    pub links: Vec<String>,
    /// Fixed MAC address.
    pub mac_address: Option<String>,
    /// Options of the network driver.
    pub driver_options: BTreeMap<String, String>,
    /// Priority as the default gateway.
    pub gateway_priority: i64,
}

/// What a created container is, for good: the request merged with its image. Never changed by running it;
/// `update` and `rename` write a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The image's id.
    pub image_id: Digest,
    /// `os/arch[/variant]` of the image.
    pub platform: Platform,
    /// The merged configuration: nothing is left to take from the image.
    pub config: ContainerConfig,
    /// How the host runs it; defaults are filled in as dockerd shows them.
    pub host: HostOptions,
    /// Wanted endpoints by network name (at most one in this version).
    #[serde(default)]
    pub endpoints: BTreeMap<String, EndpointOptions>,
    /// Resolved mounts: binds, volumes, tmpfs.
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
    /// Program that runs: first word of entrypoint + cmd.
    pub path: String,
    /// Its arguments, without the program.
    pub args: Vec<String>,
}

/// One resolved mount of a container, as inspect shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Bind, volume or tmpfs.
    pub kind: MountKind,
    /// Volume name (volumes only).
    #[serde(default)]
    pub name: Option<String>,
    /// Path on the host; empty for tmpfs.
    #[serde(default)]
    pub source: String,
    /// Path inside.
    pub destination: String,
    /// Volume driver (volumes only).
    #[serde(default)]
    pub driver: String,
    /// Mode words as given (`ro`, `z`, tmpfs options …).
    #[serde(default)]
    pub mode: String,
    /// Whether it may be written.
    pub read_write: bool,
    /// Mount propagation (`rprivate` …); empty for volumes.
    #[serde(default)]
    pub propagation: String,
    /// Bind: submounts too.
    #[serde(default = "yes")]
    pub recursive: bool,
    /// Volume: copy the image's content into an empty one.
    #[serde(default)]
    pub copy_up: bool,
    /// Volume made for this container alone: removed with `rm -v` and `--rm`.
    #[serde(default)]
    pub anonymous: bool,
    /// Tmpfs: size in bytes.
    #[serde(default)]
    pub tmpfs_size: Option<i64>,
    /// Tmpfs: mode bits.
    #[serde(default)]
    pub tmpfs_mode: Option<u32>,
    /// Volume: only this path of it.
    #[serde(default)]
    pub subpath: Option<String>,
}

fn yes() -> bool {
    true
}

/// The kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume of the engine.
    Volume,
    /// Memory.
    Tmpfs,
}

impl MountKind {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
        }
    }
}

/// What create answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The new container.
    pub id: kekkai_types::ContainerId,
    /// Things that were set but cannot be had on this host.
    pub warnings: Vec<String>,
}
