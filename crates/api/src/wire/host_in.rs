//! Reads Docker's `HostConfig`.

use std::collections::BTreeMap;

use kekkai_engine::model::{HostOptions, LogSettings, PortBinding, RestartPolicy};
use kekkai_types::PortKey;

use crate::http::{ApiError, ApiVersion, Fields};
use crate::wire::mount_in::read_mount;
use crate::wire::read_resources;

/// The host's side of a create request. What older clients mean by leaving a field out is filled in here.
pub(crate) fn read_host(
    mut fields: Fields,
    version: ApiVersion,
    warnings: &mut Vec<String>,
) -> Result<HostOptions, ApiError> {
    let resources = read_resources(&mut fields)?;
    let mounts = fields
        .objects("Mounts")?
        .into_iter()
        .map(|mount| read_mount(mount, warnings))
        .collect::<Result<_, _>>()?;
    let mut host = HostOptions {
        binds: fields.strings("Binds")?,
        mounts,
        tmpfs: fields.string_map("Tmpfs")?,
        volumes_from: fields.strings("VolumesFrom")?,
        volume_driver: fields.string("VolumeDriver")?,
        container_id_file: fields.string("ContainerIDFile")?,
        log: read_log(&mut fields)?,
        network_mode: fields.string("NetworkMode")?,
        port_bindings: read_port_bindings(&mut fields)?,
        publish_all_ports: fields.bool("PublishAllPorts")?,
        restart_policy: read_restart_policy(&mut fields)?.unwrap_or_default(),
        auto_remove: fields.bool("AutoRemove")?,
        console_size: fields.console_size("ConsoleSize")?,
        annotations: fields.string_map("Annotations")?,
        cap_add: fields.command("CapAdd")?.unwrap_or_default(),
        cap_drop: fields.command("CapDrop")?.unwrap_or_default(),
        cgroupns_mode: fields.string("CgroupnsMode")?,
        dns: fields.strings("Dns")?,
        dns_options: fields.strings("DnsOptions")?,
        dns_search: fields.strings("DnsSearch")?,
        extra_hosts: fields.strings("ExtraHosts")?,
        group_add: fields.strings("GroupAdd")?,
        ipc_mode: fields.string("IpcMode")?,
        pid_mode: fields.string("PidMode")?,
        uts_mode: fields.string("UTSMode")?,
        userns_mode: fields.string("UsernsMode")?,
        cgroup: fields.string("Cgroup")?,
        links: fields.strings("Links")?,
        oom_score_adj: fields.number("OomScoreAdj")?,
        privileged: fields.bool("Privileged")?,
        readonly_rootfs: fields.bool("ReadonlyRootfs")?,
        security_opt: fields.strings("SecurityOpt")?,
        storage_opt: fields.string_map("StorageOpt")?,
        shm_size: fields.integer("ShmSize")?,
        sysctls: fields.string_map("Sysctls")?,
        runtime: fields.string("Runtime")?,
        isolation: fields.string("Isolation")?,
        masked_paths: fields.optional_strings("MaskedPaths")?,
        readonly_paths: fields.optional_strings("ReadonlyPaths")?,
        init: fields.optional_bool("Init")?,
        resources,
    };
    fields.finish(warnings);
    fill_in_for_old_clients(&mut host, version);
    Ok(host)
}

fn fill_in_for_old_clients(host: &mut HostOptions, version: ApiVersion) {
    if version.before(25) {
        // These clients remove the container themselves.
        host.auto_remove = false;
    }
    if version.before(40) && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".to_owned();
    }
    if version.before(41) && host.cgroupns_mode.is_empty() {
        host.cgroupns_mode = "host".to_owned();
    }
    if version.before(42) {
        host.console_size = None;
    }
    if version.before(43) {
        host.annotations.clear();
    }
}

fn read_log(fields: &mut Fields) -> Result<LogSettings, ApiError> {
    let Some(mut log) = fields.object("LogConfig")? else {
        return Ok(LogSettings::default());
    };
    Ok(LogSettings {
        driver: log.string("Type")?,
        options: log.string_map("Config")?,
    })
}

fn read_port_bindings(
    fields: &mut Fields,
) -> Result<BTreeMap<PortKey, Vec<PortBinding>>, ApiError> {
    let mut ports = BTreeMap::new();
    let name = fields.name("PortBindings");
    for (key, value) in fields.entries("PortBindings")? {
        let port: PortKey = key
            .parse()
            .map_err(|error: kekkai_types::ParsePortError| ApiError::invalid(error.to_string()))?;
        let bindings = Fields::from_value(
            &name,
            serde_json::Value::Object([(key.clone(), value)].into_iter().collect()),
        )?
        .unwrap_or_default()
        .objects(&key)?
        .into_iter()
        .map(|mut binding| {
            Ok(PortBinding {
                host_ip: binding.string("HostIp")?,
                host_port: binding.string("HostPort")?,
            })
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
        ports.insert(port, bindings);
    }
    Ok(ports)
}

/// The restart policy; `None` when it is not named.
pub(crate) fn read_restart_policy(fields: &mut Fields) -> Result<Option<RestartPolicy>, ApiError> {
    let Some(mut policy) = fields.object("RestartPolicy")? else {
        return Ok(None);
    };
    let policy = RestartPolicy {
        name: policy.string("Name")?,
        maximum_retry_count: policy.number("MaximumRetryCount")?,
    };
    Ok(Some(policy).filter(|policy| *policy != RestartPolicy::default()))
}
