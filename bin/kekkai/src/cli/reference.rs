//! Image names as commands take them.

use kekkai_types::Reference;

use super::Failure;

/// A name as the user wrote it, normalised: repository and tag or digest for the API.
#[derive(Debug)]
pub(crate) struct ImageName {
    /// The name people know: `alpine:latest`, `alpine@sha256:…`.
    pub(crate) familiar: String,
    /// Without tag and digest, as the API's `fromImage` and `repo` take it.
    pub(crate) repository: String,
    /// The tag, if the name has one (or got `latest`).
    pub(crate) tag: String,
    /// The digest with its algorithm, if the name has one.
    pub(crate) digest: String,
    /// The registry's host.
    pub(crate) domain: String,
}

impl ImageName {
    /// Reads a name and adds `latest` where it has neither tag nor digest.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        Ok(Self::of(&normalized(text)?.with_default_tag()))
    }

    /// Reads a name and adds nothing.
    pub(crate) fn parse_bare(text: &str) -> Result<Self, Failure> {
        Ok(Self::of(&normalized(text)?))
    }

    fn of(reference: &Reference) -> Self {
        Self {
            familiar: reference.familiar(),
            repository: reference.familiar_repository(),
            tag: reference.tag().unwrap_or("").to_owned(),
            digest: reference
                .digest()
                .map(ToString::to_string)
                .unwrap_or_default(),
            domain: reference.domain().to_owned(),
        }
    }

    /// The key of its registry's credentials.
    pub(crate) fn auth_key(&self) -> &str {
        auth_key(&self.domain)
    }
}

/// Reads a name; the words of an error name the official repository in full.
fn normalized(text: &str) -> Result<Reference, Failure> {
    Reference::parse_normalized(text).map_err(|error| {
        let words = error.to_string();
        match words.split_once("repository name (") {
            Some((before, after)) if !after.contains('/') => {
                Failure::new(format!("{before}repository name (library/{after}"))
            }
            _ => Failure::new(words),
        }
    })
}

/// The key of Docker Hub's credentials.
pub(crate) const INDEX_SERVER: &str = "https://index.docker.io/v1/";

/// The key under which a registry's credentials are stored.
pub(crate) fn auth_key(domain: &str) -> &str {
    match domain {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => INDEX_SERVER,
        other => other,
    }
}
