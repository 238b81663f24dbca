//! Volumes, networks, prune, and what the engine says about itself.

use std::collections::BTreeMap;

use kekkai_metadata::Durability;
use kekkai_network::NetworkInfo;
use kekkai_types::Timestamp;
use kekkai_volume::{CreateVolume, PruneScope, Volume, VolumeFilter};

use crate::EngineError;
use crate::create::saga::volume_error;
use crate::inner::Inner;
use crate::list;
use crate::model::{
    EngineInfo, EventKind, Filters, Lifecycle, NetworkMember, NetworkView, PruneReport,
    VersionInfo, VolumeCreate, VolumeView,
};
use crate::net::network_error;

fn check_keys(filters: &Filters, known: &[&str]) -> Result<(), EngineError> {
    match filters.0.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(EngineError::Invalid(format!("invalid filter '{key}'"))),
        None => Ok(()),
    }
}

fn boolean(key: &str, filters: &Filters) -> Result<Option<bool>, EngineError> {
    match filters.get(key).last().map(String::as_str) {
        None => Ok(None),
        Some("1" | "true") => Ok(Some(true)),
        Some("0" | "false") => Ok(Some(false)),
        Some(other) => Err(EngineError::Invalid(format!(
            "invalid filter '{key}={other}'"
        ))),
    }
}

fn labels(values: &[String]) -> Vec<(String, Option<String>)> {
    values
        .iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (label.clone(), None),
        })
        .collect()
}

fn volume_view(volume: Volume) -> VolumeView {
    VolumeView {
        name: volume.name.to_string(),
        driver: volume.driver,
        mountpoint: volume.mountpoint,
        created: volume.created,
        labels: volume.labels,
        options: volume.options,
        references: volume.containers.len(),
    }
}

/// Makes a volume, or finds the one of that name.
pub(crate) fn volume_create(
    inner: &Inner,
    request: VolumeCreate,
) -> Result<VolumeView, EngineError> {
    let mut wanted = if request.name.is_empty() {
        CreateVolume::anonymous(Durability::PowerCut)
    } else {
        let name = request
            .name
            .parse()
            .map_err(|error: kekkai_types::ParseNameError| {
                EngineError::Invalid(error.to_string())
            })?;
        CreateVolume::named(name)
    };
    let is_new = request.name.is_empty() || inner.volumes.inspect(&request.name).is_err();
    if !request.driver.is_empty() {
        wanted.driver = request.driver;
    }
    wanted.options = request.driver_options;
    wanted.labels.extend(request.labels);
    let volume = inner
        .volumes
        .create(wanted)
        .map_err(|error| volume_error(&error))?;
    if is_new {
        let attributes = vec![("driver".to_owned(), volume.driver.clone())];
        inner.events.publish(
            EventKind::Volume,
            "create",
            volume.name.as_str(),
            attributes,
        );
    }
    Ok(volume_view(volume))
}

/// The volumes that satisfy Docker's filters.
pub(crate) fn volume_list(
    inner: &Inner,
    filters: &Filters,
) -> Result<Vec<VolumeView>, EngineError> {
    check_keys(filters, &["dangling", "driver", "label", "name"])?;
    let filter = VolumeFilter {
        names: filters.get("name").to_vec(),
        drivers: filters.get("driver").to_vec(),
        labels: labels(filters.get("label")),
        without_labels: Vec::new(),
        dangling: boolean("dangling", filters)?,
    };
    Ok(inner
        .volumes
        .list(&filter)
        .into_iter()
        .map(volume_view)
        .collect())
}

/// One volume.
pub(crate) fn volume_inspect(inner: &Inner, name: &str) -> Result<VolumeView, EngineError> {
    inner
        .volumes
        .inspect(name)
        .map(volume_view)
        .map_err(|error| volume_error(&error))
}

/// Removes a volume that nobody uses.
pub(crate) fn volume_remove(inner: &Inner, name: &str, force: bool) -> Result<(), EngineError> {
    if let Some(volume) = inner
        .volumes
        .remove(name, force)
        .map_err(|error| volume_error(&error))?
    {
        let attributes = vec![("driver".to_owned(), volume.driver)];
        inner
            .events
            .publish(EventKind::Volume, "destroy", name, attributes);
    }
    Ok(())
}

