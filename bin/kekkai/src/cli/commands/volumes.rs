//! `volume create` and `volume rm`.

use kekkai_client::{Query, Request};
use serde_json::{Map, Value as Json, json};

use super::text;
use crate::cli::command::Outcome;
use crate::cli::failure::join;
use crate::cli::flags::{Flag, Matches, list, many, switch, text as text_flag};
use crate::cli::{Cli, Failure, output};

pub(crate) const CREATE_FLAGS: &[Flag] = &[
    text_flag("driver", "Driver of the volume")
        .short('d')
        .default("\"local\""),
    text_flag("name", "Name of the volume").hidden(),
    list("label", "Set labels"),
    many("opt", "map", "Options of the driver")
        .short('o')
        .default("map[]"),
];
pub(crate) const RM_FLAGS: &[Flag] =
    &[switch("force", "Do not complain about volumes that do not exist").short('f')];

pub(crate) async fn create(cli: &Cli, matches: &Matches) -> Outcome {
    let mut name = matches.text("name").to_owned();
    if let Some(argument) = matches.args.first() {
        if !name.is_empty() {
            return Err(Failure::new(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            ));
        }
        name.clone_from(argument);
    }
    let pairs = |flag: &str| -> Map<String, Json> {
        let split = |pair: &&str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), Json::String(value.to_owned()))
        };
        matches.list(flag).iter().map(split).collect()
    };
    let mut body = Map::new();
    body.insert("Driver".to_owned(), json!(matches.text("driver")));
    if !name.is_empty() {
        body.insert("Name".to_owned(), json!(name));
    }
    for (flag, key) in [("label", "Labels"), ("opt", "DriverOpts")] {
        let map = pairs(flag);
        if !map.is_empty() {
            body.insert(key.to_owned(), Json::Object(map));
        }
    }
    let request = Request::post("/volumes/create").json(&body)?;
    let answer: Json = cli.client().await?.send(request).await?.json().await?;
    output::line(text(&answer, "Name"))?;
    Ok(0)
}

pub(crate) async fn remove(cli: &Cli, matches: &Matches) -> Outcome {
    let client = cli.client().await?;
    let query = Query::new().with_flag("force", matches.on("force"));
    let mut failures = Vec::new();
    for name in &matches.args {
        let removed = async {
            client
                .send(
                    Request::delete("/volumes/")
                        .segment(name, "")
                        .query(query.clone()),
                )
                .await?
                .done()
                .await
        };
        match removed.await {
            Ok(()) => output::line(name)?,
            Err(error) => failures.push(error.to_string()),
        }
    }
    join(&failures)
}
