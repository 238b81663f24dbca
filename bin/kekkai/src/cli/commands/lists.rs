//! Lists: `ps`, `images`, `history`, `volume ls`, `network ls`.

use kekkai_client::{Query, Request};
use serde_json::Value as Json;

use super::{items, number, text, texts};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, filter, int, switch, text as text_flag};
use crate::cli::format::{Listing, filters, join_labels, label_method};
use crate::cli::template::Value;
use crate::cli::{Cli, Failure, output, units};

/// The words of every list's `--format`.
pub(crate) const FORMAT_HELP: &str = "Format of the output:\n'table':            columns with titles (default)\n'table TEMPLATE':   columns of your own\n'json':             one JSON object a line\n'TEMPLATE':         a Go template, used for each row";

pub(crate) const PS_FLAGS: &[Flag] = &[
    switch("all", "Show stopped containers too").short('a'),
    filter("Show only what meets these conditions").short('f'),
    text_flag("format", FORMAT_HELP),
    int("last", "Show the last n containers created, in any state")
        .short('n')
        .default("-1"),
    switch("latest", "Show the container created last, in any state").short('l'),
    switch("no-trunc", "Show everything in full length"),
    switch("quiet", "Show ids only").short('q'),
    switch("size", "Show sizes of the files").short('s'),
];
pub(crate) const IMAGES_FLAGS: &[Flag] = &[
    switch("all", "Show intermediate images too").short('a'),
    switch("digests", "Show digests"),
    filter("Show only what meets these conditions").short('f'),
    text_flag("format", FORMAT_HELP),
    switch("no-trunc", "Show everything in full length"),
    switch("quiet", "Show ids only").short('q'),
    switch("tree", "Show the platforms of each image as a tree"),
];
pub(crate) const HISTORY_FLAGS: &[Flag] = &[
    text_flag("format", FORMAT_HELP),
    switch("human", "Show sizes and times in words")
        .short('H')
        .default("true"),
    switch("no-trunc", "Show everything in full length"),
    text_flag(
        "platform",
        "Show the history of this platform's image (os[/arch[/variant]])",
    ),
    switch("quiet", "Show ids only").short('q'),
];
const PS: Listing = Listing {
    type_name: "*formatter.ContainerContext",
    table: "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}",
    titles: &[
        ("ID", "CONTAINER ID"),
        ("Names", "NAMES"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
    ],
};

/// The format of a list: the flag, the configuration's preference, `-q`.
pub(super) fn chosen_format(cli: &Cli, matches: &Matches, preference: &str, quiet: &str) -> String {
    let given = matches.text("format");
    if !given.is_empty() {
        return if matches.on("quiet") && (given == "table" || given == "json") {
            quiet.to_owned()
        } else {
            given.to_owned()
        };
    }
    if matches.on("quiet") {
        return quiet.to_owned();
    }
    if preference.is_empty() {
        String::new()
    } else {
        cli.config.text(preference).unwrap_or_default()
    }
}

pub(crate) async fn ps(cli: &Cli, matches: &Matches) -> Outcome {
    let format = chosen_format(cli, matches, "psFormat", "{{.ID}}");
    let last = if matches.on("latest") && !matches.is_set("last") {
        1
    } else {
        matches.int("last")
    };
    // Sizes are expensive, so they are asked for only where they are shown.
    let size = matches.on("size") || (!matches.is_set("size") && format.contains(".Size"));
    let query = Query::new()
        .with_flag("all", matches.on("all"))
        .with_text(
            "limit",
            &if last > 0 {
                last.to_string()
            } else {
                String::new()
            },
        )
        .with_flag("size", size)
        .with_text("filters", &filters(&matches.list("filter")));
    let answer: Json = cli
        .client()
        .await?
        .send(Request::get("/containers/json").query(query))
        .await?
        .json()
        .await?;
    let full = matches.on("no-trunc");
    let rows: Vec<Value> = items(&answer)
        .iter()
        .map(|container| container_row(container, full))
        .collect();
    let mut listing = PS;
    if matches.on("size") {
        listing.table = "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}\\t{{.Size}}";
    }
    output::print(&listing.render(&format, &rows)?)?;
    Ok(0)
}

/// A container of a list as `ps` shows it.
pub(crate) fn container_row(container: &Json, full: bool) -> Value {
    let id = text(container, "Id");
    let names = texts(&container["Names"]);
    let names = names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .filter(|name| full || !name.contains('/'));
    let command = text(container, "Command");
    let command = if full {
        command.to_owned()
    } else {
        units::ellipsis(command, 20)
    };
    let mounts: Vec<&str> = items(&container["Mounts"])
        .iter()
        .map(|mount| {
            if text(mount, "Name").is_empty() {
                text(mount, "Source")
            } else {
                text(mount, "Name")
            }
        })
        .collect();
    let mounts: Vec<String> = mounts
        .into_iter()
        .map(|name| {
            if full {
                name.to_owned()
            } else {
                units::ellipsis(name, 15)
            }
        })
        .collect();
    let local = items(&container["Mounts"])
        .iter()
        .filter(|mount| text(mount, "Driver") == "local")
        .count();
    let networks: Vec<&str> = container["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let created = number(container, "Created");
    let size = units::size3(number(container, "SizeRw"));
    let root = number(container, "SizeRootFs");
    let size = if root > 0 {
        format!("{size} (virtual {})", units::size3(root))
    } else {
        size
    };
    PS.row(vec![
        (
            "ID",
            Value::text(if full {
                id.to_owned()
            } else {
                units::short_id(id)
            }),
        ),
        ("Names", Value::text(names.collect::<Vec<_>>().join(","))),
        ("Image", Value::text(image_cell(container, full))),
        ("Command", Value::text(quoted(&command))),
        ("CreatedAt", Value::text(units::local_time(created))),
        ("RunningFor", Value::text(units::ago(created))),
        (
            "Ports",
            Value::text(super::session::displayed_ports(items(&container["Ports"]))),
        ),
        ("State", Value::text(text(container, "State"))),
        ("Status", Value::text(text(container, "Status"))),
        ("Size", Value::text(size)),
        ("Labels", Value::text(join_labels(&container["Labels"]))),
        ("Label", label_method(&container["Labels"])),
        ("Mounts", Value::text(mounts.join(","))),
        ("LocalVolumes", Value::text(local.to_string())),
        ("Networks", Value::text(networks.join(","))),
        (
            "Platform",
            crate::cli::template::from_json(&container["ImageManifestDescriptor"]["platform"]),
        ),
    ])
}

/// A Go string literal; what `strconv.Quote` prints.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn image_cell(container: &Json, full: bool) -> String {
    let image = text(container, "Image");
    if image.is_empty() {
        return String::from("<no image>");
    }
    if full {
        return image.to_owned();
    }
    let short = units::short_id(text(container, "ImageID"));
    if short == units::short_id(image) {
        return short;
    }
    // A digest is left out where the name has no tag to lose.
    match image.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => image.to_owned(),
    }
}

