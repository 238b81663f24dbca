//! Views of containers, and Docker's filters over them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kekkai_types::{Digest, PortKey, Timestamp};

use crate::EngineError;
use crate::container::Container;
use crate::create::saga::plan_files;
use crate::inner::Inner;
use crate::model::{
    BoundPort, ContainerPaths, ContainerSize, ContainerView, EndpointView, Filters, ListContainers,
    MountKind, NetworkSettingsView, Status,
};

/// One moment of a container.
pub(crate) fn view(inner: &Inner, container: &Container) -> ContainerView {
    let shared = container.lock();
    let spec = Arc::clone(&shared.spec);
    let state = shared.state_view();
    let endpoint = shared.endpoint.clone();
    let mut view = ContainerView {
        id: container.id,
        name: Arc::clone(&shared.name),
        created: container.created,
        restart_count: shared.history.count,
        network: NetworkSettingsView::default(),
        paths: ContainerPaths::default(),
        exec_ids: shared.exec_ids.clone(),
        size: None,
        state,
        spec,
    };
    drop(shared);
    view.exec_ids.retain(|id| {
        inner
            .directory
            .exec(*id)
            .is_some_and(|session| session.is_alive())
    });
    view.network = network(inner, &view, endpoint.as_deref());
    view
}

fn network(
    inner: &Inner,
    view: &ContainerView,
    endpoint: Option<&kekkai_network::EndpointRecord>,
) -> NetworkSettingsView {
    let spec = &view.spec;
    let mode = spec.host.network_mode.as_str();
    let mut settings = NetworkSettingsView::default();
    if mode.starts_with("container:") {
        return settings;
    }
    let running = view.state.pid != 0;
    if running {
        settings.sandbox_id = view.id.to_string();
        settings.sandbox_key = format!("/proc/{}/ns/net", view.state.pid);
        for port in spec
            .config
            .exposed_ports
            .iter()
            .chain(spec.host.port_bindings.keys())
        {
            settings.ports.entry(*port).or_default();
        }
    }
    let mut shown = EndpointView::default();
    if let Some(record) = endpoint.filter(|_| running) {
        for port in &record.ports {
            let bound = BoundPort {
                host_ip: IpAddr::V4(port.host_ip),
                host_port: port.host_port,
            };
            settings
                .ports
                .entry(port.container)
                .or_default()
                .push(bound);
        }
        shown.endpoint_id = record.endpoint.to_string();
        shown.network_id = record.network.to_string();
        shown.ip_address = record.address.to_string();
        shown.prefix_len = record.prefix_len;
        shown.gateway = record.gateway.to_string();
        shown.mac_address = record.mac.to_string();
    } else if running
        && let Some((id, _)) = inner
            .network
            .as_ref()
            .and_then(|network| network.resolve(mode).ok())
    {
        shown.network_id = id.to_string();
    }
    shown.requested = spec.endpoints.get(mode).cloned();
    settings.endpoints.insert(mode.to_owned(), shown);
    settings
}

/// Adds what only inspect shows: host paths.
pub(crate) fn add_paths(inner: &Inner, view: &mut ContainerView) {
    let files = plan_files(inner, view.id, &view.spec);
    for (inside, path) in files.etc {
        match inside.as_str() {
            "/etc/hostname" => view.paths.hostname = path,
            "/etc/hosts" => view.paths.hosts = path,
            _ => view.paths.resolv_conf = path,
        }
    }
    if view.spec.host.log.driver == "json-file"
        && let Ok(config) = inner.log_config(view.id, &view.name, &view.spec)
    {
        view.paths.log = config.path.to_string_lossy().into_owned();
    }
    "overlay2".clone_into(&mut view.paths.driver);
    if let Ok(mount) = inner.snapshotter.mounts(&view.id.to_string()) {
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let lower: Vec<String> = mount.lower.iter().map(|path| text(path)).collect();
        view.paths.graph_driver = BTreeMap::from([
            ("ID".to_owned(), view.id.to_string()),
            ("LowerDir".to_owned(), lower.join(":")),
            ("UpperDir".to_owned(), text(&mount.upper)),
            ("WorkDir".to_owned(), text(&mount.work)),
            ("MergedDir".to_owned(), String::new()),
        ]);
    }
}

