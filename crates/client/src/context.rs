//! Docker contexts: `contexts/meta/<hash of the name>/meta.json` and the TLS files beside them.
//!
//! The directory is found by the name inside the file, not by hashing the name: there are few contexts, and it is the
//! name inside that counts.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{ClientError, TlsFiles};

/// A context that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// What its creator says about it.
    pub description: String,
    /// The daemon's address.
    pub host: String,
    /// TLS files, if it has any.
    pub tls: Option<TlsFiles>,
}

/// The contexts of one configuration directory.
#[derive(Debug)]
pub struct ContextStore {
    root: PathBuf,
}

impl ContextStore {
    /// The contexts under `config_directory`.
    #[must_use]
    pub fn new(config_directory: &Path) -> Self {
        Self {
            root: config_directory.join("contexts"),
        }
    }

    /// All contexts, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Context> {
        let Ok(entries) = std::fs::read_dir(self.root.join("meta")) else {
            return Vec::new();
        };
        let mut all: Vec<Context> = entries
            .flatten()
            .filter_map(|entry| self.read(&entry.path()))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The context called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn load(&self, name: &str) -> Result<Context, ClientError> {
        self.list()
            .into_iter()
            .find(|context| context.name == name)
            .ok_or_else(|| {
                ClientError::Configuration(format!(
                    "context \"{name}\": context not found: open {}: no such file or directory",
                    self.root.join("meta").display()
                ))
            })
    }

    fn read(&self, directory: &Path) -> Option<Context> {
        let meta: Value =
            serde_json::from_slice(&std::fs::read(directory.join("meta.json")).ok()?).ok()?;
        let endpoint = &meta["Endpoints"]["docker"];
        let skip = endpoint["SkipTLSVerify"].as_bool().unwrap_or(false);
        let tls_directory = self
            .root
            .join("tls")
            .join(directory.file_name()?)
            .join("docker");
        let tls =
            (skip || tls_directory.is_dir()).then(|| TlsFiles::in_directory(&tls_directory, skip));
        Some(Context {
            name: meta["Name"].as_str()?.to_owned(),
            description: meta["Metadata"]["Description"]
                .as_str()
                .unwrap_or("")
                .to_owned(),
            host: endpoint["Host"].as_str()?.to_owned(),
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().join("contexts/meta/abc");
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"far","Metadata":{"Description":"d"},"Endpoints":{"docker":{"Host":"tcp://h:1","SkipTLSVerify":false}}}"#,
        )
        .unwrap();
        let store = ContextStore::new(directory.path());
        assert_eq!(store.load("far").unwrap().host, "tcp://h:1");
        assert!(
            store
                .load("near")
                .unwrap_err()
                .to_string()
                .contains("context \"near\"")
        );
    }
}
