//! Image references (`[domain/]path[:tag][@digest]`) with Docker's defaults.
//!
//! Grammar: the distribution specification's reference grammar as distribution/reference defines it. A reference that
//! exists has a domain and a path; `familiar` takes the defaults off again for people to read.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// It would, were it lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The name is longer than 255 characters.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// 64 hexadecimal digits name an image id, never a repository.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    IsId(String),
    /// The digest part is no digest.
    #[error("invalid reference format: {0}")]
    Digest(#[from] crate::digest::ParseDigestError),
}

/// Docker Hub's domain in a normal reference.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Where Docker Hub keeps images whose path has one component.
const OFFICIAL: &str = "library/";
/// The tag that a reference without tag and digest means.
const DEFAULT_TAG: &str = "latest";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A normal image reference. It may have a tag, a digest, both or neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

fn is_path_component(text: &str) -> bool {
    // alphanumerics joined by ".", "_", "__" or any number of "-".
    let bytes = text.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(word) || !bytes.last().is_some_and(word) {
        return false;
    }
    bytes.split(word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        match port.strip_prefix(':') {
            None => return port.is_empty(),
            Some(port) => return !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let component = |part: &str| {
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    host.split('.').all(component)
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= LONGEST_TAG
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl Reference {
    /// Parses what a person types: `alpine`, `alpine:3.20`, `me/app`, `localhost:5000/x@sha256:…`. No tag is added.
    ///
    /// # Errors
    /// When the text is no reference, in distribution/reference's words.
    pub fn parse_normalized(text: &str) -> Result<Self, ParseReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseReferenceError::IsId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it belongs to a port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
            None => (rest, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, path)
            }
            _ => (DEFAULT_DOMAIN, name),
        };
        let domain = if domain == "index.docker.io" {
            DEFAULT_DOMAIN
        } else {
            domain
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) && is_domain(domain) {
            return Err(ParseReferenceError::Uppercase(name.to_owned()));
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) {
            return Err(ParseReferenceError::Format);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ParseReferenceError::Format);
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > LONGEST_NAME {
            return Err(ParseReferenceError::TooLong);
        }
        let digest = digest
            .map(str::parse)
            .transpose()
            .map_err(|error| match error {
                crate::digest::ParseDigestError::Format => ParseReferenceError::Format,
                other => ParseReferenceError::Digest(other),
            })?;
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The same with `latest` where there is neither a tag nor a digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// When `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if !is_tag(tag) {
            return Err(ParseReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The registry's host and port; `docker.io` for Docker Hub.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry (`library/alpine`).
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path without tag and digest.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as Docker shows it: `alpine`, `me/app`, `localhost:5000/x`.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            let short = self
                .path
                .strip_prefix(OFFICIAL)
                .filter(|rest| !rest.contains('/'));
            short.unwrap_or(&self.path).to_owned()
        } else {
            self.repository()
        }
    }

    /// The whole reference as Docker shows it: `alpine:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_repository())
    }

    fn suffixed(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        Self::parse_normalized(text)
    }
}

crate::serde_as_string!(Reference);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_and_familiar() {
        for (text, normal, familiar) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            (
                "docker.io/library/alpine",
                "docker.io/library/alpine",
                "alpine",
            ),
            (
                "index.docker.io/alpine",
                "docker.io/library/alpine",
                "alpine",
            ),
            ("me/app", "docker.io/me/app", "me/app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            (
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
            ),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("a.b/c", "a.b/c", "a.b/c"),
            ("a--b/c__d", "docker.io/a--b/c__d", "a--b/c__d"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), normal);
            assert_eq!(reference.familiar(), familiar);
        }
        let pinned: Reference = format!("alpine:1@sha256:{}", "0".repeat(64))
            .parse()
            .unwrap();
        assert_eq!(pinned.tag(), Some("1"));
        assert!(pinned.digest().is_some());
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            ":",
            "a:",
            "/a",
            "a/",
            "a//b",
            "a:b:c",
            "-a",
            "a_",
            "a___b",
            "a..b",
            "a@",
            "a@sha256:12",
            "a b",
            "../a",
            "a:-x",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert_eq!(
            "Alpine".parse::<Reference>(),
            Err(ParseReferenceError::Uppercase("Alpine".into()))
        );
        assert!(matches!(
            "a".repeat(64).parse::<Reference>(),
            Err(ParseReferenceError::IsId(_))
        ));
        assert_eq!(
            format!("x/{}", "a".repeat(255)).parse::<Reference>(),
            Err(ParseReferenceError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn what_parses_round_trips(text in "\\PC{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
                prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
