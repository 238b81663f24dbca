//! `run`, `create`, `start`.
//!
//! The order of requests is Docker's: create, attach, wait, start. Attach and wait are under way before start is sent, so
//! that no byte and no exit is missed; they have connections of their own, opened while the daemon is creating.

use kekkai_client::{Client, ClientError, Hijacked, Query, Reply, Request};
use serde_json::Value as Json;

use super::create_options::{self, ContainerRequest};
use super::pull::{Show, pull_image};
use super::session::{self, End, Resized, Wiring};
use super::{items, text};
use crate::cli::command::{Outcome, PROGRAM};
use crate::cli::failure::{ENGINE_FAILED, join};
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::reference::ImageName;
use crate::cli::streams::DetachKeys;
use crate::cli::{Cli, Failure, output, terminal};

pub(crate) const START_FLAGS: &[Flag] = &[
    switch("attach", "Connect to the output and pass signals on").short('a'),
    text_flag(
        "detach-keys",
        "Keys that leave the container running in the background",
    ),
    switch("interactive", "Connect to the container's input").short('i'),
    text_flag("checkpoint", "").hidden(),
    text_flag("checkpoint-dir", "").hidden(),
];

/// Adds the hint that follows every refusal of `run` and `create`.
fn with_hint(message: &str, path: &str) -> String {
    format!("{PROGRAM}: {message}\n\nRun '{PROGRAM} {path} --help' for more information")
}

fn refused(message: &str, path: &str) -> Failure {
    Failure::new(with_hint(message, path)).with_code(ENGINE_FAILED)
}

/// The exit status of a start that failed: 127 not found, 126 not executable, 125 anything else.
fn start_code(message: &str) -> u8 {
    let not_found = [
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ];
    let denied = ["permission denied", "is a directory"];
    if not_found.iter().any(|words| message.contains(words)) {
        127
    } else if denied.iter().any(|words| message.contains(words)) {
        126
    } else {
        ENGINE_FAILED
    }
}

fn request_of(cli: &Cli, matches: &Matches) -> Result<ContainerRequest, Failure> {
    let pull = matches.text("pull");
    if !matches!(pull, "always" | "missing" | "never") {
        let message = format!(
            "invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\""
        );
        return Err(refused(&message, &matches.path));
    }
    let url = cli.client_unconnected()?.endpoint().url.clone();
    let proxies = cli.config.proxy_variables(&url);
    create_options::parse(matches, &proxies).map_err(|message| refused(&message, &matches.path))
}

/// The file that gets the container's id.
struct IdFile<'a>(&'a str);

impl IdFile<'_> {
    fn check(&self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        if std::fs::symlink_metadata(self.0).is_ok() {
            return Err(Failure::new(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                self.0
            )));
        }
        std::fs::File::create_new(self.0)
            .map(drop)
            .map_err(|error| {
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => String::from("no such file or directory"),
                    std::io::ErrorKind::PermissionDenied => String::from("permission denied"),
                    _ => error.to_string(),
                };
                Failure::new(format!(
                    "failed to create the container ID file: open {}: {why}",
                    self.0
                ))
            })
    }

    fn write(&self, id: &str) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        std::fs::write(self.0, id).map_err(|error| {
            Failure::new(format!(
                "failed to write the container ID to the file: {error}"
            ))
        })
    }

    /// Without a container the file stays empty, and an empty file goes.
    fn give_up(&self) {
        if !self.0.is_empty() {
            // It is ours and empty; if it is gone already, so much the better.
            let _ = std::fs::remove_file(self.0);
        }
    }
}

/// Creates the container; pulls its image where the policy says so.
async fn create_container(
    cli: &Cli,
    client: &Client,
    matches: &Matches,
    request: &ContainerRequest,
) -> Result<String, Failure> {
    let file = IdFile(matches.text("cidfile"));
    file.check()?;
    let created = create_or_pull(cli, client, matches, request).await;
    match created {
        Ok(answer) => {
            for warning in items(&answer["Warnings"]).iter().filter_map(Json::as_str) {
                output::to_stderr(&format!("WARNING: {warning}\n"));
            }
            let id = text(&answer, "Id").to_owned();
            file.write(&id)?;
            Ok(id)
        }
        Err(failure) => {
            file.give_up();
            Err(failure)
        }
    }
}

