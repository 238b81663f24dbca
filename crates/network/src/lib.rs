//! The default bridge network: namespaces kept ready, addresses, NAT, published ports.
//!
//! Everything is done over netlink and nf_tables; no other program is run. Blocking, `Send + Sync`, no async runtime.

#![forbid(unsafe_code)]

mod config;
mod error;
mod files;
mod model;
mod service;

pub use config::{NetworkConfig, ParseSubnetError, PoolSize, Subnet, default_address_pools};
pub use error::{NetworkError, PortError};
pub use files::{
    DnsOptions, ExtraHostError, HostResolver, HostsFile, ResolverReach, extra_host, hosts_file, hosts_file_of_host,
    resolv_conf,
};
pub use model::{
    Endpoint, EndpointRecord, EndpointRequest, MacAddress, NetworkDriver, NetworkInfo, ParseMacError, PublishedPort,
};
pub use service::NetworkService;
