//! The service that the engine uses.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use kekkai_metadata::Database;
use kekkai_types::NetworkId;

use crate::config::{NetworkConfig, Subnet};
use crate::error::NetworkError;
use crate::model::{Endpoint, EndpointRecord, EndpointRequest, NetworkInfo};

/// The networks of one daemon. All methods may be called from any thread of the host's network namespace.
#[derive(Debug)]
pub struct NetworkService {
    config: NetworkConfig,
}

impl NetworkService {
    /// Makes or takes over the bridge, and loads or chooses the networks' identifiers (rows of `database`).
    /// Nothing of an earlier daemon's containers is touched; call [`NetworkService::adopt`] next, once, before anything else.
    pub fn open(config: NetworkConfig, database: &Database) -> Result<NetworkService, NetworkError> {
        let _ = database;
        Ok(NetworkService { config })
    }

    /// Takes over the containers that are still running (none at the first start): their addresses, published ports (sockets
    /// are bound again) and rules. Whatever else an earlier daemon left on the bridge goes. Then the pool starts to fill.
    /// Returns the ports that could not be had again, with the reason.
    pub fn adopt(&self, running: &[EndpointRecord]) -> Result<Vec<NetworkError>, NetworkError> {
        let _ = running;
        Err(NetworkError::NotReady)
    }

    /// Gives a container a ready namespace on the bridge, and publishes its ports. On error nothing is left behind.
    pub fn attach(&self, request: &EndpointRequest) -> Result<Endpoint, NetworkError> {
        let _ = request;
        Err(NetworkError::NotReady)
    }

    /// A ready namespace with nothing but loopback, for `--network none`. Nothing needs to be released.
    pub fn isolated(&self) -> Result<OwnedFd, NetworkError> {
        Err(NetworkError::NotReady)
    }

    /// Takes back a container's ports at once, and its address once the kernel has let go of its interface. Idempotent.
    pub fn release(&self, record: &EndpointRecord) -> Result<(), NetworkError> {
        let _ = record;
        Err(NetworkError::NotReady)
    }

    /// The networks there are: `bridge`, `host`, `none`.
    #[must_use]
    pub fn list(&self) -> Vec<NetworkInfo> {
        Vec::new()
    }

    /// One network by name, identifier, or an identifier's unique prefix.
    pub fn inspect(&self, name_or_id: &str) -> Result<NetworkInfo, NetworkError> {
        Err(NetworkError::NotFound(name_or_id.to_owned()))
    }

    /// The identifier of the default bridge.
    #[must_use]
    pub fn bridge_id(&self) -> NetworkId {
        NetworkId::from_bytes([0; 32])
    }

    /// The bridge's address: the containers' gateway, and what `host-gateway` stands for.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet().address
    }

    /// The bridge's address and subnet.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.config.bip.unwrap_or(Subnet::new(Ipv4Addr::UNSPECIFIED, 32))
    }

    /// Removes the bridge, the table and the rules in foreign chains. For tests and uninstalling; no container may run.
    pub fn destroy(self) -> Result<(), NetworkError> {
        Err(NetworkError::NotReady)
    }
}
