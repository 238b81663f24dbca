//! `exec`.

use kekkai_client::{Client, Hijacked, Request};
use serde_json::{Map, Value as Json, json};

use super::session::{self, DETACHED, End, Resized, Wiring};
use super::text;
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, list, switch, text as text_flag};
use crate::cli::{Cli, Failure, terminal};

pub(crate) const FLAGS: &[Flag] = &[
    switch("detach", "Run the command in the background").short('d'),
    text_flag(
        "detach-keys",
        "Keys that leave the command running in the background",
    ),
    list("env", "Set environment variables").short('e'),
    list("env-file", "Read environment variables from a file"),
    switch(
        "interactive",
        "Keep STDIN open even when nobody is attached",
    )
    .short('i'),
    switch("privileged", "Give the command all of root's rights"),
    switch("tty", "Give it a terminal").short('t'),
    text_flag("user", "User name or UID (<name|uid>[:<group|gid>])").short('u'),
    text_flag("workdir", "Working directory inside the container").short('w'),
];

pub(crate) async fn exec(cli: &Cli, matches: &Matches) -> Outcome {
    let env =
        super::create_options::environment_of(&matches.list("env-file"), &matches.list("env"))
            .map_err(Failure::new)?;
    let (detach, tty, interactive) = (
        matches.on("detach"),
        matches.on("tty"),
        matches.on("interactive"),
    );
    if !detach && interactive && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let (keys_text, keys) = super::run::detach_keys(cli, matches)?;
    let container = &matches.args[0];
    let mut body = Map::new();
    let mut put = |key: &str, value: Json| body.insert(key.to_owned(), value);
    put("User", json!(matches.text("user")));
    put("Privileged", json!(matches.on("privileged")));
    put("Tty", json!(tty));
    put("AttachStdin", json!(interactive && !detach));
    put("AttachStdout", json!(!detach));
    put("AttachStderr", json!(!detach));
    put("DetachKeys", json!(keys_text));
    put("WorkingDir", json!(matches.text("workdir")));
    put("Cmd", json!(matches.args[1..]));
    if !env.is_empty() {
        put("Env", json!(env));
    }
    let (rows, columns) = terminal::size();
    let console = (tty && !detach && (rows, columns) != (0, 0)).then(|| json!([rows, columns]));
    if let Some(size) = &console {
        put("ConsoleSize", size.clone());
    }
    let client = cli.client().await?;
    let create = Request::post("/containers/")
        .segment(container, "/exec")
        .json(&body)?;
    // The stream's own connection is opened while the exec is being created.
    let (created, _) = futures_util::join!(
        async { client.send(create).await?.json::<Json>().await },
        async {
            if detach {
                Ok(())
            } else {
                client.warm_up().await
            }
        }
    );
    let created = created?;
    let id = text(&created, "Id");
    if id.is_empty() {
        return Err(Failure::new("exec ID empty"));
    }
    let mut start = json!({"Detach": detach, "Tty": tty});
    if let Some(size) = console {
        start["ConsoleSize"] = size;
    }
    let request = Request::post("/exec/").segment(id, "/start").json(&start)?;
    if detach {
        client.send(request).await?.done().await?;
        return Ok(0);
    }
    let hijacked = client.hijack(request).await?;
    follow(
        client,
        id,
        hijacked,
        Wiring {
            stdin: interactive,
            stdout: true,
            stderr: true,
            tty,
            detach_keys: keys,
        },
    )
    .await
}

async fn follow(client: &Client, id: &str, hijacked: Hijacked, wiring: Wiring) -> Outcome {
    let resized = Resized::Exec(id.to_owned());
    let tty = wiring.tty;
    let follow_size = async {
        if tty && terminal::stdout_is_terminal() {
            session::follow_size(client, &resized).await;
        }
        std::future::pending::<()>().await
    };
    let end = tokio::select! {
        biased;
        end = session::pump(hijacked, wiring) => end?,
        () = follow_size => End::Finished,
    };
    if end == End::Detached {
        return Err(Failure::new(DETACHED));
    }
    let state: Json = client
        .send(Request::get("/exec/").segment(id, "/json"))
        .await?
        .json()
        .await?;
    Ok(u8::try_from(state["ExitCode"].as_i64().unwrap_or(0) & 0xff).unwrap_or(1))
}
