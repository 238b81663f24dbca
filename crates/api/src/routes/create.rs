//! `POST /containers/create` and `POST /containers/{id}/update`.

use std::sync::Arc;

use ::http::StatusCode;
use kekkai_engine::model::UpdateContainer;
use serde::Serialize;

use crate::http::{ApiError, Call, Reply};
use crate::routes::Api;
use crate::wire::{read_create, read_resources, read_restart_policy};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    warnings: Vec<String>,
}

/// Creates a container.
pub(super) async fn create(api: Arc<Api>, mut call: Call) -> Result<Reply, ApiError> {
    let mut warnings = Vec::new();
    let body = call.required_object().await?;
    let request = read_create(body, &call.query, call.version, &mut warnings)?;
    let created = api.engine().create(request).await?;
    warnings.extend(created.warnings);
    Reply::json_with(
        StatusCode::CREATED,
        &Created {
            id: created.id.to_string(),
            warnings,
        },
    )
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
    warnings.extend(
        api.engine()
            .update(
                &id,
                UpdateContainer {
                    resources,
                    restart_policy,
                },
            )
            .await?,
    );
    Reply::json(&Answer {
        warnings: Some(warnings).filter(|warnings| !warnings.is_empty()),
    })
}
