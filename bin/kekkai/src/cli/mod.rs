//! The command line: reads it, finds the command, runs it, prints what went wrong.
//!
//! What must stay true: nothing is opened, parsed or computed that the command at hand does not need; the terminal is
//! always given back as it was found; the exit status is the one Docker's command line would have.

pub(crate) mod auto_start;
mod command;
mod commands;
mod completion;
mod failure;
mod flags;
mod format;
mod help;
mod output;
mod reference;
mod streams;
mod table;
mod template;
mod terminal;
mod tree;
mod units;

use std::cell::OnceCell;
use std::path::Path;
use std::process::ExitCode;

use kekkai_client::{Client, ConfigFile, Endpoint, EndpointSource, TlsFiles};

use command::{Action, Command, Outcome, PROGRAM};
pub(crate) use failure::Failure;
use flags::{Matches, Stop};

/// What every command gets: configuration and a way to the daemon.
#[derive(Debug)]
pub(crate) struct Cli {
    pub(crate) config: ConfigFile,
    globals: Matches,
    client: OnceCell<Client>,
}

/// Reads one environment variable. The only place that does.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Cli {
    fn new(globals: Matches) -> Self {
        let chosen = globals
            .is_set("config")
            .then(|| Path::new(globals.text("config")));
        let config = ConfigFile::new(kekkai_client::config_dir(chosen, environment));
        Self {
            config,
            globals,
            client: OnceCell::new(),
        }
    }

    /// The TLS files that flags and environment ask for.
    fn tls(&self) -> Option<TlsFiles> {
        let verify_set = environment("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
        let verify = if self.globals.is_set("tlsverify") {
            self.globals.on("tlsverify")
        } else {
            verify_set
        };
        let plain = self.globals.on("tls")
            || environment("DOCKER_TLS").is_some_and(|value| !value.is_empty());
        if !verify && !plain {
            return None;
        }
        let directory = environment("DOCKER_CERT_PATH").filter(|path| !path.is_empty());
        let directory = directory.map_or_else(|| self.config.directory().to_path_buf(), Into::into);
        let mut files = TlsFiles::in_directory(&directory, !verify);
        for (flag, slot) in [
            ("tlscacert", &mut files.ca),
            ("tlscert", &mut files.certificate),
            ("tlskey", &mut files.key),
        ] {
            if self.globals.is_set(flag) {
                *slot = Some(self.globals.text(flag).into());
            }
        }
        Some(files)
    }

    /// The daemon's address.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let hosts = self.globals.list("host");
        if hosts.len() > 1 {
            return Err(Failure::new("specify only one -H"));
        }
        let context = self.globals.text("context");
        let context = (!context.is_empty()).then_some(context);
        Endpoint::choose(
            hosts.first().copied(),
            context,
            self.tls(),
            environment,
            &self.config,
        )
        .map_err(|error| match error.to_string() {
            conflict if conflict.starts_with("conflicting options") => Failure::new(conflict),
            why => Failure::new(format!(
                "Failed to initialize: unable to resolve {PROGRAM} endpoint: {why}"
            )),
        })
    }

    /// The name of the context in use.
    pub(crate) fn context_name(&self) -> String {
        let chosen = self.globals.text("context");
        if !chosen.is_empty() {
            return chosen.to_owned();
        }
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        if self.globals.is_set("host")
            || set("KEKKAI_HOST").or_else(|| set("DOCKER_HOST")).is_some()
        {
            return String::from("default");
        }
        set("DOCKER_CONTEXT")
            .or_else(|| self.config.current_context())
            .unwrap_or_else(|| String::from("default"))
    }

    /// The client, without connecting.
    pub(crate) fn client_unconnected(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let endpoint = self.endpoint()?;
        if let Some(warning) = self.config.warning() {
            eprintln!("WARNING: {warning}");
        }
        let client = Client::new(endpoint, &self.config.texts("HttpHeaders"));
        if let Some(version) =
            environment("DOCKER_API_VERSION").filter(|version| !version.is_empty())
        {
            let parsed = version
                .split_once('.')
                .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            client.set_version(
                parsed.ok_or_else(|| Failure::new(format!("malformed version {version:?}")))?,
            );
        }
        Ok(self.client.get_or_init(|| client))
    }

    /// The client, with one connection open. Starts a daemon where that is wanted.
    pub(crate) async fn client(&self) -> Result<&Client, Failure> {
        let client = self.client_unconnected()?;
        if client.endpoint().source == EndpointSource::Default {
            auto_start::connect(client).await?;
        } else {
            client.warm_up().await?;
        }
        Ok(client)
    }
}

