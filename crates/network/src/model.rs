//! What callers ask for and get: endpoints, their records, and the networks as they are listed.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use kekkai_types::{ContainerId, EndpointId, NetworkId, PortKey, PortMapping, Timestamp};

use crate::config::Subnet;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address that belongs to an IPv4 address. Being a function of it, it saves every neighbour's cache from going
    /// stale when the IP address gets a new owner. Locally administered, unicast.
    #[must_use]
    pub fn of(address: Ipv4Addr) -> MacAddress {
        let [a, b, c, d] = address.octets();
        MacAddress([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no MAC address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a valid mac address")]
pub struct ParseMacError(String);

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<MacAddress, ParseMacError> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut parts = text.split([':', '-']);
            for byte in &mut bytes {
                let part = parts.next().filter(|part| part.len() == 2)?;
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            // A multicast address or none at all cannot be an interface's.
            (parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6])
                .then_some(MacAddress(bytes))
        };
        parse().ok_or_else(|| ParseMacError(text.chars().take(80).collect()))
    }
}

impl serde::Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MacAddress, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a container wants of the default bridge.
#[derive(Clone, Debug)]
pub struct EndpointRequest {
    /// The container.
    pub container: ContainerId,
    /// Its name, for messages.
    pub name: String,
    /// `--mac-address`; `None` takes a ready namespace with the address that goes with its IP address.
    pub mac: Option<MacAddress>,
    /// `--ip`; refused, because only networks that a user made have it.
    pub ip: Option<Ipv4Addr>,
    /// Ports to publish. `-P` is one mapping without host ports for each exposed port.
    pub ports: Vec<PortMapping>,
}

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PublishedPort {
    /// The container's port.
    pub container: PortKey,
    /// The host's address; unspecified means all of them.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
}

/// Everything about an attached container that must be known to release it, or to take it over after a restart.
/// It is stored in the container's document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EndpointRecord {
    /// The container.
    pub container: ContainerId,
    /// The network it is attached to.
    pub network: NetworkId,
    /// This attachment.
    pub endpoint: EndpointId,
    /// The host's end of its interface.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// Its default gateway.
    pub gateway: Ipv4Addr,
    /// Its interface's address.
    pub mac: MacAddress,
    /// Its published ports, in the order asked for.
    pub ports: Vec<PublishedPort>,
}

/// A container's attachment: the record, and the namespace to start it in.
#[derive(Debug)]
pub struct Endpoint {
    /// What is stored.
    pub record: EndpointRecord,
    /// The network namespace, wired and up. Close it once the container has it; a namespace lives as long as somebody
    /// uses it, and its address is not given to anyone else before it is gone.
    pub netns: OwnedFd,
}

/// What driver makes a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkDriver {
    /// A bridge with NAT.
    Bridge,
    /// The host's own network.
    Host,
    /// Loopback only.
    Null,
}

impl NetworkDriver {
    /// Docker's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkDriver::Bridge => "bridge",
            NetworkDriver::Host => "host",
            NetworkDriver::Null => "null",
        }
    }
}

/// A network as it is listed and inspected.
#[derive(Clone, Debug)]
pub struct NetworkInfo {
    /// Its identifier, the same for ever.
    pub id: NetworkId,
    /// `bridge`, `host` or `none`.
    pub name: String,
    /// Its driver.
    pub driver: NetworkDriver,
    /// When it was first made.
    pub created: Timestamp,
    /// Its subnet, whose `address` is the gateway's; bridge only.
    pub subnet: Option<Subnet>,
    /// The driver's options under Docker's names, in their order.
    pub options: Vec<(String, String)>,
    /// The containers attached to it. Those of `host` and `none` are the engine's to fill in.
    pub endpoints: Vec<EndpointRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(
            MacAddress::of(Ipv4Addr::new(172, 17, 0, 2)).to_string(),
            "02:42:ac:11:00:02"
        );
        assert_eq!(
            "92:d0:c6:0a:29:33"
                .parse::<MacAddress>()
                .unwrap()
                .to_string(),
            "92:d0:c6:0a:29:33"
        );
        assert_eq!(
            "92-D0-C6-0A-29-33"
                .parse::<MacAddress>()
                .unwrap()
                .to_string(),
            "92:d0:c6:0a:29:33"
        );
        for bad in [
            "",
            "1",
            "92:d0:c6:0a:29",
            "92:d0:c6:0a:29:33:44",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "zz:d0:c6:0a:29:33",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
