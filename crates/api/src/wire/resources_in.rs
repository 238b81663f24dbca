//! Reads Docker's `Resources`: limits and devices, in `HostConfig` and in an update.

use kekkai_engine::model::{DeviceMapping, DeviceRate, Resources, Ulimit};

use crate::http::{ApiError, Fields};

/// Takes the fields of `Resources` out of `fields`.
pub(crate) fn read_resources(fields: &mut Fields) -> Result<Resources, ApiError> {
    // Windows' own.
    for field in [
        "CpuCount",
        "CpuPercent",
        "IOMaximumIOps",
        "IOMaximumBandwidth",
    ] {
        fields.refuse(field)?;
    }
    fields.refuse("DeviceRequests")?;
    Ok(Resources {
        cpu_shares: fields.integer("CpuShares")?,
        nano_cpus: fields.integer("NanoCpus")?,
        cpu_period: fields.integer("CpuPeriod")?,
        cpu_quota: fields.integer("CpuQuota")?,
        cpu_realtime_period: fields.integer("CpuRealtimePeriod")?,
        cpu_realtime_runtime: fields.integer("CpuRealtimeRuntime")?,
        cpuset_cpus: fields.string("CpusetCpus")?,
        cpuset_mems: fields.string("CpusetMems")?,
        memory: fields.integer("Memory")?,
        memory_reservation: fields.integer("MemoryReservation")?,
        memory_swap: fields.integer("MemorySwap")?,
        memory_swappiness: fields
            .optional_integer("MemorySwappiness")?
            .filter(|value| *value != -1),
        kernel_memory: fields.integer("KernelMemory")?,
        kernel_memory_tcp: fields.integer("KernelMemoryTCP")?,
        oom_kill_disable: fields.optional_bool("OomKillDisable")?,
        pids_limit: fields
            .optional_integer("PidsLimit")?
            .filter(|value| *value > 0),
        ulimits: fields
            .objects("Ulimits")?
            .into_iter()
            .map(read_ulimit)
            .collect::<Result<_, _>>()?,
        cgroup_parent: fields.string("CgroupParent")?,
        blkio_weight: fields.number("BlkioWeight")?,
        blkio_weight_device: read_rates(fields, "BlkioWeightDevice", "Weight")?,
        blkio_device_read_bps: read_rates(fields, "BlkioDeviceReadBps", "Rate")?,
        blkio_device_write_bps: read_rates(fields, "BlkioDeviceWriteBps", "Rate")?,
        blkio_device_read_iops: read_rates(fields, "BlkioDeviceReadIOps", "Rate")?,
        blkio_device_write_iops: read_rates(fields, "BlkioDeviceWriteIOps", "Rate")?,
        devices: fields
            .objects("Devices")?
            .into_iter()
            .map(read_device)
            .collect::<Result<_, _>>()?,
        device_cgroup_rules: fields.strings("DeviceCgroupRules")?,
        device_requests: Vec::new(),
    })
}

fn read_ulimit(mut fields: Fields) -> Result<Ulimit, ApiError> {
    Ok(Ulimit {
        name: fields.string("Name")?,
        soft: fields.integer("Soft")?,
        hard: fields.integer("Hard")?,
    })
}

fn read_device(mut fields: Fields) -> Result<DeviceMapping, ApiError> {
    Ok(DeviceMapping {
        path_on_host: fields.string("PathOnHost")?,
        path_in_container: fields.string("PathInContainer")?,
        cgroup_permissions: fields.string("CgroupPermissions")?,
    })
}

fn read_rates(fields: &mut Fields, field: &str, value: &str) -> Result<Vec<DeviceRate>, ApiError> {
    fields
        .objects(field)?
        .into_iter()
        .map(|mut rate| {
            Ok(DeviceRate {
                path: rate.string("Path")?,
                rate: rate.number(value)?,
            })
        })
        .collect()
}
