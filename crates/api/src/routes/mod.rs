//! The table of routes, and what is common to all answers.
//!
//! What must stay true: every route is found here by its path; a handler lives in the file of its resource.

mod absent;
mod archive;
mod attach;
mod containers;
mod create;
mod events;
mod exec;
mod images;
mod info;
mod inspect;
mod list;
mod networks;
mod pull;
#[cfg(test)]
mod shapes;
mod system;
mod volumes;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use ::http::header::{HeaderName, HeaderValue};
use ::http::{Method, StatusCode};
use kekkai_engine::Engine;
use tokio::sync::mpsc;

use crate::http::{ApiError, Call, MAXIMUM, MINIMUM, Reply};

/// What the daemon tells the API about itself.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Version of this engine.
    pub version: String,
    /// Which build this is; the CLI compares it with its own.
    pub build_id: String,
    /// Whether the daemon logs at debug level, for `info`.
    pub debug: bool,
    /// Where output waits for slow clients; on a disk.
    pub spill_directory: PathBuf,
    /// Told when a client asks to stop the whole system.
    pub stop_system: mpsc::Sender<()>,
}

/// The engine and what else the routes need.
#[derive(Debug)]
pub struct Api {
    engine: Engine,
    settings: ApiSettings,
    common_headers: Vec<(HeaderName, HeaderValue)>,
}

type Handled = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>>;

impl Api {
    /// Puts the API in front of `engine`.
    #[must_use]
    pub fn new(engine: Engine, settings: ApiSettings) -> Self {
        let header = |name: &'static str, value: &str| {
            let value =
                HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""));
            (HeaderName::from_static(name), value)
        };
        let common_headers = vec![
            header("api-version", &MAXIMUM.to_string()),
            header("docker-experimental", "false"),
            header("ostype", "linux"),
            header("server", &format!("Kekkai/{} (linux)", settings.version)),
            header("kekkai-build", &settings.build_id),
        ];
        Self {
            engine,
            settings,
            common_headers,
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn settings(&self) -> &ApiSettings {
        &self.settings
    }
}

/// Answers one request.
pub(crate) async fn answer(api: Arc<Api>, call: Call) -> Reply {
    let head_only = call.method == Method::HEAD;
    let (method, path) = (call.method.clone(), call.path.join("/"));
    let outcome = if call.version > MAXIMUM {
        Err(ApiError::invalid(format!(
            "client version {} is too new. Maximum supported API version is {MAXIMUM}",
            call.version
        )))
    } else if call.version < MINIMUM {
        // Clients this old expect plain text.
        let words = format!(
            "client version {} is too old. Minimum supported API version is {MINIMUM}, please upgrade your client to a newer version",
            call.version
        );
        Ok(Reply::text(StatusCode::BAD_REQUEST, words))
    } else {
        route(Arc::clone(&api), call).await
    };
    let reply = outcome.unwrap_or_else(|error| {
        tracing::debug!(%method, path, %error, class = %error.class, "a request failed");
        Reply::error(&error)
    });
    finish(&api, reply, head_only)
}

