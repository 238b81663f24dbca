//! Credentials of registries: in `config.json`, or in a helper program (`docker-credential-NAME`) that it names.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::Value;

use crate::{AuthEntry, ClientError, ConfigFile};

/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Looks up, stores and erases credentials where the configuration wants them.
#[derive(Debug)]
pub struct CredentialStore<'a> {
    config: &'a ConfigFile,
}

impl<'a> CredentialStore<'a> {
    /// The store that `config` describes.
    #[must_use]
    pub fn new(config: &'a ConfigFile) -> Self {
        Self { config }
    }

    /// The helper for `server`: its own, or the general one.
    #[must_use]
    pub fn helper(&self, server: &str) -> Option<String> {
        let own = self
            .config
            .texts("credHelpers")
            .into_iter()
            .find(|(name, _)| name == server);
        own.map(|(_, helper)| helper)
            .or_else(|| self.config.text("credsStore"))
    }

    /// The credentials for `server`; `None` where there are none.
    ///
    /// # Errors
    /// The helper cannot be run or answers with something else than credentials.
    pub fn get(&self, server: &str) -> Result<Option<AuthEntry>, ClientError> {
        let Some(helper) = self.helper(server) else {
            return Ok(self.config.stored_auth(server));
        };
        let Some(answer) = run_helper(&helper, "get", server)? else {
            return Ok(None);
        };
        let answer: Value = serde_json::from_str(&answer)?;
        let field = |name: &str| answer[name].as_str().unwrap_or("").to_owned();
        let mut entry = AuthEntry {
            serveraddress: server.to_owned(),
            ..AuthEntry::default()
        };
        if field("Username") == TOKEN_USER {
            entry.identitytoken = field("Secret");
        } else {
            entry.username = field("Username");
            entry.password = field("Secret");
        }
        Ok(Some(entry))
    }

    /// Stores the credentials for `server`. Says whether they now lie unencrypted in the file.
    ///
    /// # Errors
    /// The helper refuses, or the file cannot be written.
    pub fn store(&self, server: &str, entry: &AuthEntry) -> Result<bool, ClientError> {
        let Some(helper) = self.helper(server) else {
            self.config.store_auth(server, Some(entry))?;
            return Ok(true);
        };
        let (user, secret) = if entry.identitytoken.is_empty() {
            (entry.username.as_str(), entry.password.as_str())
        } else {
            (TOKEN_USER, entry.identitytoken.as_str())
        };
        let input = serde_json::json!({"ServerURL": server, "Username": user, "Secret": secret})
            .to_string();
        run_helper(&helper, "store", &input)?;
        self.config
            .store_auth(server, Some(&AuthEntry::default()))?;
        Ok(false)
    }

    /// Forgets the credentials for `server`. Says whether there were any.
    ///
    /// # Errors
    /// The helper refuses, or the file cannot be written.
    pub fn erase(&self, server: &str) -> Result<bool, ClientError> {
        let known = self.config.auth_servers().iter().any(|name| name == server);
        if let Some(helper) = self.helper(server) {
            run_helper(&helper, "erase", server)?;
        }
        if known {
            self.config.store_auth(server, None)?;
        }
        Ok(known)
    }
}

/// The value of the header `X-Registry-Auth`.
///
/// # Errors
/// None that can happen; serialising texts does not fail.
pub fn encode_registry_auth(entry: &AuthEntry) -> Result<String, ClientError> {
    Ok(URL_SAFE.encode(serde_json::to_vec(entry)?))
}

/// Runs `docker-credential-NAME VERB` with `input`. `None`: it knows no such credentials.
fn run_helper(name: &str, verb: &str, input: &str) -> Result<Option<String>, ClientError> {
    if name.is_empty() || name.contains('/') {
        return Err(ClientError::Configuration(format!(
            "bad name of a credential helper: {name:?}"
        )));
    }
    let program = format!("docker-credential-{name}");
    let failed = |why: &dyn std::fmt::Display| {
        ClientError::Configuration(format!("error getting credentials - err: {program}: {why}"))
    };
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => failed(&"executable file not found in $PATH"),
            _ => failed(&error),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input closes the pipe; its exit status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(Some(text));
    }
    if text.contains("credentials not found in native keychain") {
        return Ok(None);
    }
    Err(failed(&format!(
        "{}, out: `{}`",
        output.status,
        text.trim()
    )))
}
