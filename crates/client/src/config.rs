//! `config.json`: where Docker's command line keeps credentials, the current context and preferred formats.
//!
//! The file is read on first use and kept as raw JSON, so that saving it after a login loses no key that we do not know.

use std::cell::OnceCell;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::ClientError;

/// The longest configuration file we read, in bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", default)]
pub struct AuthEntry {
    /// User name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password or access token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// An e-mail address, from old configurations.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// The registry these are for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serveraddress: String,
    /// A token that replaces the password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    /// A bearer token to send as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl std::fmt::Debug for AuthEntry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AuthEntry")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

/// The directory of the configuration: `chosen` (`--config`), `DOCKER_CONFIG`, `~/.docker`.
#[must_use]
pub fn config_dir(chosen: Option<&Path>, environment: impl Fn(&str) -> Option<String>) -> PathBuf {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    match (chosen, set("DOCKER_CONFIG")) {
        (Some(path), _) => path.to_path_buf(),
        (None, Some(path)) => PathBuf::from(path),
        (None, None) => {
            Path::new(&set("HOME").unwrap_or_else(|| String::from("/"))).join(".docker")
        }
    }
}

/// The configuration file, read when first asked.
#[derive(Debug)]
pub struct ConfigFile {
    directory: PathBuf,
    content: OnceCell<(Map<String, Value>, Option<String>)>,
}

impl ConfigFile {
    /// The configuration in `directory`; nothing is read yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            content: OnceCell::new(),
        }
    }

    /// A configuration that says nothing.
    pub fn empty(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            content: OnceCell::from((Map::new(), None)),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of the file itself.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join("config.json")
    }

    fn load(&self) -> &(Map<String, Value>, Option<String>) {
        self.content.get_or_init(|| {
            let path = self.path();
            let read = || -> Result<Map<String, Value>, String> {
                let file = match std::fs::File::open(&path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Ok(Map::new());
                    }
                    Err(error) => return Err(error.to_string()),
                };
                let mut text = String::new();
                std::io::Read::read_to_string(
                    &mut std::io::Read::take(file, MAX_CONFIG),
                    &mut text,
                )
                .map_err(|error| error.to_string())?;
                if text.trim().is_empty() {
                    return Ok(Map::new());
                }
                serde_json::from_str(&text).map_err(|error| error.to_string())
            };
            match read() {
                Ok(map) => (map, None),
                Err(why) => (
                    Map::new(),
                    Some(format!(
                        "Error loading config file: {}: {why}",
                        path.display()
                    )),
                ),
            }
        })
    }

    /// What was wrong with the file, if it was read and was wrong.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.content
            .get()
            .and_then(|(_, warning)| warning.as_deref())
    }

    /// A text value of the top level (`psFormat`, `detachKeys`, …), unless empty.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.load()
            .0
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    /// An object of texts of the top level (`HttpHeaders`, `credHelpers`).
    #[must_use]
    pub fn texts(&self, key: &str) -> Vec<(String, String)> {
        let entries = self.load().0.get(key).and_then(Value::as_object);
        entries
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// The current context's name, if one is set.
    #[must_use]
    pub fn current_context(&self) -> Option<String> {
        self.text("currentContext")
    }

    /// The proxies that containers should see: (variable, value) for the daemon at `host`.
    #[must_use]
    pub fn proxy_variables(&self, host: &str) -> Vec<(String, String)> {
        let Some(proxies) = self.load().0.get("proxies") else {
            return Vec::new();
        };
        let Some(proxy) = proxies.get(host).or_else(|| proxies.get("default")) else {
            return Vec::new();
        };
        let names = [
            ("httpProxy", "HTTP_PROXY"),
            ("httpsProxy", "HTTPS_PROXY"),
            ("ftpProxy", "FTP_PROXY"),
            ("noProxy", "NO_PROXY"),
            ("allProxy", "ALL_PROXY"),
        ];
        let mut variables = Vec::new();
        for (key, variable) in names {
            if let Some(value) = proxy
                .get(key)
                .and_then(Value::as_str)
                .filter(|value| !value.is_empty())
            {
                variables.push((variable.to_owned(), value.to_owned()));
                variables.push((variable.to_lowercase(), value.to_owned()));
            }
        }
        variables
    }

    /// The servers with an entry under `auths`.
    #[must_use]
    pub fn auth_servers(&self) -> Vec<String> {
        let auths = self.load().0.get("auths").and_then(Value::as_object);
        auths.into_iter().flat_map(Map::keys).cloned().collect()
    }

    /// The credentials stored in the file itself for `server`; also found under the same host written as a URL.
    #[must_use]
    pub fn stored_auth(&self, server: &str) -> Option<AuthEntry> {
        let auths = self.load().0.get("auths")?.as_object()?;
        let (key, value) = match auths.get(server) {
            Some(value) => (server, value),
            None => auths
                .iter()
                .find(|(key, _)| host_of(key) == server)
                .map(|(key, value)| (key.as_str(), value))?,
        };
        let mut entry: AuthEntry = serde_json::from_value(value.clone()).ok()?;
        if let Some(encoded) = value
            .get("auth")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
        {
            let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            entry.username = username.to_owned();
            entry.password = password.trim_end_matches('\0').to_owned();
        }
        entry.serveraddress = key.to_owned();
        Some(entry)
    }

    /// Writes credentials into the file.
    ///
    /// # Errors
    /// The file cannot be written, or was unreadable before (it is not overwritten then).
    pub fn store_auth(&self, server: &str, entry: Option<&AuthEntry>) -> Result<(), ClientError> {
        let (content, warning) = self.load();
        if let Some(warning) = warning {
            return Err(ClientError::Configuration(warning.clone()));
        }
        let mut content = content.clone();
        let auths = content
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        let Some(auths) = auths.as_object_mut() else {
            return Err(ClientError::Configuration(format!(
                "{}: \"auths\" is not an object",
                self.path().display()
            )));
        };
        match entry {
            Some(entry) => {
                let mut value = Map::new();
                if !entry.username.is_empty() || !entry.password.is_empty() {
                    let pair = STANDARD.encode(format!("{}:{}", entry.username, entry.password));
                    value.insert("auth".to_owned(), Value::String(pair));
                }
                if !entry.identitytoken.is_empty() {
                    value.insert(
                        "identitytoken".to_owned(),
                        Value::String(entry.identitytoken.clone()),
                    );
                }
                auths.insert(server.to_owned(), Value::Object(value));
            }
            None => {
                auths.shift_remove(server);
            }
        }
        self.save(&content)
    }

    /// Writes the file anew: a private temporary beside it, then a rename.
    fn save(&self, content: &Map<String, Value>) -> Result<(), ClientError> {
        let failed = |error: std::io::Error| {
            ClientError::Configuration(format!(
                "could not write {}: {error}",
                self.path().display()
            ))
        };
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(
            &mut text,
            serde_json::ser::PrettyFormatter::with_indent(b"\t"),
        );
        serde::Serialize::serialize(content, &mut serializer)?;
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        let path = std::fs::read_link(self.path())
            .map_or_else(|_| self.path(), |target| self.directory.join(target));
        let temporary = path.with_extension(format!("json{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed)?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)
    }
}

/// The host part of a registry written as a URL or bare.
fn host_of(server: &str) -> &str {
    let rest = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_keeps_unknown_keys() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("config.json"),
            r#"{"zzz": {"a": [1]}, "psFormat": "x"}"#,
        )
        .unwrap();
        let config = ConfigFile::new(directory.path());
        let entry = AuthEntry {
            username: "u".into(),
            password: "p:q".into(),
            ..AuthEntry::default()
        };
        config.store_auth("localhost:5000", Some(&entry)).unwrap();
        let again = ConfigFile::new(directory.path());
        let read = again.stored_auth("localhost:5000").unwrap();
        assert_eq!(
            (read.username.as_str(), read.password.as_str()),
            ("u", "p:q")
        );
        assert_eq!(again.text("psFormat").as_deref(), Some("x"));
        let raw = std::fs::read_to_string(again.path()).unwrap();
        assert!(raw.contains("\"zzz\""), "{raw}");
        again.store_auth("localhost:5000", None).unwrap();
        assert!(
            ConfigFile::new(directory.path())
                .stored_auth("localhost:5000")
                .is_none()
        );
    }

    #[test]
    fn broken_file_warns_and_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), "{").unwrap();
        let config = ConfigFile::new(directory.path());
        assert_eq!(config.current_context(), None);
        assert!(config.warning().unwrap().contains("config.json"));
        assert!(config.store_auth("x", Some(&AuthEntry::default())).is_err());
    }

    #[test]
    fn an_entry_is_found_under_its_url() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"auths": {"https://reg.example/v1/": {"auth": "dTpw"}}}"#;
        std::fs::write(directory.path().join("config.json"), text).unwrap();
        assert_eq!(
            ConfigFile::new(directory.path())
                .stored_auth("reg.example")
                .unwrap()
                .username,
            "u"
        );
    }
}
