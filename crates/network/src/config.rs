//! How the network service is set up. Everything has a name of its own, so that several daemons live side by side.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 address with the length of its network's prefix, e.g. `172.17.0.1/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    /// Any address of it; [`Subnet::network`] has the first.
    pub address: Ipv4Addr,
    /// 0–32.
    pub prefix_len: u8,
}

impl Subnet {
    /// A subnet from its parts; `prefix_len` is cut to 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix_len: u8) -> Subnet {
        Subnet {
            address,
            prefix_len: if prefix_len > 32 { 32 } else { prefix_len },
        }
    }

    /// The bits that all its addresses share.
    #[must_use]
    pub fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix_len))
            .unwrap_or(0)
    }

    /// The address of the network itself.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask())
    }

    /// The last address, which is the broadcast address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.address) & self.mask()
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// The subnet as Docker writes it: the network's address and the prefix length.
    #[must_use]
    pub fn to_network_string(self) -> String {
        format!("{}/{}", self.network(), self.prefix_len)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Why a text is no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct ParseSubnetError(String);

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Subnet, ParseSubnetError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let length = length.parse::<u8>().ok().filter(|n| *n <= 32)?;
            Some(Subnet::new(address.parse().ok()?, length))
        };
        parse().ok_or_else(|| ParseSubnetError(text.chars().take(80).collect()))
    }
}

/// How many network namespaces are kept ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    /// Kept when nothing happens.
    pub min: usize,
    /// Reached when containers start in bursts. An eighth of the subnet at most, whatever this says.
    pub max: usize,
}

impl Default for PoolSize {
    /// 8 to 64: each costs the kernel some 325 KB, and a burst of clients meets the first ones before the pool has grown.
    fn default() -> PoolSize {
        PoolSize { min: 8, max: 64 }
    }
}

/// The set-up of one daemon's default bridge network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge (at most 15 bytes). It is made when missing, and it is what marks everything as ours.
    pub bridge: String,
    /// `--bip`: the bridge's address and its subnet. `None` chooses a free one of `address_pools`.
    pub bip: Option<Subnet>,
    /// Where a subnet is chosen from, in order; each entry is one candidate.
    pub address_pools: Vec<Subnet>,
    /// MTU of the bridge and of the containers' interfaces.
    pub mtu: u32,
    /// Name of the nf_tables table (family `ip`).
    pub table: String,
    /// How many namespaces are kept ready.
    pub pool: PoolSize,
    /// `--icc`: whether containers of the network reach each other.
    pub inter_container: bool,
    /// `--ip-masq`: whether what leaves the network gets the host's address.
    pub masquerade: bool,
    /// `--ip-forward`: whether `net.ipv4.ip_forward` may be switched on.
    pub ip_forward: bool,
    /// `--ip`: the host address of published ports that name none.
    pub host_binding: Ipv4Addr,
    /// Whether two accept rules may be put into a foreign forward chain that drops (`design/pitfalls.md` 18).
    pub foreign_forward: bool,
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        NetworkConfig {
            bridge: "kekkai0".into(),
            bip: None,
            address_pools: default_address_pools(),
            mtu: 1500,
            table: "kekkai".into(),
            pool: PoolSize::default(),
            inter_container: true,
            masquerade: true,
            ip_forward: true,
            host_binding: Ipv4Addr::UNSPECIFIED,
            foreign_forward: true,
        }
    }
}

/// Docker's default pools: 172.17/16 to 172.31/16, then 192.168/16 in pieces of /20.
#[must_use]
pub fn default_address_pools() -> Vec<Subnet> {
    let large = (17..=31).map(|n| Subnet::new(Ipv4Addr::new(172, n, 0, 0), 16));
    let small = (0..16).map(|n| Subnet::new(Ipv4Addr::new(192, 168, n * 16, 0), 20));
    large.chain(small).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        let subnet: Subnet = "172.17.3.4/16".parse().unwrap();
        assert_eq!(subnet.network(), Ipv4Addr::new(172, 17, 0, 0));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(172, 17, 255, 255));
        assert_eq!(subnet.to_network_string(), "172.17.0.0/16");
        assert!(subnet.contains(Ipv4Addr::new(172, 17, 255, 1)));
        assert!(!subnet.contains(Ipv4Addr::new(172, 18, 0, 1)));
        assert!(subnet.overlaps("172.16.0.0/12".parse().unwrap()));
        assert!(subnet.overlaps("172.17.9.0/24".parse().unwrap()));
        assert!(!subnet.overlaps("172.18.0.0/16".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Subnet>().unwrap().overlaps(subnet));
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "1.2.3.4/x"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
