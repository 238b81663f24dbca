//! `logs`.

use kekkai_client::{Query, Request};
use serde_json::Value as Json;

use super::session::Sink;
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::{Cli, Failure, units};

pub(crate) const FLAGS: &[Flag] = &[
    switch("details", "Show extra details that the log driver has"),
    switch("follow", "Go on as the log grows").short('f'),
    text_flag(
        "since",
        "Show what came after this time (\"2013-01-02T13:23:37Z\") or span (\"42m\")",
    ),
    text_flag("tail", "Show only this many lines from the end")
        .short('n')
        .default("\"all\""),
    switch("timestamps", "Show when each line came").short('t'),
    text_flag(
        "until",
        "Show what came before this time (\"2013-01-02T13:23:37Z\") or span (\"42m\")",
    ),
];

pub(crate) async fn logs(cli: &Cli, matches: &Matches) -> Outcome {
    let moment = |flag: &str| {
        units::timestamp_argument(matches.text(flag))
            .map_err(|why| Failure::new(format!("invalid value for {flag:?}: {why}")))
    };
    let (since, until) = (moment("since")?, moment("until")?);
    let client = cli.client().await?;
    let name = &matches.args[0];
    let query = Query::new()
        .with("stdout", "1")
        .with("stderr", "1")
        .with_text("since", &since)
        .with_text("until", &until)
        .with_flag("timestamps", matches.on("timestamps"))
        .with_flag("details", matches.on("details"))
        .with_flag("follow", matches.on("follow"))
        .with_text("tail", matches.text("tail"));
    let mut reply = client
        .send(
            Request::get("/containers/")
                .segment(name, "/logs")
                .query(query),
        )
        .await?;
    let is_raw = match reply.header("content-type") {
        Some("application/vnd.docker.raw-stream") => true,
        Some("application/vnd.docker.multiplexed-stream") => false,
        // A daemon that does not say: a terminal's log is not multiplexed.
        _ => {
            let request = Request::get("/containers/").segment(name, "/json");
            let inspected: Json = client.send(request).await?.json().await?;
            inspected["Config"]["Tty"].as_bool().unwrap_or(false)
        }
    };
    let mut sink = Sink::new(is_raw);
    while let Some(chunk) = reply.chunk().await? {
        sink.write(&chunk).await?;
    }
    Ok(0)
}
