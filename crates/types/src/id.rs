//! Identifiers: 256 random bits, written as 64 lower-case hexadecimal digits, as Docker does.

use std::fmt;
use std::str::FromStr;

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} id {text:?}: want 64 hexadecimal digits")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

/// `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The bytes that exactly `2 * N` lower-case hexadecimal digits stand for.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// A new identifier from the kernel's random numbers. As in Docker, the short form never consists of
            /// decimal digits alone: a host name made of it would be taken for a number.
            ///
            /// # Panics
            /// When the kernel has no random numbers, without which nothing here is safe.
            #[must_use]
            pub fn random() -> Self {
                loop {
                    let mut bytes = [0; 32];
                    getrandom::fill(&mut bytes).expect("getrandom failed");
                    let id = Self(bytes);
                    if id.short().bytes().any(|digit| !digit.is_ascii_digit()) {
                        return id;
                    }
                }
            }

            /// The identifier of these bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The identifier's bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first twelve digits, as lists show it.
            #[must_use]
            pub fn short(&self) -> String {
                hex(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text).map(Self).ok_or_else(|| ParseIdError {
                    kind: $kind,
                    text: text.chars().take(80).collect(),
                })
            }
        }

        crate::serde_as_string!($name);
    };
}

id!(
    /// Names one container for its whole life.
    ContainerId,
    "container"
);
id!(
    /// Names one exec session of a container.
    ExecId,
    "exec"
);
id!(
    /// Names one network.
    NetworkId,
    "network"
);
id!(
    /// Names one container's attachment to one network.
    EndpointId,
    "endpoint"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id = ContainerId::random();
        assert_eq!(id.to_string().parse::<ContainerId>().unwrap(), id);
        assert_eq!(id.short(), id.to_string()[..12]);
        assert_eq!(
            serde_json::from_str::<ContainerId>(&serde_json::to_string(&id).unwrap()).unwrap(),
            id
        );
    }

    #[test]
    fn refuses_other_texts() {
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