/// Removes volumes that nobody uses.
pub(crate) fn volume_prune(inner: &Inner, filters: &Filters) -> Result<PruneReport, EngineError> {
    check_keys(filters, &["all", "label", "label!"])?;
    let filter = VolumeFilter {
        labels: labels(filters.get("label")),
        without_labels: labels(filters.get("label!")),
        ..Default::default()
    };
    let scope = if boolean("all", filters)? == Some(true) {
        PruneScope::All
    } else {
        PruneScope::Anonymous
    };
    let report = inner
        .volumes
        .prune(scope, &filter)
        .map_err(|error| volume_error(&error))?;
    for name in &report.deleted {
        let attributes = vec![("driver".to_owned(), "local".to_owned())];
        inner
            .events
            .publish(EventKind::Volume, "destroy", name.as_str(), attributes);
    }
    let attributes = vec![("reclaimed".to_owned(), report.reclaimed.to_string())];
    inner
        .events
        .publish(EventKind::Volume, "prune", "", attributes);
    Ok(PruneReport {
        deleted: report.deleted.iter().map(ToString::to_string).collect(),
        space_reclaimed: report.reclaimed,
    })
}

fn network_view(inner: &Inner, info: NetworkInfo) -> NetworkView {
    let mut members = BTreeMap::new();
    for container in inner.directory.all() {
        let (running, name, mode, endpoint) = {
            let shared = container.lock();
            (
                shared.lifecycle().is_running(),
                shared.name.to_string(),
                shared.spec.host.network_mode.clone(),
                shared.endpoint.clone(),
            )
        };
        if !running || mode != info.name && !info.id.to_string().starts_with(&mode) {
            continue;
        }
        let member = match endpoint {
            Some(record) => NetworkMember {
                name,
                endpoint_id: record.endpoint.to_string(),
                mac_address: record.mac.to_string(),
                ipv4_address: format!("{}/{}", record.address, record.prefix_len),
                ipv6_address: String::new(),
            },
            None => NetworkMember {
                name,
                ..Default::default()
            },
        };
        members.insert(container.id.to_string(), member);
    }
    NetworkView {
        id: info.id.to_string(),
        name: info.name,
        created: Some(info.created),
        driver: info.driver.as_str().to_owned(),
        subnet: info
            .subnet
            .map(|subnet| subnet.to_network_string())
            .unwrap_or_default(),
        gateway: info
            .subnet
            .map(|subnet| subnet.address.to_string())
            .unwrap_or_default(),
        enable_ipv6: false,
        options: info.options.into_iter().collect(),
        labels: BTreeMap::new(),
        containers: members,
    }
}

/// The networks that satisfy Docker's filters.
pub(crate) fn network_list(
    inner: &Inner,
    filters: &Filters,
) -> Result<Vec<NetworkView>, EngineError> {
    check_keys(
        filters,
        &["dangling", "driver", "id", "label", "name", "scope", "type"],
    )?;
    let dangling = boolean("dangling", filters)?;
    let any = |key: &str, test: &dyn Fn(&str) -> bool| {
        let values = filters.get(key);
        values.is_empty() || values.iter().any(|value| test(value))
    };
    let networks = inner
        .network
        .as_ref()
        .map(kekkai_network::NetworkService::list)
        .unwrap_or_default();
    let fits = |info: &NetworkInfo| {
        any("driver", &|driver| info.driver.as_str() == driver)
            && any("id", &|id| info.id.to_string().starts_with(id))
            && any("name", &|name| info.name.contains(name))
            && any("scope", &|scope| scope == "local")
            && any("type", &|kind| kind == "builtin")
            && filters.get("label").is_empty()
            // The built-in networks are never dangling.
            && dangling != Some(true)
    };
    Ok(networks
        .into_iter()
        .filter(fits)
        .map(|info| network_view(inner, info))
        .collect())
}

/// One network.
pub(crate) fn network_inspect(inner: &Inner, name: &str) -> Result<NetworkView, EngineError> {
    let network = inner
        .network
        .as_ref()
        .ok_or_else(|| EngineError::NoSuchNetwork(name.to_owned()))?;
    let info = network.inspect(name).map_err(|error| match error {
        kekkai_network::NetworkError::NotFound(_) => EngineError::NoSuchNetwork(name.to_owned()),
        other => network_error(&other),
    })?;
    Ok(network_view(inner, info))
}

/// The stopped containers that a prune takes.
pub(crate) fn prunable(
    inner: &Inner,
    filters: &Filters,
) -> Result<Vec<crate::model::ContainerView>, EngineError> {
    check_keys(filters, &["label", "label!", "until"])?;
    let until = filters
        .get("until")
        .last()
        .map(|text| {
            Timestamp::parse_relative(text, Timestamp::now()).map_err(|_| {
                EngineError::Invalid(format!(
                    "failed to parse value as time or duration: {text:?}"
                ))
            })
        })
        .transpose()?;
    let wanted = labels(filters.get("label"));
    let unwanted = labels(filters.get("label!"));
    let has = |view: &crate::model::ContainerView, (key, value): &(String, Option<String>)| {
        view.spec
            .config
            .labels
            .get(key)
            .is_some_and(|have| value.as_ref().is_none_or(|value| have == value))
    };
    Ok(inner
        .directory
        .all()
        .iter()
        .map(|container| list::view(inner, container))
        .filter(|view| {
            matches!(
                view.state.lifecycle,
                Lifecycle::Created | Lifecycle::Exited(_) | Lifecycle::Dead
            ) && until.is_none_or(|until| view.created < until)
                && wanted.iter().all(|label| has(view, label))
                && !unwanted.iter().any(|label| has(view, label))
        })
        .collect())
}

