//! `POST /containers/create` and `POST /containers/{id}/update`.

use std::sync::Arc;

use ::http::StatusCode;
use kekkai_engine::model::{CreateContainer, UpdateContainer};
use kekkai_types::Platform;
use serde::Serialize;

use crate::http::{ApiError, Call, Reply};
use crate::routes::Api;
use crate::wire::{read_config, read_endpoints, read_host, read_resources, read_restart_policy};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    warnings: Vec<String>,
}

/// Creates a container.
pub(super) async fn create(api: Arc<Api>, mut call: Call) -> Result<Reply, ApiError> {
    let mut warnings = Vec::new();
    let request = read_create(&mut call, &mut warnings).await?;
    let created = api.engine().create(request).await?;
    warnings.extend(created.warnings);
    Reply::json_with(StatusCode::CREATED, &Created { id: created.id.to_string(), warnings })
}

async fn read_create(call: &mut Call, warnings: &mut Vec<String>) -> Result<CreateContainer, ApiError> {
    let mut body = call.required_object().await?;
    if body.is_empty() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    }
    let platform = call
        .query
        .nonempty("platform")
        .filter(|_| call.version.at_least(41))
        .map(str::parse::<Platform>)
        .transpose()
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let mut config = read_config(&mut body)?;
    if call.version.before(44)
        && let Some(health) = &mut config.healthcheck
    {
        health.start_interval = 0;
    }
    let host = match body.object("HostConfig")? {
        Some(fields) => read_host(fields, call.version, warnings)?,
        None => read_host(crate::http::Fields::empty(), call.version, warnings)?,
    };
    let endpoints = read_endpoints(&mut body, &host.network_mode, warnings)?;
    body.finish(warnings);
    let name = call.query.nonempty("name").map(str::to_owned);
    Ok(CreateContainer { name, platform, config, host, endpoints })
}

/// Changes limits and the restart policy of a container.
pub(super) async fn update(api: Arc<Api>, mut call: Call, id: String) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        warnings: Option<Vec<String>>,
    }
    let mut body = call.required_object().await?;
    let resources = read_resources(&mut body)?;
    let restart_policy = read_restart_policy(&mut body)?;
    let mut warnings = Vec::new();
    body.finish(&mut warnings);
    warnings.extend(api.engine().update(&id, UpdateContainer { resources, restart_policy }).await?);
    Reply::json(&Answer { warnings: Some(warnings).filter(|warnings| !warnings.is_empty()) })
}
