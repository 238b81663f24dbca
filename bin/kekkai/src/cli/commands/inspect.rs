//! `inspect` of containers, images, volumes and networks: the daemon's JSON, indented, or a template over it.

use kekkai_client::{Client, ClientError, Query, Request};
use serde::Serialize;
use serde_json::Value as Json;

use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::{Cli, Failure, format, output, template};

const TEMPLATE_HELP: &str = "Format of the output:\n'json':             one JSON document\n'TEMPLATE':         a Go template over the object";

pub(crate) const FLAGS: &[Flag] = &[
    text_flag("format", TEMPLATE_HELP).short('f'),
    switch("size", "Add sizes of the files, for containers").short('s'),
    text_flag("type", "Look only for objects of this kind"),
];
pub(crate) const CONTAINER_FLAGS: &[Flag] = &[
    text_flag("format", TEMPLATE_HELP).short('f'),
    switch("size", "Add sizes of the files").short('s'),
];
pub(crate) const IMAGE_FLAGS: &[Flag] = &[
    text_flag("format", TEMPLATE_HELP).short('f'),
    text_flag(
        "platform",
        "Show the image of this platform (os[/arch[/variant]])",
    ),
];
pub(crate) const VOLUME_FLAGS: &[Flag] = &[text_flag("format", TEMPLATE_HELP).short('f')];
pub(crate) const NETWORK_FLAGS: &[Flag] = &[
    text_flag("format", TEMPLATE_HELP).short('f'),
    switch("verbose", "Add what helps to find faults").short('v'),
];

/// What may be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

const ALL: &[Kind] = &[Kind::Container, Kind::Image, Kind::Network, Kind::Volume];
const TYPES: &[&str] = &[
    "config",
    "container",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "task",
    "volume",
];

fn request(kind: Kind, name: &str, matches: &Matches) -> Request {
    let size = matches.has("size") && matches.on("size");
    match kind {
        Kind::Container => Request::get("/containers/")
            .segment(name, "/json")
            .query(Query::new().with_flag("size", size)),
        Kind::Image => Request::get("/images/").image(name, "/json"),
        Kind::Network => {
            let verbose = matches.has("verbose") && matches.on("verbose");
            let query = if verbose {
                Query::new().with("verbose", "true")
            } else {
                Query::new()
            };
            Request::get("/networks/").segment(name, "").query(query)
        }
        Kind::Volume => Request::get("/volumes/").segment(name, ""),
    }
}

async fn ask(
    client: &Client,
    kind: Kind,
    name: &str,
    matches: &Matches,
) -> Result<Json, ClientError> {
    client
        .send(request(kind, name, matches))
        .await?
        .json()
        .await
}

pub(crate) async fn any(cli: &Cli, matches: &Matches) -> Outcome {
    let kinds: &[Kind] = match matches.text("type") {
        "" if matches.is_set("type") => {
            return Err(Failure::new(
                "type is empty: must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"",
            ));
        }
        "" => ALL,
        "container" => &[Kind::Container],
        "image" => &[Kind::Image],
        "network" => &[Kind::Network],
        "volume" => &[Kind::Volume],
        other if TYPES.contains(&other) => {
            return Err(Failure::new(format!(
                "kekkai has no objects of type {other:?}"
            )));
        }
        other => {
            let known: Vec<String> = TYPES.iter().map(|kind| format!("{kind:?}")).collect();
            return Err(Failure::new(format!(
                "unknown type: {other:?}: must be one of {}",
                known.join(", ")
            )));
        }
    };
    inspect(cli, matches, kinds).await
}

pub(crate) async fn container(cli: &Cli, matches: &Matches) -> Outcome {
    inspect(cli, matches, &[Kind::Container]).await
}

pub(crate) async fn image(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.is_set("platform") {
        return Err(Failure::new(
            "kekkai has no --platform for image inspect yet",
        ));
    }
    inspect(cli, matches, &[Kind::Image]).await
}

pub(crate) async fn volume(cli: &Cli, matches: &Matches) -> Outcome {
    inspect(cli, matches, &[Kind::Volume]).await
}

pub(crate) async fn network(cli: &Cli, matches: &Matches) -> Outcome {
    inspect(cli, matches, &[Kind::Network]).await
}

/// The first kind that knows `name`.
async fn find(
    client: &Client,
    kinds: &[Kind],
    name: &str,
    matches: &Matches,
) -> Result<Json, String> {
    for kind in kinds {
        match ask(client, *kind, name, matches).await {
            Ok(found) => return Ok(found),
            Err(error)
                if kinds.len() > 1 && (error.is_not_found() || error.status() == Some(400)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("Error: No such object: {name}"))
}

async fn inspect(cli: &Cli, matches: &Matches, kinds: &[Kind]) -> Outcome {
    let wanted = matches.text("format");
    let template_source = match wanted {
        "" => None,
        "json" => Some("{{json .}}"),
        other => Some(other),
    };
    let parsed = template_source.map(template::parse).transpose();
    let parsed = parsed
        .map_err(|why| Failure::new(format!("template parsing error: {why}")).with_code(64))?;
    let client = cli.client().await?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &matches.args {
        match find(client, kinds, name, matches).await {
            Ok(object) => found.push(object),
            Err(message) => failures.push(message),
        }
    }
    if let (Some(template), true) = (&parsed, wanted != "json") {
        let mut text = String::new();
        for object in &found {
            match template::execute(
                template,
                &template::from_json(object),
                template::Mode::Values,
            ) {
                Ok(rendered) => text.push_str(&rendered),
                Err((_, why)) => {
                    output::print(&format!("{text}\n"))?;
                    failures.insert(0, format!("template parsing error: {why}"));
                    return super::super::failure::join(&failures);
                }
            }
            text.push('\n');
        }
        if found.is_empty() {
            text.push('\n');
        }
        output::print(&text)?;
    } else if wanted == "json" {
        output::line(&serde_json::to_string(&found).unwrap_or_default())?;
    } else {
        let mut bytes = indented(&Json::Array(found));
        bytes.push(b'\n');
        output::print_bytes(&bytes)?;
    }
    super::super::failure::join(&failures)
}

/// JSON with four blanks a level.
pub(crate) fn indented(value: &Json) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(
        &mut bytes,
        serde_json::ser::PrettyFormatter::with_indent(b"    "),
    );
    // Writing to memory does not fail.
    let _ = value.serialize(&mut serializer);
    bytes
}

/// Renders one object with a template over it (used by `info` and `version`).
pub(crate) fn with_template(source: &str, value: &Json) -> Result<String, Failure> {
    format::render_object(source, &template::from_json(value))
}
