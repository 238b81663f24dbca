//! `system df` and `system stop`.

use kekkai_client::Request;
use serde_json::Value as Json;

use super::lists::{FORMAT_HELP, container_row};
use super::resource_lists::volume_row;
use super::{items, number, text};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::format::Listing;
use crate::cli::template::Value;
use crate::cli::{Cli, Failure, output, units};

pub(crate) const DF_FLAGS: &[Flag] = &[
    text_flag("format", FORMAT_HELP),
    switch("verbose", "Show every object").short('v'),
];

const USAGE: Listing = Listing {
    type_name: "*formatter.diskUsageContext",
    table: "{{.Type}}\\t{{.TotalCount}}\\t{{.Active}}\\t{{.Size}}\\t{{.Reclaimable}}",
    titles: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

/// What one kind of object takes, and what of it could go.
struct Usage {
    kind: &'static str,
    total: usize,
    active: usize,
    size: i64,
    reclaimable: i64,
}

impl Usage {
    fn row(&self) -> Value {
        let freed = units::size4(self.reclaimable);
        let share = i128::from(self.reclaimable) * 100;
        let shown = match share.checked_div(i128::from(self.size)) {
            Some(percent) if self.size > 0 => format!("{freed} ({percent}%)"),
            _ => freed,
        };
        USAGE.row(vec![
            ("Type", Value::text(self.kind)),
            ("TotalCount", Value::text(self.total.to_string())),
            ("Active", Value::text(self.active.to_string())),
            ("Size", Value::text(units::size4(self.size))),
            ("Reclaimable", Value::text(shown)),
        ])
    }
}

fn image_usage(answer: &Json) -> Usage {
    let images = items(&answer["Images"]);
    let size = number(answer, "LayersSize");
    let in_use = |image: &&Json| number(image, "Containers") > 0;
    let used: i64 = images
        .iter()
        .filter(in_use)
        .map(|image| {
            let shared = number(image, "SharedSize");
            number(image, "Size") - if shared > 0 { shared } else { 0 }
        })
        .sum();
    Usage {
        kind: "Images",
        total: images.len(),
        active: images.iter().filter(in_use).count(),
        size,
        reclaimable: (size - used).max(0),
    }
}

fn container_usage(answer: &Json) -> Usage {
    let containers = items(&answer["Containers"]);
    let active = |container: &&Json| {
        matches!(
            text(container, "State"),
            "running" | "paused" | "restarting"
        )
    };
    let size = |container: &Json| number(container, "SizeRw");
    Usage {
        kind: "Containers",
        total: containers.len(),
        active: containers.iter().filter(active).count(),
        size: containers.iter().map(size).sum(),
        reclaimable: containers
            .iter()
            .filter(|container| !active(container))
            .map(size)
            .sum(),
    }
}

fn volume_usage(answer: &Json) -> Usage {
    let volumes = items(&answer["Volumes"]);
    let used = |volume: &&Json| number(&volume["UsageData"], "RefCount") > 0;
    let size = |volume: &Json| number(&volume["UsageData"], "Size").max(0);
    Usage {
        kind: "Local Volumes",
        total: volumes.len(),
        active: volumes.iter().filter(used).count(),
        size: volumes.iter().map(size).sum(),
        reclaimable: volumes
            .iter()
            .filter(|volume| !used(volume))
            .map(size)
            .sum(),
    }
}

fn cache_usage(answer: &Json) -> Usage {
    let entries = items(&answer["BuildCache"]);
    let used = |entry: &&Json| entry["InUse"] == true;
    let unshared = |entry: &&Json| entry["Shared"] != true;
    Usage {
        kind: "Build Cache",
        total: entries.len(),
        active: entries.iter().filter(used).count(),
        size: entries
            .iter()
            .filter(unshared)
            .map(|entry| number(entry, "Size"))
            .sum(),
        reclaimable: entries
            .iter()
            .filter(|entry| unshared(entry) && !used(entry))
            .map(|entry| number(entry, "Size"))
            .sum(),
    }
}

pub(crate) async fn disk_usage(cli: &Cli, matches: &Matches) -> Outcome {
    let format = matches.text("format");
    let verbose = matches.on("verbose");
    if verbose && !format.is_empty() && format != "json" {
        return Err(Failure::new("the verbose and the format options conflict"));
    }
    let answer: Json = cli
        .client()
        .await?
        .send(Request::get("/system/df"))
        .await?
        .json()
        .await?;
    if verbose {
        output::print(&verbose_text(&answer)?)?;
        return Ok(0);
    }
    let rows: Vec<Value> = [
        image_usage(&answer),
        container_usage(&answer),
        volume_usage(&answer),
        cache_usage(&answer),
    ]
    .iter()
    .map(Usage::row)
    .collect();
    output::print(&USAGE.render(format, &rows)?)?;
    Ok(0)
}

fn verbose_text(answer: &Json) -> Result<String, Failure> {
    let images = Listing {
        type_name: "*formatter.imageContext",
        table: "{{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\\t{{.Size}}\\t{{.SharedSize}}\\t{{.UniqueSize}}\\t{{.Containers}}",
        titles: &[
            ("ID", "IMAGE ID"),
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
        ],
    };
    let containers = Listing {
        type_name: "*formatter.ContainerContext",
        table: "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.LocalVolumes}}\\t{{.Size}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Names}}",
        titles: &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("RunningFor", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ],
    };
    let volumes = Listing {
        type_name: "*formatter.volumeContext",
        table: "{{.Name}}\\t{{.Links}}\\t{{.Size}}",
        titles: &[
            ("Name", "VOLUME NAME"),
            ("Links", "LINKS"),
            ("Size", "SIZE"),
        ],
    };
    let image_rows: Vec<Value> = items(&answer["Images"])
        .iter()
        .map(super::lists::image_usage_row)
        .collect();
    let container_rows: Vec<Value> = items(&answer["Containers"])
        .iter()
        .map(|container| {
            // Here the size is the container's own files only.
            let mut container = container.clone();
            container["SizeRootFs"] = Json::from(0);
            container_row(&container)
        })
        .collect::<Result<_, _>>()?;
    let volume_rows: Vec<Value> = items(&answer["Volumes"]).iter().map(volume_row).collect();
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: {}\n\n",
        images.render("", &image_rows)?,
        containers.render("", &container_rows)?,
        volumes.render("", &volume_rows)?,
        units::size4(cache_usage(answer).size),
    ))
}

/// Stops every container, then the daemon. Needs a daemon of ours.
pub(crate) async fn stop(cli: &Cli, _: &Matches) -> Outcome {
    let client = cli.client_unconnected()?;
    match client.send(Request::post("/kekkai/v1/system/stop")).await {
        Ok(reply) => {
            reply.done().await?;
            Ok(0)
        }
        // Nothing runs, so nothing needs to be stopped.
        Err(kekkai_client::ClientError::NotRunning { .. }) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
