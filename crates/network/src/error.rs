//! What can go wrong with networks, in Docker's words where tools match on them.

use std::net::Ipv4Addr;

use kekkai_metadata::MetadataError;
use kekkai_types::{EndpointId, ErrorClass, PortKey, Protocol};

use crate::config::Subnet;

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A process of the host, or no such address, stands in the way.
    #[error(
        "failed to bind host port for {host_ip}:{host_port}:{address}:{container}: {}",
        errno_text(source)
    )]
    Bind {
        /// The host's address.
        host_ip: Ipv4Addr,
        /// The host's port.
        host_port: u16,
        /// The container's address.
        address: Ipv4Addr,
        /// The container's port.
        container: PortKey,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Another container of ours has it.
    #[error("Bind for {host_ip}:{host_port} failed: port is already allocated")]
    Allocated {
        /// The address it is published on.
        host_ip: Ipv4Addr,
        /// The host's port.
        host_port: u16,
    },
    /// A range, or the range of ephemeral ports, has none left.
    #[error("all ports are allocated")]
    Exhausted,
    /// The protocol is not done.
    #[error("publishing {0} ports is not supported")]
    Protocol(Protocol),
    /// Only IPv4 addresses of the host can be published on.
    #[error("publishing ports on the IPv6 address {0} is not supported")]
    Ipv6(std::net::Ipv6Addr),
    /// A range's end is before its start.
    #[error("invalid port range {0}-{1}")]
    Range(u16, u16),
}

/// An operation on networks failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A port could not be published.
    #[error(
        "failed to set up container networking: driver failed programming external connectivity on endpoint {name} ({endpoint}): {source}"
    )]
    Publish {
        /// The container's name.
        name: String,
        /// The attachment that failed.
        endpoint: EndpointId,
        /// Why. (Its text is part of ours, as in Docker.)
        source: PortError,
    },
    /// Only networks that a user made have static addresses.
    #[error(
        "invalid config for network bridge: invalid endpoint settings:\n* user specified IP address is supported on user defined networks only"
    )]
    StaticAddress,
    /// Every address of the subnet is taken.
    #[error(
        "failed to set up container networking: no available IPv4 addresses on this network's address pools: bridge ({subnet})"
    )]
    NoAddress {
        /// The subnet.
        subnet: Subnet,
    },
    /// Every candidate subnet overlaps with a route of the host.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )]
    NoSubnet,
    /// The configuration cannot be.
    #[error("{0}")]
    Config(String),
    /// There is no such network.
    #[error("network {0} not found")]
    NotFound(String),
    /// The name or identifier's prefix fits several networks.
    #[error("network {0} is ambiguous")]
    Ambiguous(String),
    /// `adopt` has not been called, or the service was closed.
    #[error("the network is not ready")]
    NotReady,
    /// The kernel refused a request.
    #[error("{operation}: {}", errno_text(source))]
    Kernel {
        /// What was tried, and on what.
        operation: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("malformed answer of the kernel to {0}")]
    Malformed(&'static str),
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl NetworkError {
    /// How the error reads to a client.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            NetworkError::Publish {
                source: PortError::Protocol(_) | PortError::Ipv6(_),
                ..
            } => ErrorClass::NotImplemented,
            NetworkError::StaticAddress | NetworkError::Config(_) => ErrorClass::InvalidArgument,
            NetworkError::NotFound(_) => ErrorClass::NotFound,
            NetworkError::Ambiguous(_) => ErrorClass::InvalidArgument,
            NetworkError::NotReady => ErrorClass::Unavailable,
            NetworkError::Metadata(error) => error.class(),
            // Docker answers 500 to a port that is taken.
            _ => ErrorClass::Internal,
        }
    }

    pub(crate) fn kernel(
        operation: impl Into<String>,
        source: impl Into<std::io::Error>,
    ) -> NetworkError {
        NetworkError::Kernel {
            operation: operation.into(),
            source: source.into(),
        }
    }
}

/// The system's words for an error number as Go prints them, because Docker's messages carry those.
pub(crate) fn errno_text(error: &std::io::Error) -> String {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => "address already in use".into(),
        Some(Errno::ADDRNOTAVAIL) => "cannot assign requested address".into(),
        Some(Errno::ACCESS) => "permission denied".into(),
        Some(Errno::PERM) => "operation not permitted".into(),
        Some(Errno::NOENT) => "no such file or directory".into(),
        Some(Errno::EXIST) => "file exists".into(),
        _ => error.to_string(),
    }
}
