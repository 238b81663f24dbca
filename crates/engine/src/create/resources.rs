//! Checks of limits, in dockerd's words; what this host cannot do is discarded with a warning where dockerd does so.

use crate::EngineError;
use crate::host::{HostFacts, parse_list};
use crate::model::Resources;

/// The least memory limit: below it nothing starts.
const LEAST_MEMORY: i64 = 6 << 20;

fn invalid<T>(text: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Invalid(text.into()))
}

/// Checks and completes limits (`MemorySwap` is twice the memory when it is not given).
pub(crate) fn check(
    resources: &mut Resources,
    facts: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<(), EngineError> {
    memory(resources, facts, warnings)?;
    cpu(resources, facts)?;
    block_io(resources, facts, warnings);
    if resources.pids_limit.is_some_and(|limit| limit <= 0) {
        resources.pids_limit = None;
    }
    if !resources.device_requests.is_empty() {
        return Err(EngineError::Unsupported(
            "DeviceRequests (--gpus)".to_owned(),
        ));
    }
    for rule in &resources.device_cgroup_rules {
        if !is_device_rule(rule) {
            return invalid(format!("invalid device cgroup rule format: '{rule}'"));
        }
    }
    if resources.cgroup_parent.split('/').any(|part| part == "..") {
        return invalid(format!(
            "invalid CgroupParent {:?}: it may not contain \"..\"",
            resources.cgroup_parent
        ));
    }
    Ok(())
}

fn memory(
    resources: &mut Resources,
    facts: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<(), EngineError> {
    let (memory, swap) = (resources.memory, resources.memory_swap);
    if memory != 0 && memory < LEAST_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if memory > 0 && swap != -1 && !facts.swap_limit {
        warnings.push(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
                .to_owned(),
        );
        resources.memory_swap = -1;
    } else if memory > 0 && swap == 0 {
        resources.memory_swap = memory.saturating_mul(2);
    }
    if let Some(swappiness) = resources.memory_swappiness {
        if !(-1..=100).contains(&swappiness) {
            return invalid(format!(
                "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
            ));
        }
        if swappiness == -1 {
            resources.memory_swappiness = None;
        } else if facts.cgroup_version == 2 {
            warnings.push(
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
                    .to_owned(),
            );
            resources.memory_swappiness = None;
        }
    }
    let reservation = resources.memory_reservation;
    if reservation > 0 && reservation < LEAST_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && reservation > memory {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if resources.kernel_memory != 0 {
        return Err(EngineError::Unsupported(
            "KernelMemory (--kernel-memory)".to_owned(),
        ));
    }
    if resources.kernel_memory_tcp != 0 {
        return Err(EngineError::Unsupported("KernelMemoryTCP".to_owned()));
    }
    if facts.cgroup_version == 1 {
        // As inspect shows it where the kernel has it.
        resources.oom_kill_disable.get_or_insert(false);
    }
    if resources.oom_kill_disable == Some(true) {
        if facts.cgroup_version == 2 {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned(),
            );
            resources.oom_kill_disable = None;
        } else if memory == 0 {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                    .to_owned(),
            );
        }
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a handful of CPUs, shown with two digits"
)]
fn cpu(resources: &Resources, facts: &HostFacts) -> Result<(), EngineError> {
    if resources.nano_cpus > 0 && resources.cpu_period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if resources.nano_cpus > 0 && resources.cpu_quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let most = i64::try_from(facts.ncpu)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    if resources.nano_cpus < 0 || resources.nano_cpus > most {
        return invalid(format!(
            "range of CPUs is from 0.01 to {:.2}, as there are only {} CPUs available",
            facts.ncpu as f64, facts.ncpu
        ));
    }
    if resources.cpu_shares < 0 {
        return invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            resources.cpu_shares
        ));
    }
    if resources.cpu_period != 0 && !(1_000..=1_000_000).contains(&resources.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if resources.cpu_quota > 0 && resources.cpu_quota < 1_000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if resources.cpu_realtime_period != 0 || resources.cpu_realtime_runtime != 0 {
        return Err(EngineError::Unsupported(
            "real-time CPU scheduling (--cpu-rt-period, --cpu-rt-runtime)".to_owned(),
        ));
    }
    for (value, there, what, name) in [
        (&resources.cpuset_cpus, &facts.cpus, "CPUs", "cpus"),
        (&resources.cpuset_mems, &facts.mems, "memory nodes", "mems"),
    ] {
        let Some(wanted) = parse_list(value) else {
            return invalid(format!(
                "Invalid value {value} for cpuset {name}: invalid format: {value}"
            ));
        };
        let have = parse_list(there).unwrap_or_default();
        if wanted.iter().any(|number| !have.contains(number)) {
            return invalid(format!(
                "Requested {what} are not available - requested {value}, available: {there}"
            ));
        }
    }
    Ok(())
}

fn block_io(resources: &mut Resources, facts: &HostFacts, warnings: &mut Vec<String>) {
    if resources.blkio_weight > 0 && !facts.blkio_weight {
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.".to_owned(),
        );
        resources.blkio_weight = 0;
    }
    if !resources.blkio_weight_device.is_empty() && !facts.blkio_weight {
        warnings.push(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."
                .to_owned(),
        );
        resources.blkio_weight_device.clear();
    }
}

/// `a *:* rwm`, `c 42:* rwm`.
fn is_device_rule(rule: &str) -> bool {
    let mut parts = rule.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    matches!(kind, "a" | "b" | "c")
        && numbers
            .split_once(':')
            .is_some_and(|(major, minor)| number(major) && number(minor))
        && !access.is_empty()
        && access.len() <= 3
        && access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        HostFacts {
            ncpu: 2,
            cpus: "0-1".into(),
            mems: "0".into(),
            cgroup_version: 1,
            swap_limit: true,
            ..Default::default()
        }
    }

    fn refused(change: impl FnOnce(&mut Resources)) -> String {
        let mut resources = Resources::default();
        change(&mut resources);
        check(&mut resources, &facts(), &mut Vec::new())
            .unwrap_err()
            .to_string()
    }

    /// Each text is what dockerd 28.5 answered to the same request.
    #[test]
    fn words_of_dockerd() {
        assert_eq!(
            refused(|r| r.memory = 1),
            "Minimum memory limit allowed is 6MB"
        );
        assert_eq!(
            refused(|r| r.nano_cpus = -1),
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        );
        assert_eq!(
            refused(|r| r.cpuset_cpus = "9".into()),
            "Requested CPUs are not available - requested 9, available: 0-1"
        );
        assert_eq!(
            refused(|r| r.cpuset_mems = "x".into()),
            "Invalid value x for cpuset mems: invalid format: x"
        );
        assert_eq!(
            refused(|r| r.memory_swappiness = Some(101)),
            "Invalid value: 101, valid memory swappiness range is 0-100"
        );
    }

    #[test]
    fn completes() {
        let mut resources = Resources {
            memory: 100 << 20,
            blkio_weight: 500,
            ..Default::default()
        };
        let mut warnings = Vec::new();
        check(&mut resources, &facts(), &mut warnings).unwrap();
        assert_eq!(resources.memory_swap, 200 << 20);
        assert_eq!(resources.blkio_weight, 0);
        assert_eq!(warnings.len(), 1);
    }
}