async fn create_or_pull(
    cli: &Cli,
    client: &Client,
    matches: &Matches,
    request: &ContainerRequest,
) -> Result<Json, Failure> {
    let policy = matches.text("pull");
    let show = if matches.on("quiet") {
        Show::Nowhere
    } else {
        Show::Stderr
    };
    // An id or a name: only a name can be pulled.
    let image = ImageName::parse(&request.image);
    if policy == "always" {
        let image = image
            .as_ref()
            .map_err(|failure| Failure::new(failure.text()))?;
        pull_image(cli, client, image, &request.platform, show).await?;
        return Ok(create_once(client, request).await?);
    }
    match (create_once(client, request).await, &image) {
        (Err(error), Ok(image)) if policy == "missing" && is_missing_image(&error) => {
            if !matches.on("quiet") {
                output::to_stderr(&format!(
                    "Unable to find image '{}' locally\n",
                    image.familiar
                ));
            }
            pull_image(cli, client, image, &request.platform, show).await?;
            Ok(create_once(client, request).await?)
        }
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(failure)) if !failure.text().is_empty() && !looks_like_id(&request.image) => {
            Err(Failure::new(failure.text()))
        }
        (Err(error), _) => Err(error.into()),
    }
}

fn looks_like_id(image: &str) -> bool {
    image.starts_with("sha256:")
        || (image.len() == 64 && image.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_missing_image(error: &ClientError) -> bool {
    error.is_not_found() && error.to_string().to_lowercase().contains("no such image")
}

async fn create_once(client: &Client, request: &ContainerRequest) -> Result<Json, ClientError> {
    let query = Query::new()
        .with_text("name", &request.name)
        .with_text("platform", &request.platform);
    client
        .send(
            Request::post("/containers/create")
                .query(query)
                .json(&request.body)?,
        )
        .await?
        .json()
        .await
}

pub(crate) async fn create(cli: &Cli, matches: &Matches) -> Outcome {
    let mut request = request_of(cli, matches)?;
    if request.tty {
        request.set_console_size(terminal::size());
    }
    let client = cli.client().await?;
    let id = create_container(cli, client, matches, &request).await?;
    output::line(&id)?;
    Ok(0)
}

/// The keys that leave, from the flag or the configuration.
pub(crate) fn detach_keys(cli: &Cli, matches: &Matches) -> Result<(String, DetachKeys), Failure> {
    let given = matches.text("detach-keys");
    let text = if given.is_empty() {
        cli.config.text("detachKeys").unwrap_or_default()
    } else {
        given.to_owned()
    };
    let keys = DetachKeys::parse(&text)
        .map_err(|why| Failure::new(format!("invalid detach keys provided: {text}: {why}")))?;
    Ok((text, keys))
}

pub(crate) async fn run(cli: &Cli, matches: &Matches) -> Outcome {
    let mut request = request_of(cli, matches)?;
    let detach = matches.on("detach");
    if detach {
        if matches.is_set("attach") {
            return Err(Failure::new(
                "conflicting options: cannot specify both --attach and --detach",
            ));
        }
        request.detach();
    } else if request.attach_stdin && request.tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    if request.tty {
        request.set_console_size(terminal::size());
    }
    let (keys_text, keys) = detach_keys(cli, matches)?;
    let client = cli.client().await?;
    let outcome = if detach {
        create_container(cli, client, matches, &request).await
    } else {
        // The connections of attach and wait are opened while the daemon creates.
        let (created, ..) = futures_util::join!(
            create_container(cli, client, matches, &request),
            client.warm_up(),
            client.warm_up()
        );
        created
    };
    // Docker reads the status from the words, wherever they come from.
    let id = outcome.map_err(|failure| match failure.message {
        Some(message) => refused(&message, &matches.path).with_code(start_code(&message)),
        None => failure.with_code(ENGINE_FAILED),
    })?;
    if detach {
        return run_detached(client, matches, &id).await;
    }
    let run = Attached {
        client,
        id: &id,
        streams: (
            request.attach_stdin,
            request.attach_stdout,
            request.attach_stderr,
        ),
        tty: request.tty,
        auto_remove: request.auto_remove,
        sig_proxy: matches.on("sig-proxy"),
        keys_text: &keys_text,
    };
    match run.start_and_follow(keys).await {
        Ok(code) => Ok(code),
        Err(RunError::Start(error)) => {
            let message = error.to_string();
            Err(refused(&message, &matches.path).with_code(start_code(&message)))
        }
        Err(RunError::Other(failure)) => Err(failure),
    }
}

async fn run_detached(client: &Client, matches: &Matches, id: &str) -> Outcome {
    // The container is there from now on, whether it starts or not.
    output::line(id)?;
    let started = async { client.send(start_request(id, "")).await?.done().await };
    match started.await {
        Ok(()) => Ok(0),
        Err(error) => {
            let message = error.to_string();
            Err(refused(&message, &matches.path).with_code(start_code(&message)))
        }
    }
}

fn start_request(id: &str, keys: &str) -> Request {
    Request::post("/containers/")
        .segment(id, "/start")
        .query(Query::new().with_text("detachKeys", keys))
}

enum RunError {
    /// The daemon refused to start the container.
    Start(ClientError),
    Other(Failure),
}

impl<E: Into<Failure>> From<E> for RunError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// A container that is about to be started with us connected to it.
struct Attached<'a> {
    client: &'a Client,
    id: &'a str,
    /// Standard input, output, error.
    streams: (bool, bool, bool),
    tty: bool,
    auto_remove: bool,
    sig_proxy: bool,
    keys_text: &'a str,
}

impl Attached<'_> {
    fn attach_request(&self) -> Request {
        let (stdin, stdout, stderr) = self.streams;
        let query = Query::new()
            .with("stream", "1")
            .with_flag("stdin", stdin)
            .with_flag("stdout", stdout)
            .with_flag("stderr", stderr)
            .with_text("detachKeys", self.keys_text);
        Request::post("/containers/")
            .segment(self.id, "/attach")
            .query(query)
    }

    fn wait_request(&self) -> Request {
        let condition = if self.auto_remove {
            "removed"
        } else {
            "next-exit"
        };
        Request::post("/containers/")
            .segment(self.id, "/wait")
            .query(Query::new().with("condition", condition))
    }

    async fn start_and_follow(self, keys: DetachKeys) -> Result<u8, RunError> {
        let (stdin, stdout, stderr) = self.streams;
        let (hijacked, waiting) = if stdin || stdout || stderr {
            let (hijacked, waiting) = futures_util::join!(
                self.client.hijack(self.attach_request()),
                self.client.send(self.wait_request())
            );
            (Some(hijacked?), waiting?)
        } else {
            (None, self.client.send(self.wait_request()).await?)
        };
        let signals = async {
            if self.sig_proxy {
                // First the start is on its way; the daemon works while we register.
                tokio::task::yield_now().await;
                session::forward_signals(self.client, self.id, self.tty).await;
            }
            std::future::pending::<()>().await
        };
        let start = async {
            let started = match self.client.send(start_request(self.id, "")).await {
                Ok(reply) => reply.done().await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                if self.auto_remove {
                    // The daemon removes it; do not leave before it has.
                    let _ =
                        tokio::time::timeout(std::time::Duration::from_secs(10), waiting.bytes())
                            .await;
                }
                return Err(RunError::Start(error));
            }
            self.follow(hijacked, waiting, keys).await
        };
        tokio::select! {
            biased;
            result = start => result,
            () = signals => Ok(0),
        }
    }

    async fn follow(
        &self,
        hijacked: Option<Hijacked>,
        waiting: Reply,
        keys: DetachKeys,
    ) -> Result<u8, RunError> {
        let (stdin, stdout, stderr) = self.streams;
        let resized = Resized::Container(self.id.to_owned());
        if let Some(hijacked) = hijacked {
            let wiring = Wiring {
                stdin,
                stdout,
                stderr,
                tty: self.tty,
                detach_keys: keys,
            };
            let follow_size = async {
                if self.tty && terminal::stdout_is_terminal() {
                    session::follow_size(self.client, &resized).await;
                }
                std::future::pending::<()>().await
            };
            let end = tokio::select! {
                biased;
                end = session::pump(hijacked, wiring) => end?,
                () = follow_size => End::Finished,
            };
            if end == End::Detached {
                return Ok(0);
            }
        }
        exit_code(waiting).await
    }
}