/// Measures a container. Blocks.
pub(crate) fn size(inner: &Inner, view: &ContainerView) -> ContainerSize {
    let writable = inner
        .snapshotter
        .usage(&view.id.to_string())
        .map_or(0, |usage| usage.bytes);
    let image = inner
        .images
        .by_id(&view.spec.image_id)
        .map_or(0, |image| image.size);
    ContainerSize {
        writable,
        root_fs: writable + image,
    }
}

const KEYS: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "task",
    "volume",
];

/// A parsed list filter.
struct ListFilter<'a> {
    filters: &'a Filters,
    statuses: Vec<Status>,
    exited: Vec<i32>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Option<Vec<Digest>>,
    names: Vec<regex::Regex>,
    publish: Vec<PortRange>,
    expose: Vec<PortRange>,
}

/// Ports of one protocol.
type PortRange = (u16, u16, kekkai_types::Protocol);

fn invalid<T>(text: String) -> Result<T, EngineError> {
    Err(EngineError::Invalid(text))
}

fn ports(key: &str, values: &[String]) -> Result<Vec<PortRange>, EngineError> {
    values
        .iter()
        .map(|value| {
            let bad = || {
                EngineError::Invalid(format!(
                    "error while looking up for {key} {value}: invalid port or range"
                ))
            };
            let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            Ok((
                low.parse().map_err(|_| bad())?,
                high.parse().map_err(|_| bad())?,
                protocol.parse().map_err(|_| bad())?,
            ))
        })
        .collect()
}

fn status(word: &str) -> Option<Status> {
    [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ]
    .into_iter()
    .find(|status| status.as_str() == word)
}

