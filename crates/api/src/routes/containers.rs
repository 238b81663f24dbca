//! Operations on one container that need no body types of their own, and prune.

use std::sync::Arc;

use ::http::StatusCode;
use kekkai_engine::model::{ChangeKind, Filters, RemoveOptions, StopOptions, WaitCondition};
use serde::Serialize;

use crate::http::{ApiError, Body, Call, Reply, json_line, parse_filters};
use crate::routes::Api;

/// Starts a container.
pub(super) async fn start(api: Arc<Api>, mut call: Call, id: String) -> Result<Reply, ApiError> {
    // Old clients sent a host configuration here; dockerd takes a few bytes (`null`, `{}`) for nothing.
    if call.has_body() && call.bytes().await?.len() > 7 {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    for name in ["checkpoint", "checkpoint-dir"] {
        if call.query.nonempty(name).is_some() {
            return Err(ApiError::unsupported_field(name));
        }
    }
    api.engine().start(&id).await?;
    Ok(Reply::no_content())
}

fn stop_options(call: &Call) -> Result<StopOptions, ApiError> {
    // Clients before 1.42 could not name a signal here; the parameter meant nothing.
    let signal = call
        .query
        .nonempty("signal")
        .filter(|_| call.version.at_least(42))
        .map(str::to_owned);
    Ok(StopOptions {
        signal,
        timeout: call.query.integer("t")?,
    })
}

/// Stops a container.
pub(super) async fn stop(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    api.engine().stop(&id, stop_options(&call)?).await?;
    Ok(Reply::no_content())
}

/// Stops and starts a container.
pub(super) async fn restart(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    api.engine().restart(&id, stop_options(&call)?).await?;
    Ok(Reply::no_content())
}

/// Sends a signal.
pub(super) async fn kill(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    api.engine()
        .kill(&id, call.query.nonempty("signal"))
        .await?;
    Ok(Reply::no_content())
}

/// Freezes a container.
pub(super) async fn pause(api: Arc<Api>, id: String) -> Result<Reply, ApiError> {
    api.engine().pause(&id).await?;
    Ok(Reply::no_content())
}

/// Thaws a container.
pub(super) async fn unpause(api: Arc<Api>, id: String) -> Result<Reply, ApiError> {
    api.engine().unpause(&id).await?;
    Ok(Reply::no_content())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitError {
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WaitError>,
    status_code: i64,
}

/// Waits for a container's end. The head goes out as soon as the wait has begun, so that a client may go on to start
/// the container and miss nothing.
pub(super) async fn wait(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let handle = api.engine().wait(&id, condition).await?;
    let answer = async move {
        let answer = match handle.finished().await {
            Ok(result) => WaitAnswer {
                error: result.error.map(|message| WaitError { message }),
                status_code: result.code,
            },
            Err(error) => WaitAnswer {
                error: Some(WaitError {
                    message: error.to_string(),
                }),
                status_code: -1,
            },
        };
        json_line(&answer).unwrap_or_default()
    };
    Ok(Reply::body("application/json", Body::later(answer)))
}

/// Removes a container.
pub(super) async fn remove(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let options = RemoveOptions {
        force: call.query.bool("force"),
        volumes: call.query.bool("v"),
        link: call.query.bool("link"),
    };
    api.engine().remove(&id, options).await?;
    Ok(Reply::no_content())
}

/// Gives a container another name.
pub(super) async fn rename(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let Some(name) = call.query.nonempty("name") else {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    };
    api.engine().rename(&id, name).await?;
    Ok(Reply::no_content())
}

/// Height and width of a terminal, as `resize` wants them.
pub(super) fn terminal_size(call: &Call) -> Result<(u16, u16), ApiError> {
    let side = |name: &str, word: &str| {
        let text = call.query.get(name);
        text.parse::<u32>()
            .map_err(|_| {
                ApiError::invalid(format!("invalid resize {word} {text:?}: invalid syntax"))
            })?
            .try_into()
            .map_err(|_| {
                ApiError::invalid(format!(
                    "invalid resize {word} {text:?}: value out of range"
                ))
            })
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

/// Tells a container's terminal its size.
pub(super) async fn resize(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let (rows, columns) = terminal_size(&call)?;
    api.engine().resize(&id, rows, columns).await?;
    Ok(Reply::status(StatusCode::OK))
}

/// Lists a container's processes.
pub(super) async fn top(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        processes: Vec<Vec<String>>,
        titles: Vec<String>,
    }
    let result = api.engine().top(&id, call.query.get("ps_args")).await?;
    Reply::json(&Answer {
        processes: result.processes,
        titles: result.titles,
    })
}

/// Lists what differs from the image.
pub(super) async fn changes(api: Arc<Api>, id: String) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Line {
        path: String,
        kind: u8,
    }
    let changes = api.engine().changes(&id).await?;
    let lines: Vec<Line> = changes
        .into_iter()
        .map(|change| Line {
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
            path: change.path,
        })
        .collect();
    // Go's empty list is null here.
    Reply::json(&Some(lines).filter(|lines| !lines.is_empty()))
}

/// Not there yet; an unknown container is told first, as clients expect.
pub(super) async fn stats(api: Arc<Api>, id: String) -> Result<Reply, ApiError> {
    api.engine().resolve(&id)?;
    Err(ApiError::not_implemented("container statistics"))
}

/// Not there yet.
pub(super) async fn export(api: Arc<Api>, id: String) -> Result<Reply, ApiError> {
    api.engine().resolve(&id)?;
    Err(ApiError::not_implemented("exporting a container"))
}

/// Removes all containers that do not run.
pub(super) async fn prune(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        containers_deleted: Option<Vec<String>>,
        space_reclaimed: u64,
    }
    let filters = Filters(parse_filters(call.query.get("filters"))?);
    let report = api.engine().prune_containers(filters).await?;
    Reply::json(&Answer {
        containers_deleted: Some(report.deleted).filter(|deleted| !deleted.is_empty()),
        space_reclaimed: report.space_reclaimed,
    })
}