/// Adds the headers that every answer has, and takes the body off the answer to a HEAD.
fn finish(api: &Api, reply: Reply, head_only: bool) -> Reply {
    let Reply::Response(mut response) = reply else {
        return reply;
    };
    let headers = response.headers_mut();
    for (name, value) in &api.common_headers {
        headers.insert(name, value.clone());
    }
    if head_only {
        if let Some(length) = response.body().len() {
            response
                .headers_mut()
                .insert(::http::header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = crate::http::Body::empty();
    }
    Reply::Response(response)
}

fn route(api: Arc<Api>, call: Call) -> Handled {
    let method = call.method.as_str().to_owned();
    let path = call.path.clone();
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match (method.as_str(), parts.as_slice()) {
        ("OPTIONS", _) => Box::pin(async { Ok(Reply::status(StatusCode::OK)) }),
        ("GET" | "HEAD", ["_ping"]) => Box::pin(system::ping(call)),
        ("GET", ["version"]) => Box::pin(system::version(api)),
        ("GET", ["info"]) => Box::pin(info::info(api)),
        ("POST", ["auth"]) => Box::pin(system::auth(api, call)),
        ("GET", ["system", "df"]) => Box::pin(system::disk_usage(api, call)),
        ("GET", ["events"]) => Box::pin(events::events(api, call)),
        ("POST", ["kekkai", "v1", "system", "stop"]) => Box::pin(system::stop(api)),
        (_, ["containers", ..]) => container_route(api, call, &method, &parts),
        (_, ["exec", id, action]) => exec_route(api, call, (&method, action), id),
        (_, ["images", ..]) => image_route(api, call, &method, &parts),
        (_, ["volumes", ..]) => volume_route(api, call, &method, &parts),
        (_, ["networks", ..]) => network_route(api, call, &method, &parts),
        _ => {
            let answer = absent::answer(&method, &parts);
            Box::pin(async { answer })
        }
    }
}

fn failed(error: ApiError) -> Handled {
    Box::pin(async { Err(error) })
}

fn container_route(api: Arc<Api>, call: Call, method: &str, parts: &[&str]) -> Handled {
    match (method, parts) {
        ("GET", [_, "json"]) => Box::pin(list::list(api, call)),
        ("POST", [_, "create"]) => Box::pin(create::create(api, call)),
        ("POST", [_, "prune"]) => Box::pin(containers::prune(api, call)),
        ("DELETE", [_, id]) => Box::pin(containers::remove(api, call, (*id).to_owned())),
        (_, [_, id, action]) => one_container_route(api, call, (method, action), (*id).to_owned()),
        ("GET", [_, _, "attach", "ws"]) => {
            failed(ApiError::not_implemented("attaching by websocket"))
        }
        _ => failed(ApiError::page_not_found()),
    }
}

fn one_container_route(api: Arc<Api>, call: Call, what: (&str, &str), id: String) -> Handled {
    match what {
        ("GET", "json") => Box::pin(inspect::inspect(api, call, id)),
        ("GET", "top") => Box::pin(containers::top(api, call, id)),
        ("GET", "logs") => Box::pin(attach::logs(api, call, id)),
        ("GET", "changes") => Box::pin(containers::changes(api, id)),
        ("GET", "stats") => Box::pin(containers::stats(api, id)),
        ("GET", "export") => Box::pin(containers::export(api, id)),
        ("POST", "start") => Box::pin(containers::start(api, call, id)),
        ("POST", "stop") => Box::pin(containers::stop(api, call, id)),
        ("POST", "restart") => Box::pin(containers::restart(api, call, id)),
        ("POST", "kill") => Box::pin(containers::kill(api, call, id)),
        ("POST", "pause") => Box::pin(containers::pause(api, id)),
        ("POST", "unpause") => Box::pin(containers::unpause(api, id)),
        ("POST", "wait") => Box::pin(containers::wait(api, call, id)),
        ("POST", "rename") => Box::pin(containers::rename(api, call, id)),
        ("POST", "resize") => Box::pin(containers::resize(api, call, id)),
        ("POST", "update") => Box::pin(create::update(api, call, id)),
        ("POST", "attach") => Box::pin(attach::attach(api, call, id)),
        ("POST", "exec") => Box::pin(exec::create(api, call, id)),
        ("GET", "archive") => Box::pin(archive::get(api, call, id)),
        ("HEAD", "archive") => Box::pin(archive::head(api, call, id)),
        ("PUT", "archive") => Box::pin(archive::put(api, call, id)),
        ("GET", "checkpoints") | ("POST", "checkpoints") => {
            failed(ApiError::not_implemented("checkpointing"))
        }
        _ => failed(ApiError::page_not_found()),
    }
}

fn exec_route(api: Arc<Api>, call: Call, what: (&str, &str), id: &str) -> Handled {
    let id = id.to_owned();
    match what {
        ("GET", "json") => Box::pin(exec::inspect(api, id)),
        ("POST", "start") => Box::pin(exec::start(api, call, id)),
        ("POST", "resize") => Box::pin(exec::resize(api, call, id)),
        _ => failed(ApiError::page_not_found()),
    }
}

fn image_route(api: Arc<Api>, call: Call, method: &str, parts: &[&str]) -> Handled {
    // The name of an image has slashes of its own.
    let name = |from_end: usize| {
        parts
            .get(1..parts.len() - from_end)
            .unwrap_or_default()
            .join("/")
    };
    match (method, parts) {
        ("GET", [_, "json"]) => Box::pin(images::list(api, call)),
        ("POST", [_, "create"]) => Box::pin(pull::pull(api, call)),
        ("POST", [_, "load"]) => Box::pin(pull::load(api, call)),
        ("POST", [_, "prune"]) => Box::pin(images::prune(api, call)),
        ("GET", [_, "search"]) => failed(ApiError::not_implemented("searching a registry")),
        ("GET", [_, "get"] | [_, _, .., "get"]) => {
            failed(ApiError::not_implemented("saving images"))
        }
        ("GET", [_, _, .., "json"]) => Box::pin(images::inspect(api, call, name(1))),
        ("GET", [_, _, .., "history"]) => Box::pin(images::history(api, name(1))),
        ("POST", [_, _, .., "tag"]) => Box::pin(images::tag(api, call, name(1))),
        ("POST", [_, _, .., "push"]) => failed(ApiError::not_implemented("pushing images")),
        ("DELETE", [_, _, ..]) => Box::pin(images::remove(api, call, name(0))),
        _ => failed(ApiError::page_not_found()),
    }
}

fn volume_route(api: Arc<Api>, call: Call, method: &str, parts: &[&str]) -> Handled {
    match (method, parts) {
        ("GET", [_]) => Box::pin(volumes::list(api, call)),
        ("POST", [_, "create"]) => Box::pin(volumes::create(api, call)),
        ("POST", [_, "prune"]) => Box::pin(volumes::prune(api, call)),
        ("GET", [_, name]) => Box::pin(volumes::inspect(api, (*name).to_owned())),
        ("DELETE", [_, name]) => Box::pin(volumes::remove(api, call, (*name).to_owned())),
        ("PUT", [_, _]) => failed(ApiError::new(
            kekkai_types::ErrorClass::Unavailable,
            absent::NOT_A_MANAGER,
        )),
        _ => failed(ApiError::page_not_found()),
    }
}

fn network_route(api: Arc<Api>, call: Call, method: &str, parts: &[&str]) -> Handled {
    match (method, parts) {
        ("GET", [_]) => Box::pin(networks::list(api, call)),
        ("GET", [_, name]) => Box::pin(networks::inspect(api, call, (*name).to_owned())),
        ("DELETE", [_, name]) => Box::pin(networks::remove(api, (*name).to_owned())),
        ("POST", [_, "create"]) => failed(ApiError::not_implemented("creating networks")),
        ("POST", [_, "prune"]) => Box::pin(networks::prune()),
        ("POST", [_, _, "connect"]) => failed(ApiError::not_implemented(
            "connecting a container to a network",
        )),
        ("POST", [_, _, "disconnect"]) => failed(ApiError::not_implemented(
            "disconnecting a container from a network",
        )),
        _ => failed(ApiError::page_not_found()),
    }
}
