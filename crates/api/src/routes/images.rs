//! Images: list, inspect, history, tag, remove, prune.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::StatusCode;
use kekkai_engine::model::{Event, EventKind};
use kekkai_image::{Image, ListFilter, RemoveOptions, RemovedItem};
use kekkai_types::{ErrorClass, Reference, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::http::{ApiError, ApiVersion, Call, Reply, parse_filters};
use crate::routes::Api;

/// Tells the engine's listeners what happened to an image.
pub(super) fn publish(api: &Api, action: &str, actor: &str, attributes: Vec<(String, String)>) {
    api.engine().publish(Event {
        kind: EventKind::Image,
        action: action.into(),
        actor: actor.into(),
        attributes: attributes.into(),
        time: Timestamp::now(),
    });
}

/// An image in a list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageLine<'a> {
    pub(super) containers: i64,
    created: i64,
    id: String,
    labels: Option<&'a BTreeMap<String, String>>,
    parent_id: &'static str,
    repo_digests: &'a [String],
    repo_tags: Vec<&'a str>,
    pub(super) shared_size: i64,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
}

impl<'a> ImageLine<'a> {
    pub(super) fn new(image: &'a Image, version: ApiVersion) -> Self {
        let mut repo_tags: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
        if repo_tags.is_empty() && version.before(43) {
            repo_tags.push("<none>:<none>");
        }
        Self {
            containers: -1,
            created: image.created.unwrap_or(Timestamp::ZERO).unix_seconds(),
            id: image.id.to_string(),
            labels: Some(&image.config.config.labels).filter(|labels| !labels.is_empty()),
            parent_id: "",
            repo_digests: &image.repo_digests,
            repo_tags,
            shared_size: -1,
            size: image.size,
            virtual_size: version.before(44).then_some(image.size),
        }
    }
}

/// Reads the filters of lists and prunes. A name in `before` or `since` must exist.
fn list_filter(api: &Api, call: &Call, allowed: &[&str]) -> Result<ListFilter, ApiError> {
    let mut filter = ListFilter::default();
    let now = Timestamp::now();
    for (key, values) in parse_filters(call.query.get("filters"))? {
        if !allowed.contains(&key.as_str()) {
            return Err(ApiError::invalid(format!("invalid filter '{key}'")));
        }
        let invalid = |value: &str| ApiError::invalid(format!("invalid filter '{key}=[{value}]'"));
        let made = |value: &str| Ok::<_, ApiError>(api.engine().images().resolve(value)?.created);
        for value in &values {
            match key.as_str() {
                "reference" => filter.references.push(value.clone()),
                "label" => filter.labels.push(value.clone()),
                "dangling" => {
                    filter.dangling = match value.as_str() {
                        "true" | "1" => Some(true),
                        "false" | "0" => Some(false),
                        _ => return Err(invalid(value)),
                    };
                }
                "before" => filter.before = earliest(filter.before, made(value)?),
                "since" => filter.since = made(value)?.max(filter.since),
                "until" => {
                    let until =
                        Timestamp::parse_relative(value, now).map_err(|_| invalid(value))?;
                    filter.until = earliest(filter.until, Some(until));
                }
                _ => return Err(ApiError::unsupported_field(&format!("filter {key}"))),
            }
        }
    }
    // Old clients' own parameter.
    if let Some(reference) = call
        .query
        .nonempty("filter")
        .filter(|_| call.version.before(41))
    {
        filter.references.push(reference.to_owned());
    }
    Ok(filter)
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    [a, b].into_iter().flatten().min()
}

/// Lists images, newest first.
pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    for name in ["shared-size", "manifests"] {
        if call.query.bool(name) {
            return Err(ApiError::unsupported_field(name));
        }
    }
    let filter = list_filter(
        &api,
        &call,
        &["dangling", "label", "before", "since", "until", "reference"],
    )?;
    let images = api.engine().images().list(&filter);
    Reply::json(
        &images
            .iter()
            .map(|image| ImageLine::new(image, call.version))
            .collect::<Vec<_>>(),
    )
}

/// Tells about an image.
pub(super) async fn inspect(api: Arc<Api>, call: Call, name: String) -> Result<Reply, ApiError> {
    for parameter in ["manifests", "platform"] {
        if !matches!(call.query.get(parameter), "" | "0" | "false") {
            return Err(ApiError::unsupported_field(parameter));
        }
    }
    let image = api.engine().images().resolve(&name)?;
    let config = &*image.config;
    let mut out = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": comment(&image),
        "Created": config.created.clone().unwrap_or_else(|| Timestamp::ZERO.to_string()),
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Architecture": config.architecture,
    });
    let Value::Object(fields) = &mut out else {
        return Err(ApiError::internal("an image is no object"));
    };
    if !config.variant.is_empty() {
        fields.insert("Variant".to_owned(), json!(config.variant));
    }
    fields.insert("Os".to_owned(), json!(config.os));
    if !config.os_version.is_empty() {
        fields.insert("OsVersion".to_owned(), json!(config.os_version));
    }
    fields.insert("Size".to_owned(), json!(image.size));
    if call.version.before(44) {
        fields.insert("VirtualSize".to_owned(), json!(image.size));
    }
    fields.insert(
        "GraphDriver".to_owned(),
        json!({"Data": {}, "Name": "overlay2"}),
    );
    fields.insert(
        "RootFS".to_owned(),
        json!({"Type": "layers", "Layers": image.layers}),
    );
    fields.insert(
        "Metadata".to_owned(),
        json!({"LastTagTime": image.last_tagged.to_string()}),
    );
    fields.insert(
        "Config".to_owned(),
        Value::Object(image_config(&image, call.version)?),
    );
    Reply::json(&out)
}

