//! The bridge: made when missing, taken over when there; and the choice of its subnet.

use std::net::Ipv4Addr;

use crate::config::{NetworkConfig, Subnet};
use crate::error::NetworkError;
use crate::model::MacAddress;
use crate::netlink::route::Link;
use crate::netlink::{Batch, Socket};
use crate::sysctl;

/// What marks a bridge as made by us.
const ALIAS: &str = "kekkai";
/// Longest name of an interface in bytes.
const MAX_NAME: usize = 15;

/// The bridge that containers are on.
#[derive(Clone, Debug)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    /// Its address and subnet.
    pub(crate) subnet: Subnet,
    pub(crate) mac: MacAddress,
}

/// Makes or takes over the bridge. `previous` is the subnet it had at an earlier start.
pub(crate) fn ensure(
    config: &NetworkConfig,
    previous: Option<Subnet>,
    socket: &mut Socket,
) -> Result<Bridge, NetworkError> {
    check(config)?;
    let name = config.bridge.as_str();
    let fail = |failure: crate::netlink::Failure| failure.on(name);
    let bridge = match socket.link(name).map_err(fail)? {
        Some(link) => take_over(config, previous, socket, &link)?,
        None => {
            let subnet = choose(config, previous, socket, 0)?;
            // From the address, so that the containers' permanent neighbour entry for it outlives the bridge.
            let mac = MacAddress::of(subnet.address);
            let mut batch = Batch::new();
            batch.add_bridge(name, mac, config.mtu, ALIAS);
            socket.transact(&batch).map_err(fail)?;
            let link = socket
                .link(name)
                .map_err(fail)?
                .ok_or(NetworkError::Malformed("the look-up of a bridge"))?;
            Bridge {
                index: link.index,
                subnet,
                mac,
            }
        }
    };
    // Before it is up, so that it never has an IPv6 address: there is no IPv6 on this network.
    if sysctl::exists("ipv6") {
        sysctl::ensure(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    // Ports published on 127.0.0.1 need it; our table keeps such addresses from coming in.
    sysctl::ensure(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
    let mut batch = Batch::new();
    batch.add_address(bridge.index, bridge.subnet);
    batch.up(bridge.index);
    socket.transact(&batch).map_err(fail)?;
    if config.ip_forward {
        sysctl::ensure("ipv4/ip_forward", "1")?;
    }
    Ok(bridge)
}

/// Removes the bridge if we made it.
pub(crate) fn remove(config: &NetworkConfig, socket: &mut Socket) -> Result<(), NetworkError> {
    let fail = |failure: crate::netlink::Failure| failure.on(&config.bridge);
    match socket.link(&config.bridge).map_err(fail)? {
        Some(link) if link.alias == ALIAS => {
            let mut batch = Batch::new();
            batch.delete_link(link.index);
            socket.transact(&batch).map_err(fail)
        }
        _ => Ok(()),
    }
}

fn check(config: &NetworkConfig) -> Result<(), NetworkError> {
    let name = &config.bridge;
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    if name.is_empty()
        || name.len() > MAX_NAME
        || !name.bytes().all(good)
        || name == "."
        || name == ".."
    {
        return Err(NetworkError::Config(format!(
            "invalid name of a bridge: {name:?}"
        )));
    }
    if config.mtu < 68 || config.mtu > 65535 {
        return Err(NetworkError::Config(format!("invalid MTU: {}", config.mtu)));
    }
    if let Some(bip) = config.bip
        && (bip.prefix_len > 30 || bip.address == bip.network() || bip.address == bip.broadcast())
    {
        return Err(NetworkError::Config(format!(
            "bip {bip} is not the address of a host in a network"
        )));
    }
    Ok(())
}

fn take_over(
    config: &NetworkConfig,
    previous: Option<Subnet>,
    socket: &mut Socket,
    link: &Link,
) -> Result<Bridge, NetworkError> {
    let name = config.bridge.as_str();
    let fail = |failure: crate::netlink::Failure| failure.on(name);
    if link.kind != "bridge" {
        return Err(NetworkError::Config(format!(
            "interface {name} is not a bridge"
        )));
    }
    let addresses = socket.addresses(link.index).map_err(fail)?;
    let wanted = match (config.bip, addresses.first()) {
        (Some(bip), _) => bip,
        (None, Some(address)) => *address,
        (None, None) => choose(config, previous, socket, link.index)?,
    };
    let ours = link.alias == ALIAS;
    if !addresses.is_empty() && !addresses.contains(&wanted) && !ours {
        return Err(NetworkError::Config(format!(
            "bridge {name} has address {}, not {wanted}",
            addresses[0]
        )));
    }
    let mut batch = Batch::new();
    if ours {
        for other in addresses.iter().filter(|address| **address != wanted) {
            batch.delete_address(link.index, *other);
        }
        let mac = MacAddress::of(wanted.address);
        if link.mac != Some(mac) || link.mtu != config.mtu {
            batch.configure(link.index, mac, config.mtu);
        }
    }
    if !batch.is_empty() {
        socket.transact(&batch).map_err(fail)?;
    }
    let mac = if ours {
        Some(MacAddress::of(wanted.address))
    } else {
        link.mac
    };
    Ok(Bridge {
        index: link.index,
        subnet: wanted,
        mac: mac.ok_or(NetworkError::Malformed("the look-up of a bridge"))?,
    })
}

/// A subnet that no route of the host overlaps with; routes by the bridge itself do not count.
fn choose(
    config: &NetworkConfig,
    previous: Option<Subnet>,
    socket: &mut Socket,
    own: u32,
) -> Result<Subnet, NetworkError> {
    if let Some(bip) = config.bip {
        return Ok(bip);
    }
    let routes = socket
        .route_destinations()
        .map_err(|failure| failure.on("of the host"))?;
    let mut used: Vec<Subnet> = routes
        .into_iter()
        .filter(|(_, interface)| own == 0 || *interface != own)
        .map(|(subnet, _)| subnet)
        .collect();
    used.extend(nameservers().map(|address| Subnet::new(address, 32)));
    pick(&config.address_pools, previous, &used).ok_or(NetworkError::NoSubnet)
}

/// The host's resolvers: a network of ours around one of them would cut it off.
fn nameservers() -> impl Iterator<Item = Ipv4Addr> {
    let text = crate::files::HostResolver::read().host;
    let found: Vec<Ipv4Addr> = text
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .collect();
    found.into_iter()
}

/// The first candidate that is free, with the gateway's address; the one used before is the first candidate.
fn pick(pools: &[Subnet], previous: Option<Subnet>, used: &[Subnet]) -> Option<Subnet> {
    let first_host = |pool: &Subnet| {
        Subnet::new(
            Ipv4Addr::from(u32::from(pool.network()) + 1),
            pool.prefix_len,
        )
    };
    previous
        .into_iter()
        .chain(pools.iter().map(first_host))
        .find(|candidate| used.iter().all(|subnet| !subnet.overlaps(*candidate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_what_is_free() {
        let pools = crate::config::default_address_pools();
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert_eq!(pick(&pools, None, &[]), Some(subnet("172.17.0.1/16")));
        let used = [
            subnet("172.17.0.0/16"),
            subnet("172.18.4.0/24"),
            subnet("10.0.0.0/8"),
        ];
        assert_eq!(pick(&pools, None, &used), Some(subnet("172.19.0.1/16")));
        assert_eq!(
            pick(&pools, Some(subnet("172.30.0.1/16")), &used),
            Some(subnet("172.30.0.1/16"))
        );
        assert_eq!(
            pick(&pools, Some(subnet("172.17.0.1/16")), &used),
            Some(subnet("172.19.0.1/16"))
        );
        assert_eq!(
            pick(&pools, None, &[subnet("172.16.0.0/12")]),
            Some(subnet("192.168.0.1/20"))
        );
        assert_eq!(pick(&pools, None, &[subnet("128.0.0.0/1")]), None);
    }
}
