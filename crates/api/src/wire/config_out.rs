//! Writes Docker's `Config` of a container.

use std::collections::BTreeMap;

use kekkai_engine::model::{ContainerConfig, HealthCheck};
use kekkai_types::PortKey;
use serde::{Serialize, Serializer};

use crate::wire::{null_if_empty, serialize_set};

/// `Config`, fields in dockerd's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ConfigOut<'a> {
    hostname: &'a str,
    domainname: &'a str,
    user: &'a str,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(
        skip_serializing_if = "<[PortKey]>::is_empty",
        serialize_with = "ports"
    )]
    exposed_ports: &'a [PortKey],
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: &'a [String],
    cmd: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<HealthOut<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_escaped: bool,
    image: &'a str,
    #[serde(serialize_with = "volumes")]
    volumes: &'a [String],
    working_dir: &'a str,
    entrypoint: Option<&'a [String]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    network_disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_address: Option<&'a str>,
    #[serde(serialize_with = "null_if_empty")]
    on_build: &'a [String],
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<&'a [String]>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthOut<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    test: &'a [String],
    #[serde(skip_serializing_if = "is_zero")]
    interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn ports<S: Serializer>(ports: &&[PortKey], serializer: S) -> Result<S::Ok, S::Error> {
    serialize_set(ports, serializer)
}

fn volumes<S: Serializer>(paths: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    if paths.is_empty() {
        serializer.serialize_none()
    } else {
        serialize_set(paths, serializer)
    }
}

impl<'a> ConfigOut<'a> {
    /// The configuration of a container.
    pub(crate) fn new(config: &'a ContainerConfig) -> Self {
        let text = |value: &'a Option<String>| value.as_deref().unwrap_or("");
        Self {
            hostname: text(&config.hostname),
            domainname: text(&config.domainname),
            user: text(&config.user),
            attach_stdin: config.attach_stdin,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            exposed_ports: &config.exposed_ports,
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            env: &config.env,
            cmd: config.cmd.as_deref(),
            healthcheck: config.healthcheck.as_ref().map(HealthOut::new),
            args_escaped: config.args_escaped,
            image: &config.image,
            volumes: &config.volumes,
            working_dir: text(&config.working_dir),
            entrypoint: config.entrypoint.as_deref(),
            network_disabled: config.network_disabled,
            mac_address: config.mac_address.as_deref(),
            on_build: &config.on_build,
            labels: &config.labels,
            stop_signal: config.stop_signal.as_deref(),
            stop_timeout: config.stop_timeout,
            shell: config.shell.as_deref(),
        }
    }
}

impl<'a> HealthOut<'a> {
    fn new(health: &'a HealthCheck) -> Self {
        Self {
            test: &health.test,
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        }
    }
}