const IMAGES: Listing = Listing {
    type_name: "*formatter.imageContext",
    table: "{{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\\t{{.Size}}",
    titles: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
};

pub(crate) async fn images(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.on("tree") {
        return Err(Failure::new("kekkai does not have images --tree yet"));
    }
    let format = chosen_format(cli, matches, "imagesFormat", "{{.ID}}");
    let pattern = matches
        .args
        .first()
        .map(|pattern| format!("reference={pattern}"));
    let mut given = matches.list("filter");
    given.extend(pattern.as_deref());
    let query = Query::new()
        .with_flag("all", matches.on("all"))
        .with_text("filters", &filters(&given));
    let answer: Json = cli
        .client()
        .await?
        .send(Request::get("/images/json").query(query))
        .await?
        .json()
        .await?;
    let full = matches.on("no-trunc");
    let digests = matches.on("digests") || format.contains(".Digest");
    let mut rows = Vec::new();
    for image in items(&answer) {
        rows.extend(image_rows(image, digests, full));
    }
    let mut listing = IMAGES;
    if matches.on("digests") {
        listing.table = "{{.Repository}}\\t{{.Tag}}\\t{{.Digest}}\\t{{.ID}}\\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\\t{{.Size}}";
    }
    output::print(&listing.render(&format, &rows)?)?;
    Ok(0)
}

