//! `GET /events`: what happens, as a stream of JSON lines.

use std::sync::Arc;

use futures_util::stream;
use kekkai_engine::model::{Event, EventKind, EventsRequest, Filters};
use kekkai_types::Timestamp;
use serde::Serialize;
use serde::ser::SerializeMap;

use crate::http::{ApiError, Body, Call, Reply, json_line, parse_filters};
use crate::routes::Api;

pub(super) async fn events(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    let moment = |name: &str| {
        call.query
            .nonempty(name)
            .map(|text| Timestamp::parse_relative(text, Timestamp::now()))
            .transpose()
            .map_err(|error| ApiError::invalid(error.to_string()))
    };
    let (since, until) = (moment("since")?, moment("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.get("since"),
            call.query.get("until")
        )));
    }
    let filters = Filters(parse_filters(call.query.get("filters"))?);
    let receiver = api
        .engine()
        .events(EventsRequest {
            since,
            until,
            filters,
        })
        .await?;
    let lines = stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        let line = json_line(&Line(&event)).map_err(std::io::Error::other);
        Some((line, receiver))
    });
    Ok(Reply::body("application/json", Body::stream(lines)))
}

/// An event as the wire wants it: the old fields first, for containers and images only.
struct Line<'a>(&'a Event);

#[derive(Serialize)]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Attributes")]
    attributes: Attributes<'a>,
}

struct Attributes<'a>(&'a [(String, String)]);

impl Serialize for Attributes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Go writes maps sorted.
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort();
        serializer.collect_map(sorted.into_iter().map(|(key, value)| (key, value)))
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut map = serializer.serialize_map(None)?;
        if matches!(event.kind, EventKind::Container | EventKind::Image) {
            map.serialize_entry("status", &*event.action)?;
            if !event.actor.is_empty() {
                map.serialize_entry("id", &*event.actor)?;
            }
        }
        if event.kind == EventKind::Container
            && let Some((_, image)) = event.attributes.iter().find(|(key, _)| key == "image")
        {
            map.serialize_entry("from", image)?;
        }
        map.serialize_entry("Type", event.kind.as_str())?;
        map.serialize_entry("Action", &*event.action)?;
        map.serialize_entry(
            "Actor",
            &Actor {
                id: &event.actor,
                attributes: Attributes(&event.attributes),
            },
        )?;
        map.serialize_entry("scope", "local")?;
        map.serialize_entry("time", &event.time.unix_seconds())?;
        map.serialize_entry("timeNano", &event.time.unix_nanos())?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_dockers() {
        let event = Event {
            kind: EventKind::Container,
            action: "die".into(),
            actor: "abc".into(),
            attributes: vec![
                ("name".to_owned(), "web".to_owned()),
                ("image".to_owned(), "alpine".to_owned()),
            ]
            .into(),
            time: Timestamp::from_unix_nanos(1_795_237_737_146_739_743),
        };
        assert_eq!(
            serde_json::to_string(&Line(&event)).unwrap(),
            r#"{"status":"die","id":"abc","from":"alpine","Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"image":"alpine","name":"web"}},"scope":"local","time":1795237737,"timeNano":1795237737146739743}"#
        );
    }
}
