//! Version 1: one directory per hierarchy.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kekkai_sys::{Errno, beneath};
use rustix::fs::OFlags;

use crate::limits::{DeviceKind, DeviceRule};
use crate::{CgroupError, Hierarchy, Limits, Throttle, files};

/// Makes the cgroup in one hierarchy and gives it what it needs to hold a process.
pub(crate) fn create(hierarchy: &Hierarchy, path: &str) -> Result<(), CgroupError> {
    files::make(&hierarchy.mount, path)?;
    if hierarchy.has("cpuset") {
        inherit_cpuset(&hierarchy.mount, path)?;
    }
    Ok(())
}

/// A new cpuset is empty and holds no process until CPUs and memory nodes are named: those of the parent, recursively.
/// Parents made by us pass them on by themselves from then on (`cgroup.clone_children`).
fn inherit_cpuset(root: &Path, path: &str) -> Result<(), CgroupError> {
    let directory = root.join(path);
    let is_set =
        |name: &str| files::read(&directory.join(name)).map(|text| !text.trim().is_empty());
    // Both come and go together, except where someone wrote one of them by hand.
    if is_set("cpuset.mems")? {
        return Ok(());
    }
    let parent = Path::new(path)
        .parent()
        .and_then(Path::to_str)
        .unwrap_or_default();
    if !parent.is_empty() {
        inherit_cpuset(root, parent)?;
        // Only a convenience for the next child: without it each child is filled in here.
        let _ = files::write(&root.join(parent).join("cgroup.clone_children"), "1");
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = files::read(&root.join(parent).join(name))?;
        files::write(&directory.join(name), value.trim())?;
    }
    Ok(())
}

