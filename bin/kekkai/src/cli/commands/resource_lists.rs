//! Lists of volumes and networks.

use kekkai_client::{Query, Request};
use serde_json::Value as Json;

use super::lists::{FORMAT_HELP, chosen_format};
use super::{items, text};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, filter, switch, text as text_flag};
use crate::cli::format::{Listing, filters, join_labels, label_method};
use crate::cli::template::Value;
use crate::cli::{Cli, output, units};

pub(crate) const VOLUME_LS_FLAGS: &[Flag] = &[
    filter("Show only what meets these conditions, for example dangling=true").short('f'),
    text_flag("format", FORMAT_HELP),
    switch("quiet", "Show names only").short('q'),
];
pub(crate) const NETWORK_LS_FLAGS: &[Flag] = &[
    filter("Show only what meets these conditions, for example driver=bridge").short('f'),
    text_flag("format", FORMAT_HELP),
    switch("no-trunc", "Show everything in full length"),
    switch("quiet", "Show ids only").short('q'),
];

const VOLUMES: Listing = Listing {
    type_name: "*formatter.volumeContext",
    table: "{{.Driver}}\\t{{.Name}}",
    titles: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Availability", "AVAILABILITY"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
};

/// A volume as `volume ls` shows it.
pub(crate) fn volume_row(volume: &Json) -> Value {
    let usage = &volume["UsageData"];
    let known = |key: &str| usage[key].as_i64().filter(|value| *value >= 0);
    VOLUMES.row(vec![
        ("Name", Value::text(text(volume, "Name"))),
        ("Driver", Value::text(text(volume, "Driver"))),
        ("Scope", Value::text(text(volume, "Scope"))),
        ("Mountpoint", Value::text(text(volume, "Mountpoint"))),
        ("Labels", Value::text(join_labels(&volume["Labels"]))),
        ("Label", label_method(&volume["Labels"])),
        (
            "Links",
            Value::text(
                known("RefCount").map_or_else(|| String::from("N/A"), |count| count.to_string()),
            ),
        ),
        (
            "Size",
            Value::text(known("Size").map_or_else(|| String::from("N/A"), units::size4)),
        ),
        ("Availability", Value::text("N/A")),
        ("Group", Value::text("N/A")),
        ("Status", Value::text("N/A")),
    ])
}

pub(crate) async fn volumes(cli: &Cli, matches: &Matches) -> Outcome {
    let query = Query::new().with_text("filters", &filters(&matches.list("filter")));
    let answer: Json = cli
        .client()
        .await?
        .send(Request::get("/volumes").query(query))
        .await?
        .json()
        .await?;
    let mut all: Vec<&Json> = items(&answer["Volumes"]).iter().collect();
    all.sort_by_key(|object| natural(text(object, "Name")));
    let rows: Vec<Value> = all.into_iter().map(volume_row).collect();
    let format = chosen_format(cli, matches, "volumesFormat", "{{.Name}}");
    output::print(&VOLUMES.render(&format, &rows)?)?;
    Ok(0)
}

/// A key that sorts `v2` before `v10`.
fn natural(name: &str) -> Vec<(bool, usize, String)> {
    let mut parts: Vec<(bool, usize, String)> = Vec::new();
    for c in name.chars() {
        let is_text = !c.is_ascii_digit();
        match parts.last_mut() {
            Some((kind, _, part)) if *kind == is_text => part.push(c),
            _ => parts.push((is_text, 0, c.to_string())),
        }
        // A longer number is a greater one.
        if let Some((false, length, part)) = parts.last_mut() {
            *length = part.trim_start_matches('0').len();
        }
    }
    parts
}

const NETWORKS: Listing = Listing {
    type_name: "*network.networkContext",
    table: "{{.ID}}\\t{{.Name}}\\t{{.Driver}}\\t{{.Scope}}",
    titles: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
};

pub(crate) async fn networks(cli: &Cli, matches: &Matches) -> Outcome {
    let query = Query::new().with_text("filters", &filters(&matches.list("filter")));
    let answer: Json = cli
        .client()
        .await?
        .send(Request::get("/networks").query(query))
        .await?
        .json()
        .await?;
    let mut all: Vec<&Json> = items(&answer).iter().collect();
    all.sort_by_key(|object| natural(text(object, "Name")));
    let full = matches.on("no-trunc");
    let flag = |network: &Json, key: &str| {
        Value::text(network[key].as_bool().unwrap_or(false).to_string())
    };
    let row = |network: &Json| {
        let id = text(network, "Id");
        NETWORKS.row(vec![
            (
                "ID",
                Value::text(if full {
                    id.to_owned()
                } else {
                    units::short_id(id)
                }),
            ),
            ("Name", Value::text(text(network, "Name"))),
            ("Driver", Value::text(text(network, "Driver"))),
            ("Scope", Value::text(text(network, "Scope"))),
            ("IPv4", flag(network, "EnableIPv4")),
            ("IPv6", flag(network, "EnableIPv6")),
            ("Internal", flag(network, "Internal")),
            ("Labels", Value::text(join_labels(&network["Labels"]))),
            ("Label", label_method(&network["Labels"])),
            ("CreatedAt", Value::text(go_time(text(network, "Created")))),
        ])
    };
    let rows: Vec<Value> = all.into_iter().map(row).collect();
    let format = chosen_format(cli, matches, "networksFormat", "{{.ID}}");
    output::print(&NETWORKS.render(&format, &rows)?)?;
    Ok(0)
}

/// `2026-11-21 05:07:10.357745537 +0000 UTC` of an RFC 3339 time.
fn go_time(rfc3339: &str) -> String {
    let Ok(moment) = rfc3339.parse::<kekkai_types::Timestamp>() else {
        return rfc3339.to_owned();
    };
    let text = moment.to_string();
    let text = text.trim_end_matches('Z');
    format!("{} +0000 UTC", text.replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order() {
        let mut names = vec!["v10", "v2", "a", "v1", "2", "10"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["2", "10", "a", "v1", "v2", "v10"]);
    }
}
