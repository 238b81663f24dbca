//! Volumes: create, list, inspect, remove, prune.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::StatusCode;
use kekkai_engine::model::{Filters, VolumeCreate, VolumeView};
use serde::Serialize;

use crate::http::{ApiError, Call, Reply, parse_filters};
use crate::routes::Api;

/// A volume in an answer.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VolumeOut<'a> {
    created_at: String,
    driver: &'a str,
    labels: Option<&'a BTreeMap<String, String>>,
    mountpoint: String,
    name: &'a str,
    options: Option<&'a BTreeMap<String, String>>,
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_data: Option<UsageOut>,
}

/// How much a volume holds and who uses it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UsageOut {
    ref_count: i64,
    size: i64,
}

impl<'a> From<&'a VolumeView> for VolumeOut<'a> {
    fn from(view: &'a VolumeView) -> Self {
        let some = |map: &'a BTreeMap<String, String>| Some(map).filter(|map| !map.is_empty());
        // dockerd tells whole seconds here.
        let created =
            kekkai_types::Timestamp::from_unix_nanos(view.created.unix_seconds() * 1_000_000_000);
        Self {
            created_at: created.to_string(),
            driver: &view.driver,
            labels: some(&view.labels),
            mountpoint: view.mountpoint.display().to_string(),
            name: &view.name,
            options: some(&view.options),
            scope: "local",
            usage_data: None,
        }
    }
}

impl VolumeOut<'_> {
    /// The same with its usage, as `system df` tells it. The size is not computed (−1).
    pub(super) fn with_usage(view: &VolumeView) -> VolumeOut<'_> {
        let ref_count = i64::try_from(view.references).unwrap_or(i64::MAX);
        VolumeOut {
            usage_data: Some(UsageOut {
                ref_count,
                size: -1,
            }),
            ..VolumeOut::from(view)
        }
    }
}

/// Makes a volume, or gives the one that is there under this name.
pub(super) async fn create(api: Arc<Api>, mut call: Call) -> Result<Reply, ApiError> {
    let mut body = call.object().await?;
    body.refuse("ClusterVolumeSpec")?;
    let request = VolumeCreate {
        name: body.string("Name")?,
        driver: body.string("Driver")?,
        driver_options: body.string_map("DriverOpts")?,
        labels: body.string_map("Labels")?,
    };
    let view = api.engine().volume_create(request).await?;
    Reply::json_with(StatusCode::CREATED, &VolumeOut::from(&view))
}

/// Lists volumes.
pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        volumes: Vec<VolumeOut<'a>>,
        warnings: Option<()>,
    }
    let filters = Filters(parse_filters(call.query.get("filters"))?);
    let views = api.engine().volume_list(filters).await?;
    Reply::json(&Answer {
        volumes: views.iter().map(VolumeOut::from).collect(),
        warnings: None,
    })
}

/// Tells about a volume.
pub(super) async fn inspect(api: Arc<Api>, name: String) -> Result<Reply, ApiError> {
    let view = api.engine().volume_inspect(&name).await?;
    Reply::json(&VolumeOut::from(&view))
}

/// Removes a volume that nothing uses.
pub(super) async fn remove(api: Arc<Api>, call: Call, name: String) -> Result<Reply, ApiError> {
    api.engine()
        .volume_remove(&name, call.query.bool("force"))
        .await?;
    Ok(Reply::no_content())
}

/// Removes the volumes that nothing uses: the anonymous ones, or with `all=true` the named ones too.
pub(super) async fn prune(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        volumes_deleted: Vec<String>,
        space_reclaimed: u64,
    }
    let mut filters = parse_filters(call.query.get("filters"))?;
    if call.version.before(42) {
        // Older clients mean all of them.
        filters.insert("all".to_owned(), vec!["true".to_owned()]);
    }
    let report = api.engine().volume_prune(Filters(filters)).await?;
    Reply::json(&Answer {
        volumes_deleted: report.deleted,
        space_reclaimed: report.space_reclaimed,
    })
}