/// Reads the arguments and runs the command.
pub(crate) fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match dispatch(words) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(message) = failure.message {
                output::to_stderr(&format!("{message}\n"));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Ends a command line that was not understood.
fn usage_failure(message: &str, usage: &str, path: &str) -> Failure {
    let full = if path.is_empty() {
        PROGRAM.to_owned()
    } else {
        format!("{PROGRAM} {path}")
    };
    Failure::new(format!(
        "{message}\n\nUsage:  {usage}\n\nRun '{full} --help' for more information"
    ))
    .with_code(failure::ENGINE_FAILED)
}

fn dispatch(words: Vec<String>) -> Outcome {
    let globals = match Matches::parse(tree::GLOBAL_FLAGS, words, false, String::new()) {
        Ok(globals) => globals,
        Err(Stop::Help) => {
            output::print(&help::of_program())?;
            return Ok(0);
        }
        Err(Stop::Wrong(message)) => {
            return Err(usage_failure(
                &message,
                &format!("{PROGRAM} [OPTIONS] COMMAND [ARG...]"),
                "",
            ));
        }
    };
    let mut words = globals.args.clone();
    if globals.on("version") {
        output::print(&format!(
            "Kekkai version {}, build {}\n",
            env!("CARGO_PKG_VERSION"),
            commands::version::short_build()
        ))?;
        return Ok(0);
    }
    let level = globals.text("log-level");
    if ![
        "debug", "info", "warn", "error", "fatal", "trace", "panic", "warning",
    ]
    .contains(&level)
    {
        return Err(Failure::new(format!(
            "Unable to parse logging level: {level}"
        )));
    }
    let wants_help = words.first().is_some_and(|word| word == "help");
    if wants_help {
        words.remove(0);
    }
    let Some((command, path, rest)) = find(&words)? else {
        output::print(&help::of_program())?;
        return Ok(0);
    };
    if wants_help {
        output::print(&help::of_command(command, &path))?;
        return Ok(0);
    }
    let cli = Cli::new(globals);
    run(&cli, command, &path, rest)
}

/// A command, the words that lead to it, and the words after them.
type Found = (&'static Command, String, Vec<String>);

/// Follows the words down the tree. `None`: no words.
fn find(words: &[String]) -> Result<Option<Found>, Failure> {
    let Some((first, mut rest)) = words.split_first() else {
        return Ok(None);
    };
    let Some(mut command) = tree::top().find(|command| command.answers_to(first)) else {
        return Err(Failure::new(format!(
            "{PROGRAM}: unknown command: {PROGRAM} {first}\n\nRun '{PROGRAM} --help' for more information"
        )));
    };
    let mut path = command.name.to_owned();
    while let Action::Group(members) = command.action {
        let Some((word, after)) = rest.split_first() else {
            break;
        };
        if word.starts_with('-') {
            break;
        }
        let Some(member) = members.iter().find(|member| member.answers_to(word)) else {
            return Err(Failure::new(format!(
                "{PROGRAM}: unknown command: {PROGRAM} {path} {word}\n\nUsage:  {PROGRAM} {path}\n\nRun '{PROGRAM} {path} --help' for more information"
            )));
        };
        path.push(' ');
        path.push_str(member.name);
        (command, rest) = (member, after);
    }
    Ok(Some((command, path, rest.to_vec())))
}

fn run(cli: &Cli, command: &'static Command, path: &str, words: Vec<String>) -> Outcome {
    let action = match command.action {
        Action::Run(action) => action,
        Action::Missing => {
            return Err(Failure::new(format!(
                "{PROGRAM}: '{PROGRAM} {path}' is a command of Docker's that kekkai does not have yet"
            )));
        }
        Action::Group(_) => {
            let wrong = match Matches::parse(command.flags, words, false, path.to_owned()) {
                Err(Stop::Wrong(message)) => Some(message),
                _ => None,
            };
            return match wrong {
                Some(message) => Err(usage_failure(&message, &command.usage_line(path), path)),
                None => {
                    output::print(&help::of_command(command, path))?;
                    Ok(0)
                }
            };
        }
    };
    let matches = match Matches::parse(command.flags, words, command.interspersed, path.to_owned())
    {
        Ok(matches) => matches,
        Err(Stop::Help) => {
            output::print(&help::of_command(command, path))?;
            return Ok(0);
        }
        Err(Stop::Wrong(message)) => {
            return Err(usage_failure(&message, &command.usage_line(path), path));
        }
    };
    if let Some(message) = command.arity_error(path, matches.args.len()) {
        return Err(Failure::new(message));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(action(cli, &matches));
    // The process ends now: a blocked reader of standard input must not hold it up, and the kernel closes faster than we.
    std::mem::forget(runtime);
    outcome
}