/// The comment of the newest step, as dockerd tells it.
fn comment(image: &Image) -> &str {
    let config = &*image.config;
    if config.comment.is_empty() {
        config
            .history
            .last()
            .map_or("", |step| step.comment.as_str())
    } else {
        &config.comment
    }
}

/// An image's `Config`: what it sets, and the fields that dockerd always writes. Sorted, as there.
fn image_config(image: &Image, version: ApiVersion) -> Result<Map<String, Value>, ApiError> {
    let set = serde_json::to_value(&image.config.config)
        .map_err(|error| ApiError::internal(format!("image: {error}")))?;
    let mut fields: BTreeMap<String, Value> = BTreeMap::new();
    for (name, value) in [("User", json!("")), ("WorkingDir", json!(""))] {
        fields.insert(name.to_owned(), value);
    }
    for name in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
        fields.insert(name.to_owned(), Value::Null);
    }
    if version.before(50) {
        for name in [
            "AttachStderr",
            "AttachStdin",
            "AttachStdout",
            "OpenStdin",
            "StdinOnce",
            "Tty",
        ] {
            fields.insert(name.to_owned(), Value::Bool(false));
        }
        for name in ["Domainname", "Hostname", "Image"] {
            fields.insert(name.to_owned(), json!(""));
        }
    }
    if let Value::Object(set) = set {
        fields.extend(set);
    }
    Ok(fields.into_iter().collect())
}

/// Tells how an image came to be.
pub(super) async fn history(api: Arc<Api>, name: String) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Line {
        comment: String,
        created: i64,
        created_by: String,
        id: String,
        size: u64,
        tags: Option<Vec<String>>,
    }
    let lines: Vec<Line> = api
        .engine()
        .images()
        .history(&name)?
        .into_iter()
        .map(|line| Line {
            comment: line.comment,
            created: line.created.unwrap_or(Timestamp::ZERO).unix_seconds(),
            created_by: line.created_by,
            id: line.id,
            size: line.size,
            tags: Some(line.tags).filter(|tags| !tags.is_empty()),
        })
        .collect();
    Reply::json(&lines)
}

/// Gives an image a further name.
pub(super) async fn tag(api: Arc<Api>, call: Call, name: String) -> Result<Reply, ApiError> {
    let image = api.engine().images().resolve(&name)?;
    let target = target_reference(call.query.get("repo"), call.query.get("tag"))?;
    api.engine().images().tag(&name, &target).await?;
    publish(
        &api,
        "tag",
        &image.id.to_string(),
        vec![("name".to_owned(), target.familiar())],
    );
    Ok(Reply::status(StatusCode::CREATED))
}

/// A repository and a tag as a reference.
fn target_reference(repository: &str, tag: &str) -> Result<Reference, ApiError> {
    let reference = Reference::parse_normalized(repository)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    if reference.digest().is_some() {
        return Err(ApiError::invalid(
            "refusing to create a tag with a digest reference",
        ));
    }
    if tag.is_empty() {
        return Ok(reference.with_default_tag());
    }
    reference
        .with_tag(tag)
        .map_err(|error| ApiError::invalid(error.to_string()))
}

#[derive(Serialize)]
enum RemovedOut {
    Untagged(String),
    Deleted(String),
}

fn removed_out(items: Vec<RemovedItem>) -> Vec<RemovedOut> {
    items
        .into_iter()
        .map(|item| match item {
            RemovedItem::Untagged(name) => RemovedOut::Untagged(name),
            RemovedItem::Deleted(id) => RemovedOut::Deleted(id),
        })
        .collect()
}

/// Tells of removals: a name gone, an image gone.
fn publish_removals(api: &Api, image: &str, items: &[RemovedItem]) {
    for item in items {
        let name = |id: &str| vec![("name".to_owned(), id.to_owned())];
        match item {
            RemovedItem::Untagged(_) => publish(api, "untag", image, name(image)),
            RemovedItem::Deleted(id) if id == image => publish(api, "delete", id, name(id)),
            RemovedItem::Deleted(_) => {}
        }
    }
}

/// Untags or deletes an image.
pub(super) async fn remove(api: Arc<Api>, call: Call, name: String) -> Result<Reply, ApiError> {
    if name.trim().is_empty() {
        return Err(ApiError::new(
            ErrorClass::InvalidArgument,
            "image name cannot be blank",
        ));
    }
    if call.query.nonempty("platforms").is_some() {
        return Err(ApiError::unsupported_field("platforms"));
    }
    let image = api.engine().images().resolve(&name)?.id.to_string();
    let options = RemoveOptions {
        force: call.query.bool("force"),
    };
    let users = Arc::clone(&api);
    let items = api
        .engine()
        .images()
        .remove(&name, options, &move |id| users.engine().image_users(id))
        .await?;
    publish_removals(&api, &image, &items);
    Reply::json(&removed_out(items))
}

/// Removes images that no container uses.
pub(super) async fn prune(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        images_deleted: Option<Vec<RemovedOut>>,
        space_reclaimed: u64,
    }
    let mut filter = list_filter(&api, &call, &["dangling", "label", "label!", "until"])?;
    let all = filter.dangling.take() == Some(false);
    let users = Arc::clone(&api);
    let report = api
        .engine()
        .images()
        .prune(all, &filter, &move |id| users.engine().image_users(id))
        .await?;
    for item in &report.removed {
        if let RemovedItem::Deleted(id) = item {
            publish(&api, "delete", id, vec![("name".to_owned(), id.clone())]);
        }
    }
    Reply::json(&Answer {
        images_deleted: Some(removed_out(report.removed)).filter(|items| !items.is_empty()),
        space_reclaimed: report.space_reclaimed,
    })
}