impl<'a> ListFilter<'a> {
    fn new(inner: &Inner, filters: &'a Filters) -> Result<Self, EngineError> {
        if let Some(key) = filters.0.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return invalid(format!("invalid filter '{key}'"));
        }
        let mut statuses = Vec::new();
        for word in filters.get("status") {
            match status(word) {
                Some(found) => statuses.push(found),
                None => {
                    return invalid(format!(
                        "invalid filter 'status={word}': invalid value for state ({word}): must be one of created, running, paused, restarting, removing, exited, dead"
                    ));
                }
            }
        }
        let mut exited = Vec::new();
        for word in filters.get("exited") {
            exited.push(word.parse().map_err(|_| {
                EngineError::Invalid(format!(
                    "invalid filter 'exited={word}': strconv.Atoi: parsing \"{word}\": invalid syntax"
                ))
            })?);
        }
        for word in filters.get("health") {
            if !matches!(word.as_str(), "none" | "starting" | "healthy" | "unhealthy") {
                return invalid(format!(
                    "invalid filter 'health={word}': invalid value for health ({word}): must be one of none, starting, healthy, unhealthy"
                ));
            }
        }
        for word in filters.get("is-task") {
            if !matches!(word.as_str(), "true" | "1" | "false" | "0") {
                return invalid(format!("invalid filter 'is-task=[{word}]'"));
            }
        }
        let created = |key: &str| -> Result<Option<Timestamp>, EngineError> {
            filters
                .get(key)
                .last()
                .map(|name| Ok(inner.directory.find(name)?.created))
                .transpose()
        };
        let ancestors = (!filters.get("ancestor").is_empty()).then(|| {
            filters
                .get("ancestor")
                .iter()
                .filter_map(|name| inner.images.resolve(name).ok())
                .map(|image| image.id.clone())
                .collect()
        });
        // What is no expression matches nothing, as in dockerd.
        let names = filters
            .get("name")
            .iter()
            .filter_map(|text| regex::Regex::new(text).ok())
            .collect();
        Ok(Self {
            statuses,
            exited,
            before: created("before")?,
            since: created("since")?,
            ancestors,
            names,
            publish: ports("publish", filters.get("publish"))?,
            expose: ports("expose", filters.get("expose"))?,
            filters,
        })
    }

    fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        let values = self.filters.get(key);
        values.is_empty() || values.iter().any(|value| test(value))
    }

    fn matches(&self, view: &ContainerView) -> bool {
        let spec = &view.spec;
        let id = view.id.to_string();
        let slashed = format!("/{}", view.name);
        let names = self.filters.get("name").is_empty()
            || self
                .names
                .iter()
                .any(|pattern| pattern.is_match(&view.name) || pattern.is_match(&slashed));
        let labels = self
            .filters
            .get("label")
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => spec
                    .config
                    .labels
                    .get(key)
                    .is_some_and(|have| have == value),
                None => spec.config.labels.contains_key(wanted),
            });
        let has_port = |list: &[PortRange], test: &dyn Fn(&PortKey) -> bool| {
            list.is_empty()
                || list.iter().any(|(low, high, protocol)| {
                    (*low..=*high).any(|port| {
                        test(&PortKey {
                            port,
                            protocol: *protocol,
                        })
                    })
                })
        };
        let published = |key: &PortKey| {
            view.network.ports.iter().any(|(inside, bound)| {
                inside.protocol == key.protocol
                    && (!bound.is_empty() && inside.port == key.port
                        || bound.iter().any(|bound| bound.host_port == key.port))
            })
        };
        names
            && labels
            && self.any("id", |prefix| id.starts_with(prefix))
            && (self.statuses.is_empty() || self.statuses.contains(&view.state.status))
            && (self.exited.is_empty()
                || self.exited.contains(&view.state.exit_code)
                    && view.state.status == Status::Exited)
            && self.before.is_none_or(|before| view.created < before)
            && self.since.is_none_or(|since| view.created > since)
            && self
                .ancestors
                .as_ref()
                .is_none_or(|images| images.contains(&spec.image_id))
            && self.any("volume", |wanted| {
                spec.mounts.iter().any(|mount| {
                    mount.kind != MountKind::Tmpfs
                        && (mount.name.as_deref() == Some(wanted)
                            || mount.destination == wanted
                            || mount.source == wanted)
                })
            })
            && self.any("network", |wanted| {
                view.network.endpoints.iter().any(|(name, endpoint)| {
                    name == wanted
                        || !endpoint.network_id.is_empty()
                            && endpoint.network_id.starts_with(wanted)
                })
            })
            && self.any("health", |word| word == "none")
            && self.any("is-task", |word| matches!(word, "false" | "0"))
            && has_port(&self.publish, &published)
            && has_port(&self.expose, &|key| {
                spec.config.exposed_ports.contains(key) || spec.host.port_bindings.contains_key(key)
            })
    }
}

/// The containers that the request wants, newest first.
pub(crate) fn list(
    inner: &Inner,
    request: &ListContainers,
) -> Result<Vec<ContainerView>, EngineError> {
    let filter = ListFilter::new(inner, &request.filters)?;
    let all = request.all
        || request.limit.is_some()
        || !filter.statuses.is_empty()
        || !filter.exited.is_empty()
        || filter.before.is_some()
        || filter.since.is_some();
    let mut views: Vec<ContainerView> = inner
        .directory
        .all()
        .iter()
        .filter(|container| all || container.lock().state_view().running())
        .map(|container| view(inner, container))
        .filter(|view| filter.matches(view))
        .collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.created));
    if let Some(limit) = request.limit {
        views.truncate(limit);
    }
    Ok(views)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(status("paused"), Some(Status::Paused));
        assert_eq!(status("x"), None);
        assert_eq!(
            ports("expose", &["80-82/udp".into()]).unwrap(),
            [(80, 82, kekkai_types::Protocol::Udp)]
        );
        assert!(ports("expose", &["x".into()]).is_err());
    }
}
