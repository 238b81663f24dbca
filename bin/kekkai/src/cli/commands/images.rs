//! `load`, `tag`, `rmi`.

use kekkai_client::{Query, Request, reader_body};
use serde_json::Value as Json;

use super::pull::{Show, show_progress};
use super::{items, text};
use crate::cli::command::Outcome;
use crate::cli::failure::join;
use crate::cli::flags::{Flag, Matches, strings, switch, text as text_flag};
use crate::cli::reference::ImageName;
use crate::cli::{Cli, Failure, output, terminal};

pub(crate) const LOAD_FLAGS: &[Flag] = &[
    text_flag("input", "Read this tar archive instead of STDIN").short('i'),
    text_flag(
        "platform",
        "Load only this platform's image (os[/arch[/variant]])",
    ),
    switch("quiet", "Do not show the progress").short('q'),
];
pub(crate) const RM_FLAGS: &[Flag] = &[
    switch("force", "Remove the image even if it is in use").short('f'),
    switch("no-prune", "Keep parents that have no name"),
    strings(
        "platform",
        "Remove only this platform's image (os[/arch[/variant]])",
    ),
];

pub(crate) async fn load(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.is_set("platform") {
        return Err(Failure::new("kekkai does not have load --platform yet"));
    }
    let path = matches.text("input");
    let body = if path.is_empty() {
        if terminal::stdin_is_terminal() {
            return Err(Failure::new(
                "requested load from stdin, but stdin is empty",
            ));
        }
        reader_body(tokio::io::stdin())
    } else {
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    Failure::new(format!("open {path}: no such file or directory"))
                }
                _ => Failure::new(format!("open {path}: {error}")),
            })?;
        reader_body(file)
    };
    // Without a terminal nobody watches a bar.
    let quiet = matches.on("quiet") || !terminal::stdout_is_terminal();
    let query = if quiet {
        Query::new().with("quiet", "1")
    } else {
        Query::new().with("quiet", "0")
    };
    let client = cli.client().await?;
    let reply = client
        .send(
            Request::post("/images/load")
                .query(query)
                .stream("application/x-tar", body),
        )
        .await?;
    if reply
        .header("content-type")
        .is_none_or(|kind| kind.starts_with("application/json"))
    {
        show_progress(reply, Show::Stdout).await?;
    } else {
        output::print_bytes(&reply.bytes().await?)?;
    }
    Ok(0)
}

pub(crate) async fn tag(cli: &Cli, matches: &Matches) -> Outcome {
    let target = ImageName::parse_bare(&matches.args[1]).map_err(|failure| {
        let name = &matches.args[1];
        Failure::new(format!(
            "Error parsing reference: {name:?} is not a valid repository/tag: {}",
            failure.text()
        ))
    })?;
    if !target.digest.is_empty() {
        return Err(Failure::new(
            "refusing to create a tag with a digest reference",
        ));
    }
    let tag = if target.tag.is_empty() {
        "latest"
    } else {
        &target.tag
    };
    let request = Request::post("/images/")
        .image(&matches.args[0], "/tag")
        .query(
            Query::new()
                .with("repo", &target.repository)
                .with("tag", tag),
        );
    cli.client().await?.send(request).await?.done().await?;
    Ok(0)
}

pub(crate) async fn remove(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.is_set("platform") {
        return Err(Failure::new("kekkai does not have rmi --platform yet"));
    }
    let client = cli.client().await?;
    let force = matches.on("force");
    let query = Query::new()
        .with_flag("force", force)
        .with_flag("noprune", matches.on("no-prune"));
    let (mut failures, mut fatal) = (Vec::new(), false);
    for name in &matches.args {
        let answer = async {
            let reply = client
                .send(
                    Request::delete("/images/")
                        .image(name, "")
                        .query(query.clone()),
                )
                .await?;
            reply.json::<Json>().await
        };
        match answer.await {
            Ok(answer) => output::print(&removals(&answer))?,
            Err(error) => {
                fatal |= !error.is_not_found();
                failures.push(error.to_string());
            }
        }
    }
    if force && !fatal {
        for failure in failures {
            output::to_stderr(&format!("{failure}\n"));
        }
        return Ok(0);
    }
    join(&failures)
}

/// `Untagged: …` and `Deleted: …` lines.
fn removals(answer: &Json) -> String {
    let mut lines = String::new();
    for entry in items(answer) {
        let deleted = text(entry, "Deleted");
        if deleted.is_empty() {
            lines.push_str(&format!("Untagged: {}\n", text(entry, "Untagged")));
        } else {
            lines.push_str(&format!("Deleted: {deleted}\n"));
        }
    }
    lines
}
