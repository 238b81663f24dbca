//! `GET /containers/json`: one line per container.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kekkai_engine::model::{
    ContainerView, Filters, ListContainers, NetworkSettingsView, StateView, Status,
};
use kekkai_types::{Digest, Timestamp};
use serde::Serialize;

use crate::http::{ApiError, Call, Reply, parse_filters};
use crate::routes::Api;
use crate::routes::inspect::{MountPointOut, mount_points};
use crate::wire::EndpointOut;

/// Lists containers, newest first.
pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    let request = ListContainers {
        all: call.query.bool("all"),
        limit: call
            .query
            .integer("limit")?
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| *limit > 0),
        size: call.query.bool("size"),
        filters: Filters(parse_filters(call.query.get("filters"))?),
    };
    let views = api.engine().list(request).await?;
    Reply::json(&lines(&api, &views))
}

fn lines<'a>(api: &Api, views: &'a [ContainerView]) -> Vec<Line<'a>> {
    let now = Timestamp::now();
    let mut names = ImageNames::new(api);
    views
        .iter()
        .map(|view| {
            let image = names.shown(&view.spec.config.image, &view.spec.image_id);
            Line::new(view, now, image)
        })
        .collect()
}

/// The same lines as a part of another answer.
pub(super) fn lines_value(
    api: &Api,
    views: &[ContainerView],
) -> Result<serde_json::Value, ApiError> {
    serde_json::to_value(lines(api, views))
        .map_err(|error| ApiError::internal(format!("encoding an answer: {error}")))
}

/// What an image's name means now, asked once per name.
struct ImageNames<'a> {
    api: &'a Api,
    known: HashMap<String, Option<Digest>>,
}

impl<'a> ImageNames<'a> {
    fn new(api: &'a Api) -> Self {
        Self {
            api,
            known: HashMap::new(),
        }
    }

    /// The name under which a container's image is listed: as the user wrote it while that still means the same.
    fn shown(&mut self, written: &str, id: &Digest) -> String {
        if !self.known.contains_key(written) {
            let meant = self
                .api
                .engine()
                .images()
                .resolve(written)
                .ok()
                .map(|image| image.id.clone());
            self.known.insert(written.to_owned(), meant);
        }
        match self.known.get(written) {
            Some(Some(meant)) if meant == id => written.to_owned(),
            _ => id.to_string(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Line<'a> {
    id: String,
    names: [String; 1],
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Vec<PortOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: HostLine<'a>,
    network_settings: NetworkLine<'a>,
    mounts: Vec<MountPointOut<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostLine<'a> {
    network_mode: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkLine<'a> {
    networks: BTreeMap<&'a str, EndpointOut<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PortOut {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_port: Option<u16>,
    r#type: &'static str,
}

impl<'a> Line<'a> {
    pub(super) fn new(view: &'a ContainerView, now: Timestamp, image: String) -> Self {
        let spec = &*view.spec;
        Self {
            id: view.id.to_string(),
            names: [format!("/{}", view.name)],
            image,
            image_id: spec.image_id.to_string(),
            command: command_line(&spec.path, &spec.args),
            created: view.created.unix_seconds(),
            ports: ports(&view.network),
            size_rw: view
                .size
                .map(|size| size.writable)
                .filter(|size| *size != 0),
            size_root_fs: view.size.map(|size| size.root_fs),
            labels: &spec.config.labels,
            state: view.state.status.as_str(),
            status: status_line(&view.state, now),
            host_config: HostLine {
                network_mode: &spec.host.network_mode,
                annotations: &spec.host.annotations,
            },
            network_settings: NetworkLine {
                networks: view
                    .network
                    .endpoints
                    .iter()
                    .map(|(name, endpoint)| (name.as_str(), EndpointOut::from(endpoint)))
                    .collect(),
            },
            mounts: mount_points(spec),
        }
    }
}

/// A command for people: arguments with a space in quotes.
fn command_line(path: &str, args: &[String]) -> String {
    let mut line = path.to_owned();
    for arg in args {
        line.push(' ');
        if arg.contains(' ') {
            line.push('\'');
            line.push_str(arg);
            line.push('\'');
        } else {
            line.push_str(arg);
        }
    }
    line
}

fn ports(network: &NetworkSettingsView) -> Vec<PortOut> {
    let mut ports = Vec::new();
    for (key, bound) in &network.ports {
        let line = |ip, public_port| PortOut {
            ip,
            private_port: key.port,
            public_port,
            r#type: key.protocol.as_str(),
        };
        if bound.is_empty() {
            ports.push(line(None, None));
        }
        ports.extend(
            bound
                .iter()
                .map(|port| line(Some(port.host_ip.to_string()), Some(port.host_port))),
        );
    }
    ports
}

/// The state for people, as dockerd words it.
fn status_line(state: &StateView, now: Timestamp) -> String {
    let since =
        |at: Option<Timestamp>| human_duration(at.map_or(Duration::ZERO, |at| now.since(at)));
    let exit = state.exit_code;
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}", since(state.started_at)),
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => format!("Restarting ({exit}) {} ago", since(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        // A start that failed has an end but no beginning.
        Status::Exited if state.finished_at.is_none() => String::new(),
        Status::Exited => format!("Exited ({exit}) {} ago", since(state.finished_at)),
    }
}

/// A duration in one unit, as `docker ps` shows it.
fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (172_000, "2 days"),
            (86_400 * 14, "2 weeks"),
            (86_400 * 61, "2 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(
                human_duration(Duration::from_secs(seconds)),
                words,
                "{seconds}"
            );
        }
    }

    #[test]
    fn commands_for_people() {
        assert_eq!(
            command_line("sh", &["-c".to_owned(), "echo hi".to_owned()]),
            "sh -c 'echo hi'"
        );
    }
}
