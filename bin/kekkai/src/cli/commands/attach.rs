//! `attach`.

use kekkai_client::{Query, Request};
use serde_json::Value as Json;

use super::session::{self, DETACHED, End, Resized, Wiring};
use super::text;
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::{Cli, Failure, terminal};

pub(crate) const FLAGS: &[Flag] = &[
    text_flag(
        "detach-keys",
        "Keys that leave the container running in the background",
    ),
    switch("no-stdin", "Do not connect to the container's input"),
    switch("sig-proxy", "Pass signals on to the process").default("true"),
];

pub(crate) async fn attach(cli: &Cli, matches: &Matches) -> Outcome {
    let client = cli.client().await?;
    let name = &matches.args[0];
    let inspected: Json = client
        .send(Request::get("/containers/").segment(name, "/json"))
        .await?
        .json()
        .await?;
    let state = &inspected["State"];
    if !state["Running"].as_bool().unwrap_or(false) {
        return Err(Failure::new(
            "cannot attach to a stopped container, start it first",
        ));
    }
    if state["Paused"].as_bool().unwrap_or(false) {
        return Err(Failure::new(
            "cannot attach to a paused container, unpause it first",
        ));
    }
    if state["Restarting"].as_bool().unwrap_or(false) {
        return Err(Failure::new(
            "cannot attach to a restarting container, wait until it is running",
        ));
    }
    let id = text(&inspected, "Id").to_owned();
    let config = &inspected["Config"];
    let tty = config["Tty"].as_bool().unwrap_or(false);
    let stdin = !matches.on("no-stdin") && config["OpenStdin"].as_bool().unwrap_or(false);
    if stdin && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let (keys_text, keys) = super::run::detach_keys(cli, matches)?;
    let query = Query::new()
        .with("stream", "1")
        .with_flag("stdin", stdin)
        .with("stdout", "1")
        .with("stderr", "1")
        .with_text("detachKeys", &keys_text);
    let wait = Request::post("/containers/").segment(&id, "/wait");
    let (hijacked, waiting) = futures_util::join!(
        client.hijack(
            Request::post("/containers/")
                .segment(&id, "/attach")
                .query(query)
        ),
        client.send(wait)
    );
    let (hijacked, waiting) = (hijacked?, waiting?);
    let wiring = Wiring {
        stdin,
        stdout: true,
        stderr: true,
        tty,
        detach_keys: keys,
    };
    let resized = Resized::Container(id.clone());
    let signals = async {
        if matches.on("sig-proxy") && !tty {
            session::forward_signals(client, &id, tty).await;
        }
        std::future::pending::<()>().await
    };
    let follow_size = async {
        if tty && terminal::stdout_is_terminal() {
            session::provoke_repaint(client, &resized).await;
            session::follow_size(client, &resized).await;
        }
        std::future::pending::<()>().await
    };
    let main = async {
        match session::pump(hijacked, wiring).await? {
            End::Detached => Err(Failure::new(DETACHED)),
            End::Finished => {
                let answer: Json = waiting.json().await?;
                if let Some(message) = answer["Error"]["Message"]
                    .as_str()
                    .filter(|message| !message.is_empty())
                {
                    return Err(Failure::new(message));
                }
                Ok(super::run::status_of(&answer))
            }
        }
    };
    tokio::select! {
        biased;
        outcome = main => outcome,
        () = signals => Ok(0),
        () = follow_size => Ok(0),
    }
}
