//! The engine itself: ping, version, login, disk usage, stop.

use std::sync::Arc;

use ::http::StatusCode;
use ::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use kekkai_engine::model::{Filters, ListContainers};
use kekkai_image::ListFilter;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::{ApiError, Call, MAXIMUM, MINIMUM, Reply};
use crate::routes::Api;
use crate::routes::images::ImageLine;
use crate::routes::pull::read_credentials;
use crate::routes::volumes::VolumeOut;

/// Says that the daemon is there; clients read version and features from the headers.
pub(super) async fn ping(_call: Call) -> Result<Reply, ApiError> {
    Ok(Reply::text(StatusCode::OK, "OK")
        .header(
            CACHE_CONTROL,
            HeaderValue::from_static("no-cache, no-store, must-revalidate"),
        )
        .header(PRAGMA, HeaderValue::from_static("no-cache"))
        .header(
            HeaderName::from_static("swarm"),
            HeaderValue::from_static("inactive"),
        ))
}

/// Tells versions.
pub(super) async fn version(api: Arc<Api>) -> Result<Reply, ApiError> {
    let info = api.engine().version().await?;
    let (keeper_version, keeper_build) = &info.keeper;
    Reply::json(&json!({
        "Platform": {"Name": "Kekkai"},
        "Components": [
            {
                "Name": "Engine",
                "Version": info.version,
                "Details": {
                    "ApiVersion": MAXIMUM.to_string(),
                    "Arch": info.arch,
                    "BuildTime": info.build_time,
                    "Experimental": "false",
                    "GitCommit": info.git_commit,
                    "KernelVersion": info.kernel_version,
                    "MinAPIVersion": MINIMUM.to_string(),
                    "Os": info.os,
                },
            },
            {"Name": "kekkai-keeper", "Version": keeper_version, "Details": {"GitCommit": keeper_build}},
        ],
        "Version": info.version,
        "ApiVersion": MAXIMUM.to_string(),
        "MinAPIVersion": MINIMUM.to_string(),
        "GitCommit": info.git_commit,
        "GoVersion": "",
        "Os": info.os,
        "Arch": info.arch,
        "KernelVersion": info.kernel_version,
        "BuildTime": info.build_time,
    }))
}

/// Asks a registry whether it takes some credentials.
pub(super) async fn auth(api: Arc<Api>, mut call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        status: String,
        identity_token: String,
    }
    let mut body = call.object().await?;
    let credentials = read_credentials(&mut body)?;
    let outcome = api.engine().images().check_login(&credentials).await?;
    Reply::json(&Answer {
        status: outcome.status,
        identity_token: outcome.identity_token.expose().to_owned(),
    })
}

/// Tells how much disk is used: images and containers with their sizes; volumes without.
pub(super) async fn disk_usage(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    let kinds: Vec<&str> = call.query.all("type").collect();
    if let Some(unknown) = kinds
        .iter()
        .find(|kind| !matches!(**kind, "container" | "image" | "volume" | "build-cache"))
    {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wanted = |kind: &str| kinds.is_empty() || kinds.contains(&kind);
    let mut out = serde_json::Map::new();
    if wanted("image") {
        let images = api.engine().images().list(&ListFilter::default());
        let mut layers = std::collections::BTreeMap::new();
        for image in &images {
            layers.extend(image.layers.iter().zip(&image.layer_sizes));
        }
        out.insert(
            "LayersSize".to_owned(),
            json!(layers.values().copied().sum::<u64>()),
        );
        let mut lines: Vec<ImageLine<'_>> = images
            .iter()
            .map(|image| ImageLine::new(image, call.version))
            .collect();
        for (line, image) in lines.iter_mut().zip(&images) {
            line.containers =
                i64::try_from(api.engine().image_users(&image.id).len()).unwrap_or(-1);
            line.shared_size = 0;
        }
        out.insert("Images".to_owned(), encode(&lines)?);
    }
    if wanted("container") {
        let request = ListContainers {
            all: true,
            size: true,
            ..ListContainers::default()
        };
        let views = api.engine().list(request).await?;
        out.insert(
            "Containers".to_owned(),
            super::list::lines_value(&api, &views)?,
        );
    }
    if wanted("volume") {
        let views = api.engine().volume_list(Filters::default()).await?;
        out.insert(
            "Volumes".to_owned(),
            encode(&views.iter().map(VolumeOut::with_usage).collect::<Vec<_>>())?,
        );
    }
    if wanted("build-cache") {
        out.insert("BuildCache".to_owned(), json!([]));
    }
    Reply::json(&out)
}

fn encode(value: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(value)
        .map_err(|error| ApiError::internal(format!("encoding an answer: {error}")))
}

/// Stops every container and then the daemon (our own endpoint, for `kekkai system stop`).
pub(super) async fn stop(api: Arc<Api>) -> Result<Reply, ApiError> {
    api.engine().stop_all().await?;
    // The daemon ends after the answer; a second request finds it ending already.
    let _ = api.settings().stop_system.try_send(());
    Ok(Reply::no_content())
}
