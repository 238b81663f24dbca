//! Checks of a request's `Config` and `HostConfig`, in dockerd's words. An option that we do not have is refused by name.

use kekkai_types::Signal;

use super::resources;
use crate::EngineError;
use crate::host::HostFacts;
use crate::model::{ContainerConfig, CreateContainer, HealthCheck, HostOptions, PortBinding};

fn invalid<T>(text: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Invalid(text.into()))
}

fn unsupported<T>(what: &str) -> Result<T, EngineError> {
    Err(EngineError::Unsupported(what.to_owned()))
}

/// Which namespace of its kind a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sharing<'a> {
    /// One of its own.
    Own,
    /// The host's.
    Host,
    /// That of another container (name or id).
    Container(&'a str),
}

/// What a mode such as `PidMode` says; `None` for words that no mode has.
pub(crate) fn sharing(mode: &str) -> Option<Sharing<'_>> {
    match mode {
        "" | "private" => Some(Sharing::Own),
        "host" => Some(Sharing::Host),
        other => match other.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Some(Sharing::Container(name)),
            _ => None,
        },
    }
}

/// Security options, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security<'a> {
    pub(crate) no_new_privileges: Option<bool>,
    /// `unconfined`, `builtin` or a profile's JSON.
    pub(crate) seccomp: Option<&'a str>,
    pub(crate) apparmor: Option<&'a str>,
    pub(crate) labels: Vec<&'a str>,
    pub(crate) writable_cgroups: bool,
}

/// Parses `--security-opt`s as dockerd does.
pub(crate) fn security(options: &[String]) -> Result<Security<'_>, EngineError> {
    let mut parsed = Security::default();
    for option in options {
        let bad =
            |number| EngineError::System(format!("invalid --security-opt {number}: {option:?}"));
        if option == "no-new-privileges" {
            parsed.no_new_privileges = Some(true);
            continue;
        }
        if option == "disable" {
            parsed.labels.push("disable");
            continue;
        }
        let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
            return Err(bad(1));
        };
        let boolean = match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        };
        match key {
            "label" => parsed.labels.push(value),
            "apparmor" => parsed.apparmor = Some(value),
            "seccomp" => parsed.seccomp = Some(value),
            "no-new-privileges" => parsed.no_new_privileges = Some(boolean.ok_or_else(|| bad(2))?),
            "writable-cgroups" => parsed.writable_cgroups = boolean.ok_or_else(|| bad(2))?,
            _ => return Err(bad(2)),
        }
    }
    Ok(parsed)
}

/// Checks a whole request and fills in what does not depend on the image. Answers warnings.
pub(crate) fn check(
    request: &mut CreateContainer,
    facts: &HostFacts,
) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    config(&request.config)?;
    modes(&request.config, &request.host)?;
    restart(&request.host)?;
    host(&mut request.host, facts, &mut warnings)?;
    ports(&request.host, &mut warnings)?;
    resources::check(&mut request.host.resources, facts, &mut warnings)?;
    endpoints(request)?;
    Ok(warnings)
}

fn config(config: &ContainerConfig) -> Result<(), EngineError> {
    if let Some(directory) = config
        .working_dir
        .as_deref()
        .filter(|directory| !directory.is_empty())
        && !directory.starts_with('/')
    {
        return invalid(format!(
            "the working directory '{directory}' is invalid, it needs to be an absolute path"
        ));
    }
    if let Some(signal) = config
        .stop_signal
        .as_deref()
        .filter(|signal| !signal.is_empty())
    {
        signal
            .parse::<Signal>()
            .map_err(|_| EngineError::Invalid(format!("invalid signal: {signal}")))?;
    }
    for entry in &config.env {
        if entry.is_empty() || entry.starts_with('=') {
            return invalid(format!("invalid environment variable: {entry}"));
        }
        if entry.contains('\0') {
            return invalid("invalid environment variable: it contains a zero byte");
        }
    }
    let words = config
        .entrypoint
        .iter()
        .flatten()
        .chain(config.cmd.iter().flatten());
    if words.into_iter().any(|word| word.contains('\0')) {
        return invalid("invalid command: it contains a zero byte");
    }
    for (what, name) in [
        ("hostname", &config.hostname),
        ("domainname", &config.domainname),
    ] {
        let name = name.as_deref().unwrap_or_default();
        if name.len() > 64 || name.contains(['\0', '\n', '/']) {
            return invalid(format!("invalid {what}: {name:?}"));
        }
    }
    for volume in &config.volumes {
        if !volume.starts_with('/') || volume.contains(':') {
            return invalid(format!(
                "invalid volume specification: '{volume}': invalid mount config for type \"volume\": invalid mount path: '{volume}' mount path must be absolute"
            ));
        }
    }
    match &config.healthcheck {
        Some(check) => health(check),
        None => Ok(()),
    }
}

