//! `stats`.

use kekkai_client::{Client, Query, Request};
use serde_json::Value as Json;

use super::lists::FORMAT_HELP;
use super::{items, text};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::format::Listing;
use crate::cli::template::Value;
use crate::cli::{Cli, Failure, output, terminal, units};

pub(crate) const FLAGS: &[Flag] = &[
    switch("all", "Show stopped containers too").short('a'),
    text_flag("format", FORMAT_HELP),
    switch("no-stream", "Show one set of numbers and end"),
    switch("no-trunc", "Show everything in full length"),
];

const STATS: Listing = Listing {
    type_name: "*container.statsContext",
    table: "{{.ID}}\\t{{.Name}}\\t{{.CPUPerc}}\\t{{.MemUsage}}\\t{{.MemPerc}}\\t{{.NetIO}}\\t{{.BlockIO}}\\t{{.PIDs}}",
    titles: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
};

pub(crate) async fn stats(cli: &Cli, matches: &Matches) -> Outcome {
    let client = cli.client().await?;
    let format = matches.text("format");
    let format = if format.is_empty() {
        cli.config.text("statsFormat").unwrap_or_default()
    } else {
        format.to_owned()
    };
    let full = matches.on("no-trunc");
    loop {
        let names = match matches.args.as_slice() {
            [] => listed(client, matches.on("all")).await?,
            given => given.to_vec(),
        };
        let samples =
            futures_util::future::join_all(names.iter().map(|name| sample(client, name))).await;
        let mut rows = Vec::new();
        for (name, sample) in names.iter().zip(samples) {
            match sample {
                Ok(sample) => rows.push(row(name, &sample, full)),
                // A container may vanish while we look; one that was named may not.
                Err(failure) if !matches.args.is_empty() => return Err(failure),
                Err(_) => {}
            }
        }
        let page = STATS.render(&format, &rows)?;
        if matches.on("no-stream") {
            output::print(&page)?;
            return Ok(0);
        }
        if terminal::stdout_is_terminal() {
            output::print(&format!("\x1b[H{}\x1b[J", page.replace('\n', "\x1b[K\n")))?;
        } else {
            output::print(&page)?;
        }
    }
}

async fn listed(client: &Client, all: bool) -> Result<Vec<String>, Failure> {
    let request = Request::get("/containers/json").query(Query::new().with_flag("all", all));
    let answer: Json = client.send(request).await?.json().await?;
    Ok(items(&answer)
        .iter()
        .map(|container| text(container, "Id").to_owned())
        .collect())
}

async fn sample(client: &Client, name: &str) -> Result<Json, Failure> {
    let request = Request::get("/containers/")
        .segment(name, "/stats")
        .query(Query::new().with("stream", "0"));
    Ok(client.send(request).await?.json().await?)
}

fn float(json: &Json) -> f64 {
    json.as_f64().unwrap_or(0.0)
}

fn row(name: &str, sample: &Json, full: bool) -> Value {
    let (cpu, before) = (&sample["cpu_stats"], &sample["precpu_stats"]);
    let used = float(&cpu["cpu_usage"]["total_usage"]) - float(&before["cpu_usage"]["total_usage"]);
    let passed = float(&cpu["system_cpu_usage"]) - float(&before["system_cpu_usage"]);
    let cpus = match float(&cpu["online_cpus"]) {
        0.0 => {
            f64::from(u32::try_from(items(&cpu["cpu_usage"]["percpu_usage"]).len()).unwrap_or(1))
        }
        cpus => cpus,
    };
    let cpu_percent = if used > 0.0 && passed > 0.0 {
        used / passed * cpus * 100.0
    } else {
        0.0
    };
    let memory = &sample["memory_stats"];
    let usage = memory["usage"].as_u64().unwrap_or(0);
    let cache = memory["stats"]["total_inactive_file"]
        .as_u64()
        .or_else(|| memory["stats"]["inactive_file"].as_u64());
    let usage = usage - cache.filter(|cache| *cache < usage).unwrap_or(0);
    let limit = memory["limit"].as_u64().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let memory_percent = if limit == 0 {
        0.0
    } else {
        usage as f64 / limit as f64 * 100.0
    };
    let (mut received, mut sent) = (0, 0);
    for (_, interface) in sample["networks"].as_object().into_iter().flatten() {
        received += interface["rx_bytes"].as_i64().unwrap_or(0);
        sent += interface["tx_bytes"].as_i64().unwrap_or(0);
    }
    let (mut read, mut written) = (0, 0);
    for entry in items(&sample["blkio_stats"]["io_service_bytes_recursive"]) {
        let bytes = entry["value"].as_i64().unwrap_or(0);
        match text(entry, "op").chars().next() {
            Some('r' | 'R') => read += bytes,
            Some('w' | 'W') => written += bytes,
            _ => {}
        }
    }
    let id = text(sample, "id");
    STATS.row(vec![
        ("Container", Value::text(name)),
        (
            "ID",
            Value::text(if full {
                id.to_owned()
            } else {
                units::short_id(id)
            }),
        ),
        (
            "Name",
            Value::text(text(sample, "name").trim_start_matches('/')),
        ),
        ("CPUPerc", Value::text(format!("{cpu_percent:.2}%"))),
        (
            "MemUsage",
            Value::text(format!(
                "{} / {}",
                units::binary_size(usage),
                units::binary_size(limit)
            )),
        ),
        ("MemPerc", Value::text(format!("{memory_percent:.2}%"))),
        (
            "NetIO",
            Value::text(format!(
                "{} / {}",
                units::size3(received),
                units::size3(sent)
            )),
        ),
        (
            "BlockIO",
            Value::text(format!(
                "{} / {}",
                units::size3(read),
                units::size3(written)
            )),
        ),
        (
            "PIDs",
            Value::text(
                sample["pids_stats"]["current"]
                    .as_u64()
                    .unwrap_or(0)
                    .to_string(),
            ),
        ),
    ])
}
