//! `login` and `logout`.

use std::io::Read;

use kekkai_client::{AuthEntry, CredentialStore, Request};
use serde_json::Value as Json;

use super::text;
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::reference::{INDEX_SERVER, auth_key};
use crate::cli::{Cli, Failure, output, terminal};

pub(crate) const FLAGS: &[Flag] = &[
    text_flag("password", "Password or access token").short('p'),
    switch(
        "password-stdin",
        "Read the password or access token from stdin",
    ),
    text_flag("username", "User name").short('u'),
];

/// The longest password read from standard input, in bytes.
const MAX_PASSWORD: u64 = 1 << 20;

/// The key of a registry as the user names it.
fn server_key(argument: Option<&String>) -> String {
    let Some(argument) = argument else {
        return INDEX_SERVER.to_owned();
    };
    if argument == INDEX_SERVER {
        return INDEX_SERVER.to_owned();
    }
    let bare = argument
        .strip_prefix("https://")
        .or_else(|| argument.strip_prefix("http://"))
        .unwrap_or(argument);
    auth_key(bare.split('/').next().unwrap_or(bare)).to_owned()
}

pub(crate) async fn login(cli: &Cli, matches: &Matches) -> Outcome {
    let mut user = matches.text("username").to_owned();
    let mut password = matches.text("password").to_owned();
    if !password.is_empty() {
        output::to_stderr(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n",
        );
        if matches.on("password-stdin") {
            return Err(Failure::new(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
    }
    if matches.on("password-stdin") {
        if user.is_empty() {
            return Err(Failure::new(
                "the --password-stdin option requires --username to be set",
            ));
        }
        let mut text = String::new();
        std::io::stdin()
            .lock()
            .take(MAX_PASSWORD)
            .read_to_string(&mut text)?;
        password = text.strip_suffix('\n').unwrap_or(&text).to_owned();
        password = password
            .strip_suffix('\r')
            .map_or(password.clone(), str::to_owned);
        if password.is_empty() {
            return Err(Failure::new("password is empty"));
        }
    }
    let server = server_key(matches.args.first());
    let store = CredentialStore::new(&cli.config);
    let known = store.get(&server)?;
    if let (true, true, Some(known)) = (user.is_empty(), password.is_empty(), &known)
        && (!known.username.is_empty() || !known.identitytoken.is_empty())
    {
        output::line("Authenticating with existing credentials...")?;
        if let Ok(status) = authenticate(cli, known).await {
            output::line(text(&status, "Status"))?;
            return Ok(0);
        }
        output::to_stderr("Stored credentials invalid or expired\n");
    }
    (user, password) = ask(user, password, known.as_ref())?;
    let mut entry = AuthEntry {
        username: user,
        password,
        serveraddress: server.clone(),
        ..AuthEntry::default()
    };
    let answer = authenticate(cli, &entry).await?;
    let token = text(&answer, "IdentityToken");
    if !token.is_empty() {
        token.clone_into(&mut entry.identitytoken);
        entry.password.clear();
    }
    let in_plain_file = store.store(&server, &entry)?;
    if in_plain_file {
        output::to_stderr(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n\n",
            cli.config.path().display()
        ));
    }
    let status = text(&answer, "Status");
    if !status.is_empty() {
        output::line(status)?;
    }
    Ok(0)
}

async fn authenticate(cli: &Cli, entry: &AuthEntry) -> Result<Json, Failure> {
    let client = cli.client().await?;
    Ok(client
        .send(Request::post("/auth").json(entry)?)
        .await?
        .json()
        .await?)
}

/// Asks for what is missing.
fn ask(
    mut user: String,
    mut password: String,
    known: Option<&AuthEntry>,
) -> Result<(String, String), Failure> {
    if (user.is_empty() || password.is_empty()) && !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "Error: Cannot perform an interactive login from a non TTY device",
        ));
    }
    if user.is_empty() {
        let default = known.map_or("", |entry| entry.username.as_str());
        let hint = if default.is_empty() {
            String::new()
        } else {
            format!(" ({default})")
        };
        output::print(&format!("Username{hint}: "))?;
        user = read_line()?;
        if user.is_empty() {
            default.clone_into(&mut user);
        }
        if user.is_empty() {
            return Err(Failure::new("Error: Non-null Username Required"));
        }
    }
    if password.is_empty() {
        output::print("Password: ")?;
        password = terminal::without_echo(read_line)?;
        output::print("\n")?;
        if password.is_empty() {
            return Err(Failure::new("Error: Password Required"));
        }
    }
    Ok((user, password))
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

pub(crate) async fn logout(cli: &Cli, matches: &Matches) -> Outcome {
    let server = server_key(matches.args.first());
    let shown = matches.args.first().map_or(server.as_str(), String::as_str);
    let store = CredentialStore::new(&cli.config);
    output::line(&format!("Removing login credentials for {shown}"))?;
    if let Err(error) = store.erase(&server) {
        output::to_stderr(&format!("WARNING: could not erase credentials:\n{error}\n"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let key = |text: &str| server_key(Some(&text.to_owned()));
        assert_eq!(server_key(None), INDEX_SERVER);
        assert_eq!(key("docker.io"), INDEX_SERVER);
        assert_eq!(key("https://reg.example/v1/"), "reg.example");
        assert_eq!(key("localhost:5000"), "localhost:5000");
    }
}
