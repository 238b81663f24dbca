//! Changing a container's limits and restart policy.

use std::sync::Arc;

use kekkai_cgroups::{Cgroup, Limits};
use kekkai_metadata::Durability;

use crate::EngineError;
use crate::container::Container;
use crate::create::{check, resources};
use crate::inner::Inner;
use crate::model::{Lifecycle, Resources, UpdateContainer};
use crate::spec_builder;

/// Overlays the values that are given.
fn merge(current: &Resources, wanted: Resources) -> Result<Resources, EngineError> {
    let mut merged = current.clone();
    let refuse = |what: &str| Err(EngineError::Unsupported(format!("updating {what}")));
    macro_rules! number {
        ($($field:ident),+) => {$(
            if wanted.$field != 0 {
                merged.$field = wanted.$field;
            }
        )+};
    }
    macro_rules! text {
        ($($field:ident),+) => {$(
            if !wanted.$field.is_empty() {
                merged.$field = wanted.$field;
            }
        )+};
    }
    if wanted.nano_cpus != 0
        && (current.cpu_period != 0 || current.cpu_quota != 0)
        && wanted.cpu_period == 0
    {
        return Err(EngineError::Conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
                .to_owned(),
        ));
    }
    number!(
        cpu_shares,
        nano_cpus,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        memory,
        memory_reservation,
        memory_swap,
        kernel_memory,
        kernel_memory_tcp,
        blkio_weight
    );
    text!(cpuset_cpus, cpuset_mems);
    if wanted.pids_limit.is_some() {
        merged.pids_limit = wanted.pids_limit;
    }
    if wanted.memory > 0
        && wanted.memory_swap == 0
        && current.memory_swap > 0
        && wanted.memory > current.memory_swap
    {
        return Err(EngineError::Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
                .to_owned(),
        ));
    }
    match () {
        () if wanted.memory_swappiness.is_some() => refuse("MemorySwappiness"),
        () if wanted.oom_kill_disable.is_some_and(|disable| disable) => refuse("OomKillDisable"),
        () if !wanted.ulimits.is_empty() => refuse("Ulimits"),
        () if !wanted.devices.is_empty() => refuse("Devices"),
        () if !wanted.device_cgroup_rules.is_empty() => refuse("DeviceCgroupRules"),
        () if !wanted.cgroup_parent.is_empty() => refuse("CgroupParent"),
        () if !wanted.blkio_weight_device.is_empty()
            || !wanted.blkio_device_read_bps.is_empty()
            || !wanted.blkio_device_write_bps.is_empty()
            || !wanted.blkio_device_read_iops.is_empty()
            || !wanted.blkio_device_write_iops.is_empty() =>
        {
            refuse("per-device block I/O limits")
        }
        () => Ok(merged),
    }
}

/// Changes a container; a running one's cgroup at once.
pub(crate) async fn update(
    inner: Arc<Inner>,
    container: Arc<Container>,
    wanted: UpdateContainer,
) -> Result<Vec<String>, EngineError> {
    let id = container.id;
    let lifecycle = container.lifecycle();
    if matches!(lifecycle, Lifecycle::Removing | Lifecycle::Dead) {
        return Err(EngineError::Conflict(format!(
            "Cannot update container {id}: Container is marked for removal and cannot be \"update\"."
        )));
    }
    let current = container.spec();
    let mut spec = (*current).clone();
    let mut warnings = Vec::new();
    let limits_change = wanted.resources != Resources::default();
    if limits_change {
        spec.host.resources = merge(&current.host.resources, wanted.resources)?;
        resources::check(&mut spec.host.resources, &inner.facts, &mut warnings)?;
    }
    if let Some(policy) = wanted.restart_policy {
        if spec.host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
            return Err(EngineError::Conflict(format!(
                "Cannot update container {id}: Restart policy cannot be updated because AutoRemove is enabled for the container"
            )));
        }
        spec.host.restart_policy = policy;
        check::restart(&spec.host)?;
    }
    if limits_change && lifecycle.is_running() {
        let limits = Limits::from_oci(&spec_builder::limits_of(&spec.host))
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
        let path = inner.cgroup_path(id, &spec);
        let of = Arc::clone(&inner);
        tokio::task::spawn_blocking(move || {
            Cgroup::new(&of.cgroups, &path).and_then(|cgroup| cgroup.update(&limits))
        })
        .await
        .map_err(|error| EngineError::Internal(error.to_string()))?
        .map_err(|error| EngineError::System(format!("Cannot update container {id}: {error}")))?;
    }
    {
        let mut shared = container.lock();
        shared.spec = Arc::new(spec);
        if limits_change {
            // The next start compiles the plan anew, with the new limits; a cgroup that is there keeps the old ones
            // until its launcher writes them again.
            shared.plan = None;
            shared.fresh_work = false;
        }
    }
    if let Some(written) = container.persist(&inner.database, Durability::PowerCut) {
        written
            .await
            .map_err(|_| EngineError::Unavailable("the database is closed".to_owned()))??;
    }
    inner.container_event(&container, "update", &[]);
    Ok(warnings)
}
