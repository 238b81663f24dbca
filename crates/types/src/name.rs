//! Names that users give to containers and volumes.

use std::fmt;
use std::str::FromStr;

/// Why a text is no name. The words are Docker's, because tools match on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// A container's name has a character that is not allowed, or is too short.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Container(String),
    /// A volume's name has a character that is not allowed, or is too short.
    #[error(
        "create {0}: {0:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    Volume(String),
    /// A volume's name has one character only.
    #[error("volume name is too short, names should be at least two alphanumeric characters")]
    VolumeTooShort,
}

/// The longest name we take; file names end at 255 bytes.
const LONGEST: usize = 255;

/// Whether `text` is `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
fn is_restricted_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 2
        && bytes.len() <= LONGEST
        && bytes[0].is_ascii_alphanumeric()
        && bytes[1..]
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = ParseNameError;
            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                let parse: fn(&str) -> Result<String, ParseNameError> = $parse;
                parse(text).map(Self)
            }
        }
        crate::serde_as_string!($name);
    };
}

name!(
    /// A container's name, without the slash that Docker's API puts before it; one slash in the input is taken off.
    ContainerName,
    |text| {
        let bare = text.strip_prefix('/').unwrap_or(text);
        if is_restricted_name(bare) { Ok(bare.to_owned()) } else { Err(ParseNameError::Container(text.to_owned())) }
    }
);
name!(
    /// A volume's name.
    VolumeName,
    |text| {
        if text.len() == 1 {
            Err(ParseNameError::VolumeTooShort)
        } else if is_restricted_name(text) {
            Ok(text.to_owned())
        } else {
            Err(ParseNameError::Volume(text.to_owned()))
        }
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "a1", "web-1_x.y", "/web"] {
            good.parse::<ContainerName>().unwrap();
        }
        for bad in ["", "a", "-a", "a b", "/", "//a", "ä1", "a/b"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
        assert!("../x".parse::<VolumeName>().is_err());
        assert!("..".parse::<VolumeName>().is_err());
    }
}