fn health(check: &HealthCheck) -> Result<(), EngineError> {
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 && value < 1_000_000 {
            return invalid(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if check.retries < 0 {
        return invalid("Retries in Healthcheck cannot be negative");
    }
    match check.test.first().map(String::as_str) {
        None | Some("NONE")
            if check
                == &(HealthCheck {
                    test: check.test.clone(),
                    ..Default::default()
                }) =>
        {
            Ok(())
        }
        _ => unsupported("Healthcheck (--health-cmd and its companions)"),
    }
}

fn modes(config: &ContainerConfig, host: &HostOptions) -> Result<(), EngineError> {
    if host.network_mode == "container:" {
        return invalid("invalid network mode: invalid container format container:<name|id>");
    }
    let has_hostname = config
        .hostname
        .as_deref()
        .is_some_and(|name| !name.is_empty());
    if host.uts_mode == "host" && has_hostname {
        return invalid("conflicting options: hostname and the UTS mode");
    }
    if host.network_mode.starts_with("container:") {
        if has_hostname {
            return invalid("conflicting options: hostname and the network mode");
        }
        if !host.links.is_empty() {
            return invalid(
                "conflicting options: container type network can't be used with links. This would result in undefined behavior",
            );
        }
        if !host.dns.is_empty() {
            return invalid("conflicting options: dns and the network mode");
        }
        if !host.extra_hosts.is_empty() {
            return invalid("conflicting options: custom host-to-IP mapping and the network mode");
        }
        if host.publish_all_ports || !host.port_bindings.is_empty() {
            return invalid(
                "conflicting options: port publishing and the container type network mode",
            );
        }
        if !config.exposed_ports.is_empty() {
            return invalid(
                "conflicting options: port exposing and the container type network mode",
            );
        }
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return invalid(format!("invalid UTS mode: {}", host.uts_mode));
    }
    if host.pid_mode == "private" || sharing(&host.pid_mode).is_none() {
        return invalid(format!("invalid PID mode: {}", host.pid_mode));
    }
    if !matches!(host.ipc_mode.as_str(), "none" | "shareable") && sharing(&host.ipc_mode).is_none()
    {
        return invalid(format!("invalid IPC mode: {}", host.ipc_mode));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "private" | "host") {
        return invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        ));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return invalid(format!("invalid user namespace mode: {}", host.userns_mode));
    }
    Ok(())
}

pub(crate) fn restart(host: &HostOptions) -> Result<(), EngineError> {
    let policy = &host.restart_policy;
    let retries = policy.maximum_retry_count;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if retries != 0 => invalid(if retries < 0 {
            "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative"
        } else {
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        }),
        "on-failure" if retries < 0 => {
            invalid("invalid restart policy: maximum retry count cannot be negative")
        }
        "" | "no" => Ok(()),
        "always" | "unless-stopped" | "on-failure" if host.auto_remove => {
            invalid("can't create 'AutoRemove' container with restart policy")
        }
        "always" | "unless-stopped" | "on-failure" => Ok(()),
        other => invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )),
    }
}

