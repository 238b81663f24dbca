//! Words that the whole engine shares: identifiers, references, digests, platforms, ports, sizes, signals, times and
//! error classes.
//!
//! What must stay true: no I/O, no clock except in [`Timestamp::now`], no knowledge of any wire format beyond the
//! textual form of each value. A value that exists is valid: every type is made by parsing or by a checked constructor.

#![forbid(unsafe_code)]

mod digest;
mod error;
mod exit;
mod id;
mod name;
mod platform;
mod port;
mod reference;
mod signal;
pub mod size;
mod time;

pub use digest::{ChainId, DiffId, Digest, DigestAlgorithm, ParseDigestError};
pub use error::{Classify, ErrorClass};
pub use exit::ExitStatus;
pub use id::{ContainerId, EndpointId, ExecId, NetworkId, ParseIdError};
pub use name::{ContainerName, ParseNameError, VolumeName};
pub use platform::{ParsePlatformError, Platform};
pub use port::{ParsePortError, PortKey, PortMapping, Protocol};
pub use reference::{ParseReferenceError, Reference};
pub use signal::{ParseSignalError, Signal};
pub use time::{
    ParseDurationError, ParseTimestampError, Timestamp, format_duration, parse_duration,
};

/// Implements `Serialize` and `Deserialize` through a type's `Display` and `FromStr`.
macro_rules! serde_as_string {
    ($($name:ty),+ $(,)?) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use serde_as_string;
