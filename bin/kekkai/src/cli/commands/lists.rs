//! Lists: `ps`, `images`, `history`, `volume ls`, `network ls`.

use std::borrow::Cow;

use kekkai_client::{Query, Request};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::{items, number, text, texts};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, filter, int, switch, text as text_flag};
use crate::cli::format::{Listing, Wanted, filters, join_labels, label_method};
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
    let answer = cli
        .client()
        .await?
        .send(Request::get("/containers/json").query(query))
        .await?
        .bytes()
        .await?;
    let full = matches.on("no-trunc");
    let mut listing = PS;
    if matches.on("size") {
        listing.table = "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}\\t{{.Size}}";
    }
    let wanted = listing.wanted(&format);
    let lines: Vec<Line<'_>> =
        serde_json::from_slice(&answer).map_err(|error| Failure::new(error.to_string()))?;
    let rows: Vec<Value> = lines.iter().map(|line| line.row(full, &wanted)).collect();
    output::print(&listing.render(&format, &rows)?)?;
    Ok(0)
}

/// A container of a list, read without what the format may not need: a thousand of them should take no time.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    names: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    image: Cow<'a, str>,
    #[serde(borrow, default, rename = "ImageID")]
    image_id: Cow<'a, str>,
    #[serde(borrow, default)]
    command: Cow<'a, str>,
    #[serde(default)]
    created: i64,
    #[serde(borrow, default)]
    state: Cow<'a, str>,
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(default)]
    size_rw: i64,
    #[serde(default)]
    size_root_fs: i64,
    #[serde(borrow, default)]
    ports: Option<&'a RawValue>,
    #[serde(borrow, default)]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default)]
    mounts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    network_settings: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_manifest_descriptor: Option<&'a RawValue>,
}

/// A part of a line, read now.
fn part(raw: Option<&RawValue>) -> Json {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or(Json::Null)
}

/// A container of a list as `ps` shows it.
pub(crate) fn container_row(container: &Json) -> Result<Value, Failure> {
    let text = container.to_string();
    let line: Line<'_> =
        serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
    Ok(line.row(false, &Wanted::everything()))
}

impl Line<'_> {
    fn row(&self, full: bool, wanted: &Wanted) -> Value {
        let mut fields: Vec<(&'static str, Value)> = Vec::with_capacity(8);
        let mut put = |name: &'static str, value: &dyn Fn() -> Value| {
            if wanted.has(name) {
                fields.push((name, value()));
            }
        };
        put("ID", &|| {
            Value::text(if full {
                self.id.to_string()
            } else {
                units::short_id(&self.id)
            })
        });
        put("Names", &|| Value::text(self.names_cell(full)));
        put("Image", &|| Value::text(self.image_cell(full)));
        put("Command", &|| {
            let command = if full {
                self.command.to_string()
            } else {
                units::ellipsis(&self.command, 20)
            };
            Value::text(quoted(&command))
        });
        put("CreatedAt", &|| {
            Value::text(units::local_time(self.created))
        });
        put("RunningFor", &|| Value::text(units::ago(self.created)));
        put("Ports", &|| {
            Value::text(super::session::displayed_ports(items(&part(self.ports))))
        });
        put("State", &|| Value::text(&self.state));
        put("Status", &|| Value::text(&self.status));
        put("Size", &|| Value::text(self.size_cell()));
        put("Labels", &|| Value::text(join_labels(&part(self.labels))));
        put("Label", &|| label_method(&part(self.labels)));
        put("Mounts", &|| Value::text(self.mounts_cell(full)));
        put("LocalVolumes", &|| {
            let mounts = part(self.mounts);
            let local = items(&mounts)
                .iter()
                .filter(|mount| text(mount, "Driver") == "local");
            Value::text(local.count().to_string())
        });
        put("Networks", &|| {
            let settings = part(self.network_settings);
            let networks = settings["Networks"].as_object().into_iter().flatten();
            let names: Vec<&str> = networks.map(|(name, _)| name.as_str()).collect();
            Value::text(names.join(","))
        });
        put("Platform", &|| {
            crate::cli::template::from_json(&part(self.image_manifest_descriptor)["platform"])
        });
        PS.row(fields)
    }

    fn names_cell(&self, full: bool) -> String {
        let names = self.names.iter().flatten();
        let bare = names.map(|name| name.strip_prefix('/').unwrap_or(name));
        bare.filter(|name| full || !name.contains('/'))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn mounts_cell(&self, full: bool) -> String {
        let mounts = part(self.mounts);
        let names = items(&mounts)
            .iter()
            .map(|mount| match text(mount, "Name") {
                "" => text(mount, "Source"),
                name => name,
            });
        let shown = names.map(|name| {
            if full {
                name.to_owned()
            } else {
                units::ellipsis(name, 15)
            }
        });
        shown.collect::<Vec<_>>().join(",")
    }

    fn size_cell(&self) -> String {
        let own = units::size3(self.size_rw);
        if self.size_root_fs > 0 {
            format!("{own} (virtual {})", units::size3(self.size_root_fs))
        } else {
            own
        }
    }

    fn image_cell(&self, full: bool) -> String {
        if self.image.is_empty() {
            return String::from("<no image>");
        }
        if full {
            return self.image.to_string();
        }
        let short = units::short_id(&self.image_id);
        if short == units::short_id(&self.image) {
            return short;
        }
        // A digest is left out where the name has no tag to lose.
        match self.image.split_once('@') {
            Some((name, _)) => name.to_owned(),
            None => self.image.to_string(),
        }
    }
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
