//! Commands on existing containers, one request each: stop, kill, pause, restart, rm, rename, wait, port, top, diff.

use kekkai_client::{Client, ClientError, Query, Request};
use serde_json::Value as Json;

use super::{items, text};
use crate::cli::command::Outcome;
use crate::cli::failure::join;
use crate::cli::flags::{Flag, Matches, int, switch, text as text_flag};
use crate::cli::{Cli, Failure, output, table};

pub(crate) const STOP_FLAGS: &[Flag] = &[
    text_flag("signal", "Signal to send first").short('s'),
    int("timeout", "Seconds to wait before the container is killed").short('t'),
    int(
        "time",
        "Seconds to wait before the container is killed (old name of --timeout)",
    )
    .hidden(),
];
pub(crate) const KILL_FLAGS: &[Flag] = &[text_flag("signal", "Signal to send").short('s')];
pub(crate) const RM_FLAGS: &[Flag] = &[
    switch(
        "force",
        "Remove a running container too, by killing it first",
    )
    .short('f'),
    switch("link", "Remove the named link").short('l'),
    switch(
        "volumes",
        "Remove the container's anonymous volumes as well",
    )
    .short('v'),
];

/// The request that a command sends for one container.
type Make<'a> = dyn Fn(&str) -> Request + 'a;

/// Sends one request per name, all at the same time, and prints each name that went well, in the order given.
async fn for_each(cli: &Cli, names: &[String], make: &Make<'_>) -> Outcome {
    let client = cli.client().await?;
    let mut failures = Vec::new();
    // Bounded, so that a thousand names do not open a thousand connections.
    for batch in names.chunks(50) {
        let answers =
            futures_util::future::join_all(batch.iter().map(|name| finish(client, make(name))))
                .await;
        let mut done = String::new();
        for (name, answer) in batch.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    done.push_str(name);
                    done.push('\n');
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        output::print(&done)?;
    }
    join(&failures)
}

async fn finish(client: &Client, request: Request) -> Result<(), ClientError> {
    client.send(request).await?.done().await
}

fn container(verb: &str, name: &str, query: Query) -> Request {
    Request::post("/containers/")
        .segment(name, verb)
        .query(query)
}

fn timeout(matches: &Matches) -> Query {
    let query = Query::new().with_text("signal", matches.text("signal"));
    if matches.is_set("timeout") {
        query.with("t", matches.int("timeout").to_string())
    } else if matches.is_set("time") {
        query.with("t", matches.int("time").to_string())
    } else {
        query
    }
}

fn check_timeout(matches: &Matches) -> Result<(), Failure> {
    if matches.is_set("timeout") && matches.is_set("time") {
        return Err(Failure::new(
            "conflicting options: cannot specify both --timeout and --time",
        ));
    }
    Ok(())
}

pub(crate) async fn stop(cli: &Cli, matches: &Matches) -> Outcome {
    check_timeout(matches)?;
    for_each(cli, &matches.args, &|name| {
        container("/stop", name, timeout(matches))
    })
    .await
}

pub(crate) async fn restart(cli: &Cli, matches: &Matches) -> Outcome {
    check_timeout(matches)?;
    for_each(cli, &matches.args, &|name| {
        container("/restart", name, timeout(matches))
    })
    .await
}

pub(crate) async fn kill(cli: &Cli, matches: &Matches) -> Outcome {
    let signal = matches.text("signal");
    for_each(cli, &matches.args, &|name| {
        container("/kill", name, Query::new().with_text("signal", signal))
    })
    .await
}

pub(crate) async fn pause(cli: &Cli, matches: &Matches) -> Outcome {
    for_each(cli, &matches.args, &|name| {
        container("/pause", name, Query::new())
    })
    .await
}

pub(crate) async fn unpause(cli: &Cli, matches: &Matches) -> Outcome {
    for_each(cli, &matches.args, &|name| {
        container("/unpause", name, Query::new())
    })
    .await
}