fn host(
    host: &mut HostOptions,
    facts: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<(), EngineError> {
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ));
    }
    if host.shm_size < 0 {
        return invalid("SHM size can not be less than 0");
    }
    if !matches!(
        host.runtime.as_str(),
        "" | "kekkai" | "runc" | "io.containerd.runc.v2"
    ) {
        return invalid(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        ));
    }
    if !host.links.is_empty() {
        return unsupported("Links (--link)");
    }
    if !host.cgroup.is_empty() {
        return unsupported("Cgroup");
    }
    if !host.storage_opt.is_empty() {
        return unsupported("StorageOpt (--storage-opt)");
    }
    if host.annotations.keys().any(String::is_empty) {
        return invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        );
    }
    for (field, list) in [
        ("CapAdd", &mut host.cap_add),
        ("CapDrop", &mut host.cap_drop),
    ] {
        for capability in list.iter_mut() {
            *capability =
                crate::spec_builder::capabilities::normalize(capability).map_err(|unknown| {
                    EngineError::Invalid(format!(
                        "invalid {field}: unknown capability: \"{unknown}\""
                    ))
                })?;
        }
    }
    extra_hosts(&host.extra_hosts)?;
    for server in &host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return invalid(format!("invalid DNS server address: {server:?}"));
        }
    }
    for text in host.dns_search.iter().chain(&host.dns_options) {
        if text.contains(char::is_whitespace) {
            return invalid(format!("invalid DNS search domain or option: {text:?}"));
        }
    }
    for limit in &host.resources.ulimits {
        if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
            return invalid(format!(
                "invalid ulimit {}: the soft limit must be less than or equal to the hard limit",
                limit.name
            ));
        }
        if !crate::spec_builder::is_rlimit(&limit.name) {
            return invalid(format!(
                "wrong rlimit value: RLIMIT_{}",
                limit.name.to_ascii_uppercase()
            ));
        }
    }
    let security = security(&host.security_opt)?;
    if security.labels.iter().any(|label| *label != "disable") {
        warnings.push(
            "SELinux is not enabled on this host: security option label is without effect"
                .to_owned(),
        );
    }
    if security
        .apparmor
        .is_some_and(|profile| !profile.is_empty() && profile != "unconfined")
        && !facts.apparmor
    {
        warnings.push(
            "AppArmor is not enabled on this host: security option apparmor is without effect"
                .to_owned(),
        );
    }
    Ok(())
}

fn extra_hosts(hosts: &[String]) -> Result<(), EngineError> {
    for entry in hosts {
        let Some((name, address)) = entry.split_once(':').filter(|(name, _)| !name.is_empty())
        else {
            return invalid(format!("bad format for add-host: {entry:?}"));
        };
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if name.contains(char::is_whitespace) {
            return invalid(format!("bad format for add-host: {entry:?}"));
        }
        if address != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
            return invalid(format!("invalid IP address in add-host: {address:?}"));
        }
    }
    Ok(())
}

/// The host ports of a binding: `None` leaves the choice to the engine.
pub(crate) fn host_ports(binding: &PortBinding) -> Result<Option<(u16, u16)>, EngineError> {
    let text = binding.host_port.as_str();
    let bad = || EngineError::Invalid(format!("invalid port specification: {text:?}"));
    if text.is_empty() {
        return Ok(None);
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high): (u16, u16) = (
        low.parse().map_err(|_| bad())?,
        high.parse().map_err(|_| bad())?,
    );
    if low > high {
        return Err(bad());
    }
    Ok((low != 0 || high != 0).then_some((low, high)))
}

fn ports(host: &HostOptions, warnings: &mut Vec<String>) -> Result<(), EngineError> {
    for binding in host.port_bindings.values().flatten() {
        host_ports(binding)?;
        if !binding.host_ip.is_empty() && binding.host_ip.parse::<std::net::IpAddr>().is_err() {
            return invalid(format!(
                "invalid IP address in port binding: {:?}",
                binding.host_ip
            ));
        }
    }
    if host.network_mode == "host" && (host.publish_all_ports || !host.port_bindings.is_empty()) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(())
}

