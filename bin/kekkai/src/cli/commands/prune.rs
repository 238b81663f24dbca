//! `container prune`, `image prune`, `volume prune`, `system prune`: ask, remove, tell what was gained.

use std::fmt::Write as _;

use kekkai_client::{Client, Query, Request};
use serde_json::Value as Json;

use super::{confirm, items, number, text, texts};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, filter, switch};
use crate::cli::format::filters;
use crate::cli::{Cli, Failure, output, units};

pub(crate) const CONTAINER_FLAGS: &[Flag] = &[
    filter("Remove only what meets these conditions, for example until=<time>"),
    switch("force", "Do not ask").short('f'),
];
pub(crate) const IMAGE_FLAGS: &[Flag] = &[
    switch(
        "all",
        "Remove every image that no container uses, not only those without a name",
    )
    .short('a'),
    filter("Remove only what meets these conditions, for example until=<time>"),
    switch("force", "Do not ask").short('f'),
];
pub(crate) const VOLUME_FLAGS: &[Flag] = &[
    switch(
        "all",
        "Remove every volume that no container uses, not only those without a name",
    )
    .short('a'),
    filter("Remove only what meets these conditions, for example label=<label>"),
    switch("force", "Do not ask").short('f'),
];
pub(crate) const SYSTEM_FLAGS: &[Flag] = &[
    switch(
        "all",
        "Remove every image that no container uses, not only those without a name",
    )
    .short('a'),
    filter("Remove only what meets these conditions, for example label=<key>=<value>"),
    switch("force", "Do not ask").short('f'),
    switch("volumes", "Remove unused anonymous volumes too"),
];

/// What one kind of pruning removed: the text, and the bytes gained.
type Removed = (String, i64);

async fn post(client: &Client, path: &str, given: &[&str]) -> Result<Json, Failure> {
    let request = Request::post(path).query(Query::new().with_text("filters", &filters(given)));
    Ok(client.send(request).await?.json().await?)
}

async fn containers(client: &Client, given: &[&str]) -> Result<Removed, Failure> {
    let answer = post(client, "/containers/prune", given).await?;
    Ok((
        listed("Deleted Containers:", &texts(&answer["ContainersDeleted"])),
        number(&answer, "SpaceReclaimed"),
    ))
}

async fn images(client: &Client, given: &[&str], all: bool) -> Result<Removed, Failure> {
    let dangling = format!("dangling={}", !all);
    let mut given = given.to_vec();
    given.push(&dangling);
    let answer = post(client, "/images/prune", &given).await?;
    let deleted = items(&answer["ImagesDeleted"]);
    let mut out = String::new();
    if !deleted.is_empty() {
        out.push_str("Deleted Images:\n");
        for entry in deleted {
            let untagged = text(entry, "Untagged");
            let _ = if untagged.is_empty() {
                writeln!(out, "deleted: {}", text(entry, "Deleted"))
            } else {
                writeln!(out, "untagged: {untagged}")
            };
        }
    }
    Ok((out, number(&answer, "SpaceReclaimed")))
}

async fn volumes(client: &Client, given: &[&str], all: bool) -> Result<Removed, Failure> {
    let mut given = given.to_vec();
    if all {
        given.push("all=true");
    }
    let answer = post(client, "/volumes/prune", &given).await?;
    Ok((
        listed("Deleted Volumes:", &texts(&answer["VolumesDeleted"])),
        number(&answer, "SpaceReclaimed"),
    ))
}

fn listed(title: &str, names: &[&str]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("{title}\n{}\n", names.join("\n"))
    }
}

/// Whether to go on: `-f`, or a yes.
fn agreed(matches: &Matches, warning: &str) -> Result<bool, Failure> {
    if matches.on("force") {
        return Ok(true);
    }
    if confirm(&format!("WARNING! {warning}"))? {
        return Ok(true);
    }
    Ok(false)
}

/// The words of a prune that was not agreed to.
fn cancelled(what: &str) -> Failure {
    Failure::new(format!("{what} prune has been cancelled"))
}

fn report((text, gained): &Removed) -> Outcome {
    let gap = if text.is_empty() { "" } else { "\n" };
    output::print(&format!(
        "{text}{gap}Total reclaimed space: {}\n",
        units::size4(*gained)
    ))?;
    Ok(0)
}

pub(crate) async fn prune_containers(cli: &Cli, matches: &Matches) -> Outcome {
    if !agreed(
        matches,
        "This will remove all stopped containers.\nAre you sure you want to continue?",
    )? {
        return Err(cancelled("container"));
    }
    report(&containers(cli.client().await?, &matches.list("filter")).await?)
}

pub(crate) async fn prune_images(cli: &Cli, matches: &Matches) -> Outcome {
    let all = matches.on("all");
    let what = if all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !agreed(
        matches,
        &format!("{what}\nAre you sure you want to continue?"),
    )? {
        return Err(cancelled("image"));
    }
    report(&images(cli.client().await?, &matches.list("filter"), all).await?)
}

pub(crate) async fn prune_volumes(cli: &Cli, matches: &Matches) -> Outcome {
    let all = matches.on("all");
    let what = if all {
        "This will remove all local volumes not used by at least one container."
    } else {
        "This will remove anonymous local volumes not used by at least one container."
    };
    if !agreed(
        matches,
        &format!("{what}\nAre you sure you want to continue?"),
    )? {
        return Err(cancelled("volume"));
    }
    report(&volumes(cli.client().await?, &matches.list("filter"), all).await?)
}

pub(crate) async fn prune_system(cli: &Cli, matches: &Matches) -> Outcome {
    let (all, with_volumes) = (matches.on("all"), matches.on("volumes"));
    let mut what = String::from("This will remove:\n  - all stopped containers\n");
    if with_volumes {
        what.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    what.push_str(if all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    if !agreed(
        matches,
        &format!("{what}\nAre you sure you want to continue?"),
    )? {
        return Err(cancelled("system"));
    }
    let client = cli.client().await?;
    let given = matches.list("filter");
    let mut total = 0;
    let mut parts = Vec::new();
    parts.push(containers(client, &given).await?);
    if with_volumes {
        parts.push(volumes(client, &given, false).await?);
    }
    parts.push(images(client, &given, all).await?);
    for (text, gained) in parts {
        total += gained;
        if !text.is_empty() {
            output::print(&format!("{text}\n"))?;
        }
    }
    output::line(&format!("Total reclaimed space: {}", units::size4(total)))?;
    Ok(0)
}
