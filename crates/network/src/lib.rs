//! The default bridge network: namespaces kept ready, addresses, NAT, published ports.
//!
//! Everything is done over netlink and nf_tables; no other program is run. Blocking, `Send + Sync`, no async runtime.
//!
//! ```text
//!  container netns: lo, eth0 172.17.0.2/16 ----veth---- kkac110002 [bridge kekkai0 172.17.0.1] --- host --- outside
//!        ^ made ahead by `pool`, on `netlink`                ^ `bridge`          ^ table `kekkai` of `firewall`:
//!        address from `ipam`, freed when `watch`                                  masquerade, published `ports`,
//!        hears that the interface is gone                                         who may enter; `foreign` drops
//! ```
//!
//! What marks a thing as ours is the bridge: its ports named after their addresses, one table, rules that name the bridge.
//! A daemon with another bridge never touches them. Not done here: IPv6, networks that users make, SCTP.

#![forbid(unsafe_code)]

mod bridge;
mod config;
mod error;
mod files;
mod firewall;
mod flows;
mod foreign;
mod ipam;
mod model;
mod netlink;
mod netns;
mod networks;
mod pool;
mod ports;
mod service;
mod sysctl;
#[cfg(test)]
mod tests;
mod watch;

pub use config::{NetworkConfig, ParseSubnetError, PoolSize, Subnet, default_address_pools};
pub use error::{NetworkError, PortError};
pub use files::{
    DnsOptions, ExtraHostError, HostResolver, HostsFile, ResolverReach, extra_host, hosts_file,
    hosts_file_of_host, resolv_conf,
};
pub use model::{
    Endpoint, EndpointRecord, EndpointRequest, MacAddress, NetworkDriver, NetworkInfo,
    ParseMacError, PublishedPort,
};
pub use service::{NetworkService, purge};