/// Writes the limits that belong to one hierarchy.
pub(crate) fn apply(hierarchy: &Hierarchy, path: &str, limits: &Limits) -> Result<(), CgroupError> {
    let directory = hierarchy.mount.join(path);
    for controller in &hierarchy.controllers {
        match controller.as_str() {
            "cpu" => cpu(&directory, limits)?,
            "cpuset" => cpuset(&directory, limits)?,
            "memory" => memory(&directory, limits)?,
            "pids" => {
                if let Some(pids) = limits.pids {
                    let value = if pids > 0 {
                        pids.to_string()
                    } else {
                        "max".to_owned()
                    };
                    files::write_limit(
                        &directory.join("pids.max"),
                        &value,
                        "the number of processes",
                    )?;
                }
            }
            "blkio" => blkio(&directory, limits)?,
            "devices" => devices(&directory, &limits.devices)?,
            "hugetlb" => {
                for (size, limit) in &limits.hugepages {
                    let file = directory.join(format!("hugetlb.{size}.limit_in_bytes"));
                    files::write_limit(&file, &limit.to_string(), "huge pages")?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses limits whose controller is in none of the hierarchies.
pub(crate) fn check_controllers(
    hierarchies: &[Hierarchy],
    limits: &Limits,
) -> Result<(), CgroupError> {
    let memory = limits.memory.is_some()
        || limits.memory_swap.is_some()
        || limits.memory_reservation.is_some()
        || limits.swappiness.is_some()
        || limits.oom_kill_disable;
    let cpu =
        limits.cpu_shares.is_some() || limits.cpu_quota.is_some() || limits.cpu_period.is_some();
    let blkio = limits.blkio_weight.is_some()
        || !limits.blkio_weight_devices.is_empty()
        || [
            &limits.blkio_read_bps,
            &limits.blkio_write_bps,
            &limits.blkio_read_iops,
            &limits.blkio_write_iops,
        ]
        .iter()
        .any(|list| !list.is_empty());
    let needs = [
        ("memory", memory, "memory"),
        ("cpu", cpu, "CPU time"),
        (
            "cpuset",
            limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some(),
            "the set of CPUs",
        ),
        (
            "pids",
            limits.pids.is_some_and(|pids| pids > 0),
            "the number of processes",
        ),
        ("blkio", blkio, "block I/O"),
        ("hugetlb", !limits.hugepages.is_empty(), "huge pages"),
    ];
    for (controller, needed, limit) in needs {
        if needed
            && !hierarchies
                .iter()
                .any(|hierarchy| hierarchy.has(controller))
        {
            return Err(CgroupError::Unsupported {
                limit,
                reason: format!("the {controller} controller is not mounted"),
            });
        }
    }
    if !limits.unified.is_empty() {
        let reason = "this host has no unified hierarchy".to_owned();
        return Err(CgroupError::Unsupported {
            limit: "unified cgroup files",
            reason,
        });
    }
    Ok(())
}

fn cpu(directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let write = |name: &str, value: Option<String>, limit| match value {
        Some(value) => files::write_limit(&directory.join(name), &value, limit),
        None => Ok(()),
    };
    write(
        "cpu.shares",
        limits.cpu_shares.map(|value| value.to_string()),
        "CPU shares",
    )?;
    let period = limits.cpu_period.map(|value| value.to_string());
    match write("cpu.cfs_period_us", period.clone(), "CPU time") {
        // A shorter period than the old quota allows (or the other way round): the quota goes first then.
        Err(CgroupError::Limit {
            source: Errno::INVAL,
            ..
        }) if limits.cpu_quota.is_some() => {
            write(
                "cpu.cfs_quota_us",
                limits.cpu_quota.map(|value| value.to_string()),
                "CPU time",
            )?;
            write("cpu.cfs_period_us", period, "CPU time")?;
        }
        result => {
            result?;
            write(
                "cpu.cfs_quota_us",
                limits.cpu_quota.map(|value| value.to_string()),
                "CPU time",
            )?;
        }
    }
    write(
        "cpu.cfs_burst_us",
        limits.cpu_burst.map(|value| value.to_string()),
        "CPU bursts",
    )?;
    write(
        "cpu.rt_period_us",
        limits.cpu_realtime_period.map(|value| value.to_string()),
        "real-time CPU time",
    )?;
    write(
        "cpu.rt_runtime_us",
        limits.cpu_realtime_runtime.map(|value| value.to_string()),
        "real-time CPU time",
    )?;
    write(
        "cpu.idle",
        limits.cpu_idle.map(|value| value.to_string()),
        "idle CPU time",
    )
}

fn cpuset(directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
    for (name, value) in [
        ("cpuset.cpus", &limits.cpuset_cpus),
        ("cpuset.mems", &limits.cpuset_mems),
    ] {
        if let Some(value) = value {
            files::write_limit(&directory.join(name), value, "the set of CPUs")?;
        }
    }
    Ok(())
}

fn memory(directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let limit_file = directory.join("memory.limit_in_bytes");
    let swap_file = directory.join("memory.memsw.limit_in_bytes");
    let limit = |value: Option<i64>| match value {
        Some(value) => files::write_limit(&limit_file, &value.to_string(), "memory"),
        None => Ok(()),
    };
    let swap = |value: Option<i64>| match value {
        Some(value) => files::write_limit(&swap_file, &value.to_string(), "swap"),
        None => Ok(()),
    };
    // The kernel wants limit ≤ limit with swap after every write: whichever grows goes first.
    let current_swap = limits
        .memory_swap
        .and_then(|_| files::read_number(&swap_file));
    let grows = match (limits.memory_swap, current_swap) {
        (Some(-1), _) => true,
        (Some(new), Some(current)) => u64::try_from(new).is_ok_and(|new| new > current),
        _ => false,
    };
    if grows {
        swap(limits.memory_swap)?;
        limit(limits.memory)?;
    } else {
        limit(limits.memory)?;
        swap(limits.memory_swap)?;
    }
    if let Some(value) = limits.memory_reservation {
        files::write_limit(
            &directory.join("memory.soft_limit_in_bytes"),
            &value.to_string(),
            "memory reservation",
        )?;
    }
    if let Some(value) = limits.swappiness {
        files::write_limit(
            &directory.join("memory.swappiness"),
            &value.to_string(),
            "swappiness",
        )?;
    }
    if limits.oom_kill_disable {
        files::write_limit(&directory.join("memory.oom_control"), "1", "the OOM killer")?;
    }
    Ok(())
}

fn blkio(directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
    if limits.blkio_weight.is_none()
        && limits.blkio_weight_devices.is_empty()
        && throttles(limits).iter().all(|(_, list)| list.is_empty())
    {
        return Ok(());
    }
    let weight_file = ["blkio.weight", "blkio.bfq.weight"]
        .into_iter()
        .map(|name| directory.join(name))
        .find(|file| file.exists());
    let missing = || CgroupError::Unsupported {
        limit: "block I/O weight",
        reason: "no scheduler of this host has it".into(),
    };
    if let Some(weight) = limits.blkio_weight {
        files::write(
            weight_file.as_deref().ok_or_else(missing)?,
            &weight.to_string(),
        )?;
    }
    for (major, minor, weight) in &limits.blkio_weight_devices {
        let file: PathBuf = weight_file
            .clone()
            .ok_or_else(missing)?
            .with_extension("weight_device");
        files::write_limit(
            &file,
            &format!("{major}:{minor} {weight}"),
            "block I/O weight",
        )?;
    }
    for (name, list) in throttles(limits) {
        for Throttle { major, minor, rate } in list {
            files::write_limit(
                &directory.join(name),
                &format!("{major}:{minor} {rate}"),
                "block I/O rate",
            )?;
        }
    }
    Ok(())
}

fn throttles(limits: &Limits) -> [(&'static str, &[Throttle]); 4] {
    [
        ("blkio.throttle.read_bps_device", &limits.blkio_read_bps),
        ("blkio.throttle.write_bps_device", &limits.blkio_write_bps),
        ("blkio.throttle.read_iops_device", &limits.blkio_read_iops),
        ("blkio.throttle.write_iops_device", &limits.blkio_write_iops),
    ]
}

fn devices(directory: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    // Each file is opened once: a dozen rules are written to it.
    let mut files: [Option<OwnedFd>; 2] = [None, None];
    // A rule for everything makes all before it void.
    let first = rules.iter().rposition(DeviceRule::is_for_all).unwrap_or(0);
    for rule in rules.iter().skip(first) {
        let [deny, allow] = &mut files;
        let (slot, name) = if rule.allow {
            (allow, "devices.allow")
        } else {
            (deny, "devices.deny")
        };
        let value = line(rule);
        let error = |source| CgroupError::Limit {
            value: value.clone(),
            path: directory.join(name),
            source,
        };
        let file = match slot {
            Some(file) => file,
            None => slot.insert(files::open(&directory.join(name), OFlags::WRONLY).map_err(error)?),
        };
        beneath::write_once(file, value.as_bytes()).map_err(error)?;
    }
    Ok(())
}

fn line(rule: &DeviceRule) -> String {
    if rule.is_for_all() {
        return "a".to_owned();
    }
    let kind = match rule.kind {
        DeviceKind::All => 'a',
        DeviceKind::Block => 'b',
        DeviceKind::Character => 'c',
    };
    let part = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    format!(
        "{kind} {}:{} {}",
        part(rule.major),
        part(rule.minor),
        rule.access
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_lines() {
        let rule = DeviceRule {
            allow: true,
            kind: DeviceKind::Character,
            major: Some(1),
            minor: None,
            access: "rm".into(),
        };
        assert_eq!(line(&rule), "c 1:* rm");
        let all = DeviceRule {
            allow: false,
            kind: DeviceKind::All,
            major: None,
            minor: None,
            access: "rwm".into(),
        };
        assert_eq!(line(&all), "a");
    }
}