/// One row per tag; one per digest where digests are shown; one at least.
fn image_rows(image: &Json, digests: bool, full: bool) -> Vec<Value> {
    let none = "<none>";
    let tags: Vec<(&str, &str)> = texts(&image["RepoTags"])
        .into_iter()
        .filter_map(|name| name.rsplit_once(':'))
        .filter(|(repository, _)| *repository != none)
        .collect();
    let all_digests: Vec<(&str, &str)> = texts(&image["RepoDigests"])
        .into_iter()
        .filter_map(|name| name.split_once('@'))
        .filter(|(repository, _)| *repository != none)
        .collect();
    let mut rows: Vec<(&str, &str, &str)> = Vec::new();
    for (repository, tag) in &tags {
        let own: Vec<&str> = all_digests
            .iter()
            .filter(|(name, _)| name == repository)
            .map(|(_, digest)| *digest)
            .collect();
        if digests && !own.is_empty() {
            rows.extend(own.into_iter().map(|digest| (*repository, *tag, digest)));
        } else {
            rows.push((repository, tag, none));
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (repository, digest) in &all_digests {
        let has_tag = tags.iter().any(|(name, _)| name == repository);
        if has_tag || (!digests && seen.contains(repository)) {
            continue;
        }
        seen.push(repository);
        rows.push((repository, none, digest));
    }
    if rows.is_empty() {
        rows.push((none, none, none));
    }
    rows.into_iter()
        .map(|row| image_row(image, row, full))
        .collect()
}

fn image_row(image: &Json, (repository, tag, digest): (&str, &str, &str), full: bool) -> Value {
    let id = text(image, "Id");
    let created = number(image, "Created");
    let size = number(image, "Size");
    let shared = number(image, "SharedSize");
    let countable = |value: i64, shown: String| {
        if value < 0 {
            String::from("N/A")
        } else {
            shown
        }
    };
    let containers = image["Containers"].as_i64().unwrap_or(-1);
    let shared_known = if image["SharedSize"].is_null() {
        -1
    } else {
        shared
    };
    IMAGES.row(vec![
        (
            "ID",
            Value::text(if full {
                id.to_owned()
            } else {
                units::short_id(id)
            }),
        ),
        ("Repository", Value::text(repository)),
        ("Tag", Value::text(tag)),
        ("Digest", Value::text(digest)),
        (
            "CreatedSince",
            Value::text(if created <= 0 {
                String::from("N/A")
            } else {
                units::ago(created)
            }),
        ),
        ("CreatedAt", Value::text(units::local_time(created))),
        ("Size", Value::text(units::size3(size))),
        (
            "Containers",
            Value::text(countable(containers, containers.to_string())),
        ),
        ("VirtualSize", Value::text(units::size4(size))),
        (
            "SharedSize",
            Value::text(countable(shared_known, units::size4(shared))),
        ),
        (
            "UniqueSize",
            Value::text(countable(shared_known, units::size4(size - shared))),
        ),
    ])
}

/// An image as `system df -v` shows it: once, under its first name.
pub(crate) fn image_usage_row(image: &Json) -> Value {
    let none = "<none>";
    let (repository, tag) = texts(&image["RepoTags"])
        .first()
        .and_then(|name| name.rsplit_once(':'))
        .unwrap_or((none, none));
    image_row(image, (repository, tag, none), false)
}

const HISTORY: Listing = Listing {
    type_name: "*formatter.historyContext",
    table: "{{.ID}}\\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}",
    titles: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
};

pub(crate) async fn history(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.is_set("platform") {
        return Err(Failure::new("kekkai has no --platform for history yet"));
    }
    let request = Request::get("/images/").image(&matches.args[0], "/history");
    let answer: Json = cli.client().await?.send(request).await?.json().await?;
    let (full, human) = (matches.on("no-trunc"), matches.on("human"));
    let mut listing = HISTORY;
    if !human {
        listing.titles = &[
            ("ID", "IMAGE"),
            ("CreatedSince", "CREATED AT"),
            ("CreatedAt", "CREATED AT"),
            ("CreatedBy", "CREATED BY"),
            ("Size", "SIZE"),
            ("Comment", "COMMENT"),
        ];
    }
    let row = |entry: &Json| {
        let created = number(entry, "Created");
        let by = text(entry, "CreatedBy").replace('\t', " ");
        let id = text(entry, "Id");
        let when = units::local_rfc3339(created);
        let since = if created <= 0 {
            String::new()
        } else if human {
            units::ago(created)
        } else {
            when.clone()
        };
        let size = number(entry, "Size");
        HISTORY.row(vec![
            (
                "ID",
                Value::text(if full {
                    id.to_owned()
                } else {
                    units::short_id(id)
                }),
            ),
            ("CreatedSince", Value::text(since)),
            ("CreatedAt", Value::text(when)),
            (
                "CreatedBy",
                Value::text(if full { by } else { units::ellipsis(&by, 45) }),
            ),
            (
                "Size",
                Value::text(if human {
                    units::size3(size)
                } else {
                    size.to_string()
                }),
            ),
            ("Comment", Value::text(text(entry, "Comment"))),
        ])
    };
    let rows: Vec<Value> = items(&answer).iter().map(row).collect();
    let format = chosen_format(cli, matches, "", "{{.ID}}");
    output::print(&listing.render(&format, &rows)?)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(quoted("sh -c \"a\"\n"), r#""sh -c \"a\"\n""#);
    }
}
