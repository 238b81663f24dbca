//! `events`.

use kekkai_client::{Query, Request};
use serde_json::Value as Json;

use super::pull::JsonLines;
use super::text;
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, filter, text as text_flag};
use crate::cli::format::filters;
use crate::cli::template::{self, Mode, Value, from_json};
use crate::cli::{Cli, Failure, output, units};

pub(crate) const FLAGS: &[Flag] = &[
    filter("Show only what meets these conditions").short('f'),
    text_flag(
        "format",
        "Format of the output:\n'json':             one JSON object a line\n'TEMPLATE':         a Go template, used for each event",
    ),
    text_flag("since", "Show events from this time on"),
    text_flag("until", "Show events up to this time"),
];

pub(crate) async fn events(cli: &Cli, matches: &Matches) -> Outcome {
    let format = match matches.text("format") {
        "json" => "{{json .}}",
        other => other,
    };
    let template = (!format.is_empty())
        .then(|| template::parse(format))
        .transpose()
        .map_err(|why| Failure::new(format!("Error parsing format: {why}")).with_code(64))?;
    let moment = |flag: &str| units::timestamp_argument(matches.text(flag)).map_err(Failure::new);
    let query = Query::new()
        .with_text("since", &moment("since")?)
        .with_text("until", &moment("until")?)
        .with_text("filters", &filters(&matches.list("filter")));
    let reply = cli
        .client()
        .await?
        .send(Request::get("/events").query(query))
        .await?;
    let mut messages = JsonLines::new(reply);
    while let Some(event) = messages.next().await? {
        let line = match &template {
            None => plain(&event),
            Some(template) => template::execute(template, &event_value(&event), Mode::Values)
                .map_err(|(_, why)| Failure::new(why))?,
        };
        output::line(&line)?;
    }
    Ok(0)
}

/// `TIME TYPE ACTION ID (name=value, …)`.
fn plain(event: &Json) -> String {
    let nanos = event["timeNano"].as_i64().unwrap_or(0);
    let nanos = if nanos == 0 {
        event["time"].as_i64().unwrap_or(0) * 1_000_000_000
    } else {
        nanos
    };
    let mut attributes: Vec<String> = event["Actor"]["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    attributes.sort();
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        format!(" ({})", attributes.join(", "))
    };
    format!(
        "{} {} {} {}{attributes}",
        units::local_rfc3339_nanos(nanos),
        text(event, "Type"),
        text(event, "Action"),
        text(&event["Actor"], "ID"),
    )
}

/// The event under its Go field names as well: `.Time`, `.ID`, `.Status`, `.From`, `.Scope`.
fn event_value(event: &Json) -> Value {
    let Value::Struct(structure) = from_json(event) else {
        return Value::Nil;
    };
    let mut fields = structure.fields.clone();
    for (go, json) in [
        ("Status", "status"),
        ("ID", "id"),
        ("From", "from"),
        ("Scope", "scope"),
        ("Time", "time"),
        ("TimeNano", "timeNano"),
    ] {
        let found = structure
            .fields
            .iter()
            .find(|(name, _)| name == json)
            .map(|(_, value)| value.clone());
        fields.retain(|(name, _)| name != go);
        fields.push((
            go.to_owned(),
            Value::alias(found.unwrap_or_else(|| Value::text(""))),
        ));
    }
    Value::structure("*events.Message", fields)
}