fn endpoints(request: &CreateContainer) -> Result<(), EngineError> {
    let mode = match request.host.network_mode.as_str() {
        "" | "default" => "bridge",
        mode => mode,
    };
    let mac = request
        .config
        .mac_address
        .as_deref()
        .filter(|mac| !mac.is_empty());
    if let Some(mac) = mac.filter(|mac| !is_mac(mac)) {
        return invalid(format!(
            "invalid config for network {mode}: invalid MAC address {mac}"
        ));
    }
    for (network, options) in &request.endpoints {
        let mut problems = Vec::new();
        if options
            .ipv4_address
            .as_deref()
            .is_some_and(|ip| !ip.is_empty())
            || options
                .ipv6_address
                .as_deref()
                .is_some_and(|ip| !ip.is_empty())
        {
            problems.push("user specified IP address is supported on user defined networks only");
            problems.push("user specified IP address is supported only when connecting to networks with user configured subnets");
        }
        if !options.aliases.is_empty() {
            problems.push(
                "network-scoped alias is supported only for containers in user defined networks",
            );
        }
        match problems.as_slice() {
            [] => {}
            [one] => {
                return invalid(format!(
                    "invalid config for network {network}: invalid endpoint settings:\n{one}"
                ));
            }
            many => {
                return invalid(format!(
                    "invalid config for network {network}: invalid endpoint settings:\n* {}",
                    many.join("\n* ")
                ));
            }
        }
        if let Some(mac) = options
            .mac_address
            .as_deref()
            .filter(|mac| !mac.is_empty() && !is_mac(mac))
        {
            return invalid(format!(
                "invalid config for network {network}: invalid MAC address {mac}"
            ));
        }
        if !options.links.is_empty() {
            return unsupported("Links of an endpoint");
        }
        if !options.link_local_ips.is_empty() {
            return unsupported("LinkLocalIPs of an endpoint (--link-local-ip)");
        }
        if !options.driver_options.is_empty() {
            return unsupported("DriverOpts of an endpoint");
        }
    }
    if request
        .endpoints
        .keys()
        .any(|network| network != mode && !(network == "default" && mode == "bridge"))
    {
        return unsupported("connecting a container to several networks at its creation");
    }
    Ok(())
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RestartPolicy;

    fn refused(change: impl FnOnce(&mut CreateContainer)) -> String {
        let mut request = CreateContainer::default();
        change(&mut request);
        let facts = HostFacts {
            ncpu: 2,
            cpus: "0-1".into(),
            mems: "0".into(),
            cgroup_version: 1,
            ..Default::default()
        };
        check(&mut request, &facts).unwrap_err().to_string()
    }

    /// Each text is what dockerd 28.5 answered to the same request.
    #[test]
    fn words_of_dockerd() {
        let policy = |name: &str, count| RestartPolicy {
            name: name.into(),
            maximum_retry_count: count,
        };
        assert_eq!(
            refused(|r| r.host.restart_policy = policy("foo", 0)),
            "invalid restart policy: unknown policy 'foo'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        );
        assert_eq!(
            refused(|r| {
                r.host.restart_policy = policy("always", 0);
                r.host.auto_remove = true;
            }),
            "can't create 'AutoRemove' container with restart policy"
        );
        assert_eq!(
            refused(|r| r.host.cap_add = vec!["FOO".into()]),
            "invalid CapAdd: unknown capability: \"CAP_FOO\""
        );
        assert_eq!(
            refused(|r| r.host.security_opt = vec!["foo".into()]),
            "invalid --security-opt 1: \"foo\""
        );
        assert_eq!(
            refused(|r| r.host.security_opt = vec!["foo=bar".into()]),
            "invalid --security-opt 2: \"foo=bar\""
        );
        assert_eq!(
            refused(|r| r.host.pid_mode = "container:".into()),
            "invalid PID mode: container:"
        );
        assert_eq!(
            refused(|r| r.host.extra_hosts = vec!["a:b:c".into()]),
            "invalid IP address in add-host: \"b:c\""
        );
        assert_eq!(
            refused(|r| r.config.env = vec!["=x".into()]),
            "invalid environment variable: =x"
        );
        assert_eq!(
            refused(|r| {
                r.host.port_bindings.insert(
                    "80".parse().unwrap(),
                    vec![PortBinding {
                        host_port: "9000-8000".into(),
                        ..Default::default()
                    }],
                );
            }),
            "invalid port specification: \"9000-8000\""
        );
    }

    #[test]
    fn refused_by_name() {
        assert!(refused(|r| r.host.links = vec!["a:b".into()]).contains("--link"));
        assert!(refused(|r| r.host.cgroup = "x".into()).contains("Cgroup"));
        assert!(
            refused(|r| r.config.healthcheck = Some(HealthCheck {
                test: vec!["CMD".into()],
                ..Default::default()
            }))
            .contains("Healthcheck")
        );
    }
}