/// The exit status that `wait` answers.
async fn exit_code(waiting: Reply) -> Result<u8, RunError> {
    let answer: Json = waiting.json().await?;
    if let Some(message) = answer["Error"]["Message"]
        .as_str()
        .filter(|message| !message.is_empty())
    {
        output::to_stderr(&format!("Error waiting for container: {message}\n"));
        return Ok(ENGINE_FAILED);
    }
    Ok(status_of(&answer))
}

/// The low byte of a wait answer's status, as a shell would see it.
pub(crate) fn status_of(answer: &Json) -> u8 {
    u8::try_from(answer["StatusCode"].as_i64().unwrap_or(0) & 0xff).unwrap_or(ENGINE_FAILED)
}

pub(crate) async fn start(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.is_set("checkpoint") || matches.is_set("checkpoint-dir") {
        return Err(Failure::new("kekkai does not have start --checkpoint yet"));
    }
    let client = cli.client().await?;
    if !matches.on("attach") && !matches.on("interactive") {
        let mut failed = Vec::new();
        for name in &matches.args {
            let started = async { client.send(start_request(name, "")).await?.done().await };
            match started.await {
                Ok(()) => output::line(name)?,
                Err(error) => {
                    output::to_stderr(&format!("{error}\n"));
                    failed.push(name.as_str());
                }
            }
        }
        if failed.is_empty() {
            return Ok(0);
        }
        return join(&[format!(
            "Error: failed to start containers: {}",
            failed.join(", ")
        )]);
    }
    let [name] = matches.args.as_slice() else {
        return Err(Failure::new(
            "you cannot start and attach multiple containers at once",
        ));
    };
    let inspected: Json = client
        .send(Request::get("/containers/").segment(name, "/json"))
        .await?
        .json()
        .await?;
    let (keys_text, keys) = detach_keys(cli, matches)?;
    let config = &inspected["Config"];
    let tty = config["Tty"].as_bool().unwrap_or(false);
    let stdin = matches.on("interactive") && config["OpenStdin"].as_bool().unwrap_or(false);
    if stdin && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let run = Attached {
        client,
        id: text(&inspected, "Id"),
        streams: (stdin, true, true),
        tty,
        auto_remove: inspected["HostConfig"]["AutoRemove"]
            .as_bool()
            .unwrap_or(false),
        sig_proxy: !tty,
        keys_text: &keys_text,
    };
    match run.start_and_follow(keys).await {
        Ok(code) => Ok(code),
        Err(RunError::Start(error)) => Err(Failure::new(format!(
            "{error}\nError: failed to start containers: {name}"
        ))),
        Err(RunError::Other(failure)) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(
            start_code("exec: \"nosuch\": executable file not found in $PATH"),
            127
        );
        assert_eq!(
            start_code("exec: \"/etc\": is a directory: permission denied"),
            126
        );
        assert_eq!(
            start_code("driver failed programming external connectivity"),
            125
        );
        assert_eq!(status_of(&serde_json::json!({"StatusCode": 137})), 137);
    }
}