pub(crate) async fn remove(cli: &Cli, matches: &Matches) -> Outcome {
    let query = Query::new()
        .with_flag("v", matches.on("volumes"))
        .with_flag("link", matches.on("link"))
        .with_flag("force", matches.on("force"));
    let force = matches.on("force");
    let client = cli.client().await?;
    let mut failures = Vec::new();
    for batch in matches.args.chunks(50) {
        let requests = batch.iter().map(|name| {
            let name = name.trim_matches('/');
            finish(
                client,
                Request::delete("/containers/")
                    .segment(name, "")
                    .query(query.clone()),
            )
        });
        let answers = futures_util::future::join_all(requests).await;
        let mut done = String::new();
        for (name, answer) in batch.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    done.push_str(name);
                    done.push('\n');
                }
                Err(error) if force && error.is_not_found() => {
                    output::to_stderr(&format!("{error}\n"))
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        output::print(&done)?;
    }
    join(&failures)
}

pub(crate) async fn rename(cli: &Cli, matches: &Matches) -> Outcome {
    let (old, new) = (matches.args[0].trim(), matches.args[1].trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::new(
            "Error: Neither old nor new names may be empty",
        ));
    }
    let request = container("/rename", old, Query::new().with("name", new));
    match finish(cli.client().await?, request).await {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::new(format!(
            "{error}\nError: failed to rename container named {old}"
        ))),
    }
}

pub(crate) async fn wait(cli: &Cli, matches: &Matches) -> Outcome {
    let client = cli.client().await?;
    let mut failures = Vec::new();
    for name in &matches.args {
        let answer = async {
            let reply = client.send(container("/wait", name, Query::new())).await?;
            reply.json::<Json>().await
        };
        match answer.await {
            Ok(answer) => output::line(&answer["StatusCode"].as_i64().unwrap_or(0).to_string())?,
            Err(error) => failures.push(error.to_string()),
        }
    }
    join(&failures)
}

pub(crate) async fn port(cli: &Cli, matches: &Matches) -> Outcome {
    let client = cli.client().await?;
    let name = &matches.args[0];
    let inspected: Json = client
        .send(Request::get("/containers/").segment(name, "/json"))
        .await?
        .json()
        .await?;
    let ports = &inspected["NetworkSettings"]["Ports"];
    let address = |binding: &Json| {
        let ip = text(binding, "HostIp");
        let ip = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        format!("{ip}:{}", text(binding, "HostPort"))
    };
    if let Some(wanted) = matches.args.get(1) {
        let (port, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let key = format!("{port}/{protocol}");
        let bindings = items(&ports[&key]);
        if port.parse::<u16>().is_err() {
            let why = format!("strconv.ParseUint: parsing {port:?}: invalid syntax");
            return Err(Failure::new(format!("Error: invalid port ({port}): {why}")));
        }
        if bindings.is_empty() {
            return Err(Failure::new(format!(
                "Error: No public port '{wanted}' published for {name}"
            )));
        }
        let lines: Vec<String> = bindings.iter().map(address).collect();
        output::line(&lines.join("\n"))?;
        return Ok(0);
    }
    let mut lines: Vec<(u32, String)> = Vec::new();
    for (key, bindings) in ports.as_object().into_iter().flatten() {
        let number = key
            .split('/')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or(0);
        for binding in items(bindings) {
            lines.push((number, format!("{key} -> {}\n", address(binding))));
        }
    }
    lines.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    output::print(&lines.into_iter().map(|(_, line)| line).collect::<String>())?;
    Ok(0)
}

pub(crate) async fn top(cli: &Cli, matches: &Matches) -> Outcome {
    let options = matches.args[1..].join(" ");
    let request = Request::get("/containers/")
        .segment(&matches.args[0], "/top")
        .query(Query::new().with_text("ps_args", &options));
    let answer: Json = cli.client().await?.send(request).await?.json().await?;
    let row = |cells: &Json| super::texts(cells).join("\t") + "\n";
    let mut text = row(&answer["Titles"]);
    for process in items(&answer["Processes"]) {
        text.push_str(&row(process));
    }
    output::print(&table::align_with(&text, 20, 3))?;
    Ok(0)
}

pub(crate) async fn diff(cli: &Cli, matches: &Matches) -> Outcome {
    let request = Request::get("/containers/").segment(&matches.args[0], "/changes");
    let answer: Json = cli.client().await?.send(request).await?.json().await?;
    let mut lines = String::new();
    for change in items(&answer) {
        let kind = match change["Kind"].as_i64() {
            Some(0) => "C",
            Some(1) => "A",
            _ => "D",
        };
        lines.push_str(&format!("{kind} {}\n", text(change, "Path")));
    }
    output::print(&lines)?;
    Ok(0)
}