/// What `info` says. Blocks on /proc only.
pub(crate) fn info(inner: &Inner) -> EngineInfo {
    let (mut running, mut paused, mut stopped) = (0, 0, 0);
    for container in inner.directory.all() {
        match container.lifecycle() {
            Lifecycle::Running(_) | Lifecycle::Stopping(_) => running += 1,
            Lifecycle::Paused(_) => paused += 1,
            _ => stopped += 1,
        }
    }
    let facts = &inner.facts;
    let features = inner.cgroups.features("");
    let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    let mut warnings = Vec::new();
    for (there, text) in [
        (features.memory, "WARNING: No memory limit support"),
        (features.swap, "WARNING: No swap limit support"),
        (features.cpu_quota, "WARNING: No cpu cfs quota support"),
        (features.cpu_shares, "WARNING: No cpu shares support"),
        (features.cpuset, "WARNING: No cpuset support"),
        (features.pids, "WARNING: No pids limit support"),
    ] {
        if !there {
            warnings.push(text.to_owned());
        }
    }
    let mut security_options = vec!["name=seccomp,profile=builtin".to_owned()];
    // AppArmor is not listed: a profile is applied where one is asked for, but there is none by default.
    if facts.cgroup_version == 2 {
        security_options.push("name=cgroupns".to_owned());
    }
    EngineInfo {
        id: inner.engine_id.clone(),
        containers: running + paused + stopped,
        running,
        paused,
        stopped,
        images: inner
            .images
            .list(&kekkai_image::ListFilter::default())
            .len(),
        driver: "overlay2".to_owned(),
        driver_status: vec![
            (
                "Backing Filesystem".to_owned(),
                backing(&inner.config.data_root),
            ),
            ("Supports d_type".to_owned(), "true".to_owned()),
            ("Native Overlay Diff".to_owned(), "true".to_owned()),
        ],
        logging_driver: inner.config.default_log.driver.clone(),
        log_drivers: ["json-file", "local", "none"].map(str::to_owned).to_vec(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: facts.cgroup_version.to_string(),
        cgroup_controllers: facts.controllers.clone(),
        swap_limit: features.swap,
        kernel_version: facts.kernel.clone(),
        operating_system: facts.os.clone(),
        os_version: facts.os_version.clone(),
        os_type: "linux".to_owned(),
        architecture: facts.machine.clone(),
        ncpu: facts.ncpu,
        mem_total: facts.memory,
        name: facts.hostname.clone(),
        root_dir: inner.config.data_root.to_string_lossy().into_owned(),
        server_version: inner.config.version.clone(),
        security_options,
        registry_mirrors: inner.config.registry_mirrors.clone(),
        insecure_registries: inner.config.insecure_registries.clone(),
        ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
            .is_ok_and(|text| text.trim() == "1"),
        oom_kill_disable: features.oom_kill_disable,
        cpu_shares: features.cpu_shares,
        cpu_cfs: features.cpu_quota,
        memory_limit: features.memory,
        pids_limit: features.pids,
        cpu_set: features.cpuset,
        blkio_weight: features.blkio_weight,
        fds: count("/proc/self/fd"),
        tasks: count("/proc/self/task"),
        event_listeners: inner.events.listeners(),
        live_restore: true,
        warnings,
    }
}

/// The file system beneath the data root, by its magic number.
fn backing(path: &std::path::Path) -> String {
    let magic = rustix::fs::statfs(path).map_or(0, |stat| u64::try_from(stat.f_type).unwrap_or(0));
    match magic {
        0xEF53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        _ => "<unknown>",
    }
    .to_owned()
}

/// What `version` says.
pub(crate) fn version(inner: &Inner) -> VersionInfo {
    VersionInfo {
        version: inner.config.version.clone(),
        git_commit: inner.config.git_commit.clone(),
        build_time: String::new(),
        kernel_version: inner.facts.kernel.clone(),
        os: "linux".to_owned(),
        arch: kekkai_types::Platform::host().architecture,
        keeper: inner.keeper_build.clone(),
    }
}
