//! Writes Docker's `HostConfig` of a container. Where Docker's own CLI leaves a list empty or null, so do we.

use std::collections::BTreeMap;

use kekkai_engine::model::{
    DeviceMapping, DeviceRate, HostOptions, LogSettings, MountRequest, PortBinding, Resources,
    RestartPolicy, Ulimit,
};
use serde::Serialize;
use serde::ser::SerializeMap;

use crate::wire::null_if_empty;

type Map = BTreeMap<String, String>;

/// `HostConfig`, fields in dockerd's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostOut<'a> {
    #[serde(serialize_with = "null_if_empty")]
    binds: &'a [String],
    #[serde(rename = "ContainerIDFile")]
    container_id_file: &'a str,
    log_config: LogOut<'a>,
    network_mode: &'a str,
    port_bindings: PortBindingsOut<'a>,
    restart_policy: RestartOut<'a>,
    auto_remove: bool,
    volume_driver: &'a str,
    #[serde(serialize_with = "null_if_empty")]
    volumes_from: &'a [String],
    console_size: [u16; 2],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a Map,
    #[serde(serialize_with = "null_if_empty")]
    cap_add: &'a [String],
    #[serde(serialize_with = "null_if_empty")]
    cap_drop: &'a [String],
    cgroupns_mode: &'a str,
    dns: &'a [String],
    dns_options: &'a [String],
    dns_search: &'a [String],
    #[serde(serialize_with = "null_if_empty")]
    extra_hosts: &'a [String],
    #[serde(serialize_with = "null_if_empty")]
    group_add: &'a [String],
    ipc_mode: &'a str,
    cgroup: &'a str,
    #[serde(serialize_with = "null_if_empty")]
    links: &'a [String],
    oom_score_adj: i32,
    pid_mode: &'a str,
    privileged: bool,
    publish_all_ports: bool,
    readonly_rootfs: bool,
    #[serde(serialize_with = "null_if_empty")]
    security_opt: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    storage_opt: &'a Map,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tmpfs: &'a Map,
    #[serde(rename = "UTSMode")]
    uts_mode: &'a str,
    userns_mode: &'a str,
    shm_size: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sysctls: &'a Map,
    runtime: &'a str,
    isolation: &'a str,
    #[serde(flatten)]
    resources: ResourcesOut<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<MountOut<'a>>,
    masked_paths: Option<&'a [String]>,
    readonly_paths: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ResourcesOut<'a> {
    cpu_shares: i64,
    memory: i64,
    nano_cpus: i64,
    cgroup_parent: &'a str,
    blkio_weight: u16,
    blkio_weight_device: Vec<WeightOut<'a>>,
    blkio_device_read_bps: Vec<RateOut<'a>>,
    blkio_device_write_bps: Vec<RateOut<'a>>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: Vec<RateOut<'a>>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: Vec<RateOut<'a>>,
    cpu_period: i64,
    cpu_quota: i64,
    cpu_realtime_period: i64,
    cpu_realtime_runtime: i64,
    cpuset_cpus: &'a str,
    cpuset_mems: &'a str,
    devices: Vec<DeviceOut<'a>>,
    #[serde(serialize_with = "null_if_empty")]
    device_cgroup_rules: &'a [String],
    device_requests: Option<()>,
    memory_reservation: i64,
    memory_swap: i64,
    memory_swappiness: Option<i64>,
    oom_kill_disable: Option<bool>,
    pids_limit: Option<i64>,
    ulimits: Vec<UlimitOut<'a>>,
    cpu_count: i64,
    cpu_percent: i64,
    #[serde(rename = "IOMaximumIOps")]
    io_maximum_iops: u64,
    #[serde(rename = "IOMaximumBandwidth")]
    io_maximum_bandwidth: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogOut<'a> {
    r#type: &'a str,
    config: &'a Map,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RestartOut<'a> {
    name: &'a str,
    maximum_retry_count: i32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WeightOut<'a> {
    path: &'a str,
    weight: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RateOut<'a> {
    path: &'a str,
    rate: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeviceOut<'a> {
    path_on_host: &'a str,
    path_in_container: &'a str,
    cgroup_permissions: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UlimitOut<'a> {
    name: &'a str,
    hard: i64,
    soft: i64,
}

#[derive(Debug)]
struct PortBindingsOut<'a>(&'a HostOptions);

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindingOut {
    host_ip: String,
    host_port: String,
}

impl Serialize for PortBindingsOut<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.port_bindings.len()))?;
        for (port, bindings) in &self.0.port_bindings {
            let out = |binding: &PortBinding| BindingOut {
                host_ip: binding.host_ip.clone(),
                host_port: binding.host_port.clone(),
            };
            let bindings: Vec<_> = bindings.iter().map(out).collect();
            map.serialize_entry(&port.to_string(), &bindings)?;
        }
        map.end()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MountOut<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    consistency: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_options: Option<BindOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_options: Option<VolumeOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs_options: Option<TmpfsOut<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindOut<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    propagation: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    non_recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    create_mountpoint: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only_force_recursive: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeOut<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a Map,
    #[serde(skip_serializing_if = "str::is_empty")]
    subpath: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_config: Option<DriverOut<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DriverOut<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: &'a Map,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TmpfsOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "<[Vec<String>]>::is_empty")]
    options: &'a [Vec<String>],
}

