//! The small files of a container on the exec root's tmpfs: hosts, hostname, resolv.conf. They are new files at the first
//! start; a later start writes them again in place, since running containers may have them mounted.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kekkai_network::{
    DnsOptions, EndpointRecord, HostResolver, HostsFile, ResolverReach, hosts_file,
    hosts_file_of_host, resolv_conf,
};
use kekkai_types::Timestamp;

use crate::EngineError;
use crate::container::Container;
use crate::create::saga::is_builtin;
use crate::inner::Inner;
use crate::model::ContainerSpec;

fn put(path: &Path, text: &str) -> Result<(), EngineError> {
    let trouble = || format!("writing {}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(EngineError::io(trouble()))?;
    file.write_all(text.as_bytes())
        .map_err(EngineError::io(trouble()))
}

/// Writes what does not depend on the address: ahead of a start that follows soon, or with it.
pub(crate) fn prepare(
    inner: &Inner,
    container: &Container,
    spec: &ContainerSpec,
) -> Result<(), EngineError> {
    let directory = inner.run_directory(container.id);
    match std::fs::create_dir(&directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => {
            return Err(EngineError::Io {
                action: format!("making {}", directory.display()),
                source,
            });
        }
    }
    if spec.host.network_mode.starts_with("container:") {
        return Ok(());
    }
    let config = &inner.config;
    let hostname = spec.config.hostname.as_deref().unwrap_or_default();
    let or = |own: &[String], default: &[String]| {
        if own.is_empty() {
            default.to_vec()
        } else {
            own.to_vec()
        }
    };
    let wanted = DnsOptions {
        nameservers: or(&spec.host.dns, &config.dns)
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        search: or(&spec.host.dns_search, &config.dns_search),
        options: or(&spec.host.dns_options, &config.dns_options),
    };
    let host_network = spec.host.network_mode == "host";
    let reach = if host_network {
        ResolverReach::Host
    } else {
        ResolverReach::Own
    };
    put(&directory.join("hostname"), &format!("{hostname}\n"))?;
    put(
        &directory.join("resolv.conf"),
        &resolv_conf(&HostResolver::read(), reach, &wanted),
    )
}

/// Writes the files of a container that is about to start; `prepare` has been called.
pub(crate) fn write(
    inner: &Inner,
    container: &Container,
    spec: &ContainerSpec,
    endpoint: Option<&EndpointRecord>,
    requested: Timestamp,
) -> Result<(), EngineError> {
    let directory = inner.run_directory(container.id);
    if is_builtin(spec) {
        put(
            &directory.join("hello.json"),
            &hello(inner, container, spec, endpoint, requested),
        )?;
    }
    if spec.host.network_mode.starts_with("container:") {
        return Ok(());
    }
    let config = &inner.config;
    let gateway: Option<IpAddr> = match &config.host_gateway {
        Some(text) => text.parse().ok(),
        None => inner
            .network
            .as_ref()
            .map(|network| IpAddr::V4(network.gateway())),
    };
    let hostname = spec.config.hostname.as_deref().unwrap_or_default();
    let domainname = spec.config.domainname.as_deref().unwrap_or_default();
    let host_network = spec.host.network_mode == "host";
    let bad_host = |error: kekkai_network::ExtraHostError| EngineError::Invalid(error.to_string());
    let hosts = if host_network {
        let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        hosts_file_of_host(&own, &spec.host.extra_hosts, gateway).map_err(bad_host)?
    } else {
        hosts_file(&HostsFile {
            hostname,
            domainname,
            address: endpoint.map(|record| record.address),
            extra: &spec.host.extra_hosts,
            host_gateway: gateway,
        })
        .map_err(bad_host)?
    };
    put(&directory.join("hosts"), &hosts)
}

/// What the built-in image's program tells.
fn hello(
    inner: &Inner,
    container: &Container,
    spec: &ContainerSpec,
    endpoint: Option<&EndpointRecord>,
    requested: Timestamp,
) -> String {
    serde_json::json!({
        "image": spec.config.image,
        "image_id": spec.image_id.to_string(),
        "container": container.id.to_string(),
        "name": container.name().as_ref(),
        "cgroup": inner.cgroup_path(container.id, spec),
        "network": spec.host.network_mode,
        "address": endpoint.map(|record| record.address.to_string()).unwrap_or_default(),
        "create_requested_ns": container.created.unix_nanos(),
        "start_requested_ns": requested.unix_nanos(),
    })
    .to_string()
}

/// Mounts the tmpfs that a shareable container shows as /dev/shm, so that others can show it too.
pub(crate) fn mount_shm(directory: &str, size: i64) -> Result<(), EngineError> {
    use rustix::mount::{MountFlags, mount};
    std::fs::create_dir_all(directory).map_err(EngineError::io(format!("making {directory}")))?;
    let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    let data = std::ffi::CString::new(format!("mode=1777,size={size}"))
        .map_err(|error| EngineError::Internal(error.to_string()))?;
    mount("shm", directory, "tmpfs", flags, Some(data.as_c_str())).map_err(|error| {
        EngineError::Io {
            action: format!("mounting {directory}"),
            source: error.into(),
        }
    })
}

/// Takes it away; the containers that show it keep it until they end.
pub(crate) fn unmount_shm(directory: &str) {
    if let Err(error) = rustix::mount::unmount(directory, rustix::mount::UnmountFlags::DETACH)
        && error != rustix::io::Errno::INVAL
        && error != rustix::io::Errno::NOENT
    {
        tracing::warn!(%error, directory, "unmounting a shared memory directory");
    }
}
