//! Ports that a container exposes and host ports that are published for them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Why a text is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePortError {
    /// The number is none, 0, or above 65535.
    #[error("invalid containerPort: {0}")]
    Number(String),
    /// The protocol is neither tcp, udp nor sctp.
    #[error("invalid proto: {0}")]
    Protocol(String),
}

/// The transport protocols that a port may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The lower-case name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = ParsePortError;
    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(ParsePortError::Protocol(text.to_owned())),
        }
    }
}

/// A container's port as a key of the API's maps: `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// 1–65535.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for PortKey {
    type Err = ParsePortError;
    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = number
            .parse()
            .ok()
            .filter(|n| *n != 0)
            .ok_or_else(|| ParsePortError::Number(text.to_owned()))?;
        Ok(Self {
            port,
            protocol: protocol.parse()?,
        })
    }
}

crate::serde_as_string!(Protocol, PortKey);

/// One request to publish a container's port on the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// The container's port.
    pub container: PortKey,
    /// The host's address; `None` for all of them.
    pub host_ip: Option<IpAddr>,
    /// The first and last host port to choose from; `None` lets the engine choose an ephemeral one.
    pub host_ports: Option<(u16, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!("80".parse::<PortKey>().unwrap().to_string(), "80/tcp");
        assert_eq!("53/UDP".parse::<PortKey>().unwrap().to_string(), "53/udp");
        for bad in ["", "0", "65536", "80/foo", "x/tcp"] {
            assert!(bad.parse::<PortKey>().is_err(), "{bad}");
        }
    }
}
