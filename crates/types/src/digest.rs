//! Content digests of the OCI image specification, and the two identifiers of layers that are made of them.

use std::fmt;
use std::str::FromStr;

use crate::id::hex;

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// The text does not have the form `algorithm:hex`.
    #[error("invalid checksum digest format")]
    Format,
    /// The algorithm is neither `sha256` nor `sha512`.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The number of digits does not fit the algorithm.
    #[error("invalid checksum digest length")]
    Length,
}

/// The hash functions that are allowed in a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestAlgorithm {
    /// SHA-256, the one that everybody uses.
    Sha256,
    /// SHA-512, which the specification registers as well.
    Sha512,
}

impl DigestAlgorithm {
    /// The name before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest has.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// `algorithm:hex`, checked. Compared and stored as text; it names bytes and is never computed here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: DigestAlgorithm,
    hex: String,
}

impl Digest {
    /// The digest of these 32 bytes that SHA-256 gave.
    #[must_use]
    pub fn from_sha256(bytes: &[u8; 32]) -> Self {
        Self {
            algorithm: DigestAlgorithm::Sha256,
            hex: hex(bytes),
        }
    }

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// The digits after the colon; safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, as lists show it.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(ParseDigestError::Format)?;
        let algorithm = match algorithm {
            "sha256" => DigestAlgorithm::Sha256,
            "sha512" => DigestAlgorithm::Sha512,
            "" => return Err(ParseDigestError::Format),
            _ => return Err(ParseDigestError::Algorithm),
        };
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseDigestError::Format);
        }
        if hex.len() != algorithm.digits() {
            return Err(ParseDigestError::Length);
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = ParseDigestError;
            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                text.parse().map(Self)
            }
        }
        crate::serde_as_string!($name);
    };
}

crate::serde_as_string!(Digest);
digest_newtype!(
    /// Digest of a layer's uncompressed tar stream (`rootfs.diff_ids` of an image's configuration).
    DiffId
);
digest_newtype!(
    /// Digest of a layer together with all layers below it (image specification, "Layer ChainID").
    ChainId
);

impl ChainId {
    /// The chain of `layers`, lowest first, where `sha256` hashes a text. `None` for no layer.
    ///
    /// The hash function is handed in because this crate computes none.
    #[must_use]
    pub fn of(layers: &[DiffId], sha256: impl Fn(&[u8]) -> [u8; 32]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        let mut chain = first.0.clone();
        for layer in rest {
            chain = Digest::from_sha256(&sha256(format!("{chain} {layer}").as_bytes()));
        }
        Some(Self(chain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_refuses() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        for (bad, why) in [
            ("abc", ParseDigestError::Format),
            ("md5:abc", ParseDigestError::Algorithm),
            ("sha256:abc", ParseDigestError::Length),
            (
                &format!("sha256:{}", "A".repeat(64)),
                ParseDigestError::Format,
            ),
            ("sha256:../../etc/passwd", ParseDigestError::Format),
        ] {
            assert_eq!(bad.parse::<Digest>().unwrap_err(), why, "{bad}");
        }
    }
}