impl<'a> From<&'a MountRequest> for MountOut<'a> {
    fn from(mount: &'a MountRequest) -> Self {
        Self {
            r#type: &mount.kind,
            source: &mount.source,
            target: &mount.target,
            read_only: mount.read_only,
            consistency: &mount.consistency,
            bind_options: mount.bind.as_ref().map(|bind| BindOut {
                propagation: &bind.propagation,
                non_recursive: bind.non_recursive,
                create_mountpoint: bind.create_mountpoint,
                read_only_non_recursive: bind.read_only_non_recursive,
                read_only_force_recursive: bind.read_only_force_recursive,
            }),
            volume_options: mount.volume.as_ref().map(|volume| VolumeOut {
                no_copy: volume.no_copy,
                labels: &volume.labels,
                subpath: &volume.subpath,
                driver_config: (!volume.driver.is_empty() || !volume.driver_options.is_empty())
                    .then_some(DriverOut {
                        name: &volume.driver,
                        options: &volume.driver_options,
                    }),
            }),
            tmpfs_options: mount.tmpfs.as_ref().map(|tmpfs| TmpfsOut {
                size_bytes: Some(tmpfs.size_bytes).filter(|size| *size != 0),
                mode: Some(tmpfs.mode).filter(|mode| *mode != 0),
                options: &tmpfs.options,
            }),
        }
    }
}

fn rates(list: &[DeviceRate]) -> Vec<RateOut<'_>> {
    list.iter()
        .map(|rate| RateOut {
            path: &rate.path,
            rate: rate.rate,
        })
        .collect()
}

fn device(device: &DeviceMapping) -> DeviceOut<'_> {
    DeviceOut {
        path_on_host: &device.path_on_host,
        path_in_container: &device.path_in_container,
        cgroup_permissions: &device.cgroup_permissions,
    }
}

fn ulimit(limit: &Ulimit) -> UlimitOut<'_> {
    UlimitOut {
        name: &limit.name,
        hard: limit.hard,
        soft: limit.soft,
    }
}

impl<'a> From<&'a Resources> for ResourcesOut<'a> {
    fn from(from: &'a Resources) -> Self {
        let weight = |rate: &'a DeviceRate| WeightOut {
            path: &rate.path,
            weight: rate.rate,
        };
        Self {
            cpu_shares: from.cpu_shares,
            memory: from.memory,
            nano_cpus: from.nano_cpus,
            cgroup_parent: &from.cgroup_parent,
            blkio_weight: from.blkio_weight,
            blkio_weight_device: from.blkio_weight_device.iter().map(weight).collect(),
            blkio_device_read_bps: rates(&from.blkio_device_read_bps),
            blkio_device_write_bps: rates(&from.blkio_device_write_bps),
            blkio_device_read_iops: rates(&from.blkio_device_read_iops),
            blkio_device_write_iops: rates(&from.blkio_device_write_iops),
            cpu_period: from.cpu_period,
            cpu_quota: from.cpu_quota,
            cpu_realtime_period: from.cpu_realtime_period,
            cpu_realtime_runtime: from.cpu_realtime_runtime,
            cpuset_cpus: &from.cpuset_cpus,
            cpuset_mems: &from.cpuset_mems,
            devices: from.devices.iter().map(device).collect(),
            device_cgroup_rules: &from.device_cgroup_rules,
            device_requests: None,
            memory_reservation: from.memory_reservation,
            memory_swap: from.memory_swap,
            memory_swappiness: from.memory_swappiness,
            oom_kill_disable: from.oom_kill_disable,
            pids_limit: from.pids_limit,
            ulimits: from.ulimits.iter().map(ulimit).collect(),
            cpu_count: 0,
            cpu_percent: 0,
            io_maximum_iops: 0,
            io_maximum_bandwidth: 0,
        }
    }
}

fn log(log: &LogSettings) -> LogOut<'_> {
    LogOut {
        r#type: &log.driver,
        config: &log.options,
    }
}

fn restart(policy: &RestartPolicy) -> RestartOut<'_> {
    let name = if policy.name.is_empty() {
        "no"
    } else {
        &policy.name
    };
    RestartOut {
        name,
        maximum_retry_count: policy.maximum_retry_count,
    }
}

impl<'a> HostOut<'a> {
    /// The host's side of a container.
    pub(crate) fn new(host: &'a HostOptions) -> Self {
        Self {
            binds: &host.binds,
            container_id_file: &host.container_id_file,
            log_config: log(&host.log),
            network_mode: &host.network_mode,
            port_bindings: PortBindingsOut(host),
            restart_policy: restart(&host.restart_policy),
            auto_remove: host.auto_remove,
            volume_driver: &host.volume_driver,
            volumes_from: &host.volumes_from,
            console_size: host.console_size.unwrap_or_default(),
            annotations: &host.annotations,
            cap_add: &host.cap_add,
            cap_drop: &host.cap_drop,
            cgroupns_mode: &host.cgroupns_mode,
            dns: &host.dns,
            dns_options: &host.dns_options,
            dns_search: &host.dns_search,
            extra_hosts: &host.extra_hosts,
            group_add: &host.group_add,
            ipc_mode: &host.ipc_mode,
            cgroup: &host.cgroup,
            links: &host.links,
            oom_score_adj: host.oom_score_adj,
            pid_mode: &host.pid_mode,
            privileged: host.privileged,
            publish_all_ports: host.publish_all_ports,
            readonly_rootfs: host.readonly_rootfs,
            security_opt: &host.security_opt,
            storage_opt: &host.storage_opt,
            tmpfs: &host.tmpfs,
            uts_mode: &host.uts_mode,
            userns_mode: &host.userns_mode,
            shm_size: host.shm_size,
            sysctls: &host.sysctls,
            runtime: &host.runtime,
            isolation: &host.isolation,
            resources: ResourcesOut::from(&host.resources),
            mounts: host.mounts.iter().map(MountOut::from).collect(),
            masked_paths: host.masked_paths.as_deref(),
            readonly_paths: host.readonly_paths.as_deref(),
            init: host.init,
        }
    }
}
