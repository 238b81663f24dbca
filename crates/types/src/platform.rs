//! Platforms (`os/architecture/variant`), in the normal form of containerd and Docker.

use std::fmt;
use std::str::FromStr;

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePlatformError {
    /// A component is empty or has a character that is not allowed.
    #[error(
        "{0:?} is an invalid component of {1:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component(String, String),
    /// Neither a known operating system nor a known architecture.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// More than three components.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    Form(String),
}

/// What an image or a host runs: operating system, architecture, and the architecture's variant where there are several.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux` for all that we run.
    pub os: String,
    /// Go's name of the architecture: `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v6`, `v7`, `v8`, … or empty.
    pub variant: String,
}

/// Another spelling's normal form.
fn normalize_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (arch, var) = (
        architecture.to_ascii_lowercase(),
        variant.to_ascii_lowercase(),
    );
    let (arch, var) = match (arch.as_str(), var.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", var) => ("amd64", var),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", var) => ("arm64", var),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (arch, var) => (arch, var),
    };
    (arch.to_owned(), var.to_owned())
}

const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];
const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];

impl Platform {
    /// The normal form of these three words.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normalize_architecture(architecture, variant);
        let os = match os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// The platform that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, "")
    }

    /// How well an image of platform `self` runs where `wanted` was asked for: `None` not at all, else smaller is
    /// better. A 32-bit arm host also runs earlier variants.
    #[must_use]
    pub fn rank_for(&self, wanted: &Self) -> Option<u8> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        if self.variant == wanted.variant {
            return Some(0);
        }
        let level = |variant: &str| variant.strip_prefix('v').and_then(|v| v.parse::<u8>().ok());
        match (
            self.architecture.as_str(),
            level(&self.variant),
            level(&wanted.variant),
        ) {
            ("arm", Some(have), Some(want)) if have < want => Some(want - have),
            ("amd64", Some(have), Some(want)) if have < want => Some(want - have),
            ("amd64", None, Some(want)) => Some(want),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        for part in &parts {
            if part.is_empty()
                || !part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            {
                return Err(ParsePlatformError::Component(
                    (*part).to_owned(),
                    text.to_owned(),
                ));
            }
        }
        match parts.as_slice() {
            [one] => {
                let host = Self::host();
                if SYSTEMS.contains(&one.to_ascii_lowercase().as_str()) {
                    return Ok(Self::new(one, &host.architecture, &host.variant));
                }
                let platform = Self::new("linux", one, "");
                if ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    Ok(platform)
                } else {
                    Err(ParsePlatformError::Unknown(text.to_owned()))
                }
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(ParsePlatformError::Form(text.to_owned())),
        }
    }
}

crate::serde_as_string!(Platform);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm", "linux/arm/v7"),
            ("Linux/aarch64", "linux/arm64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
        for bad in ["", "linux/", "foo", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arm_falls_back() {
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        let v6: Platform = "linux/arm/v6".parse().unwrap();
        assert_eq!(v6.rank_for(&v7), Some(1));
        assert_eq!(v7.rank_for(&v6), None);
    }
}
