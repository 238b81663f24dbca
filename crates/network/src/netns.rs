//! Making a container's network namespace: interface, address, route, sysctls.
//!
//! What must stay true: the thread is back in the host's namespace when a function returns, also on error; a namespace that
//! is handed out can send at once.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bridge::Bridge;
use crate::config::{NetworkConfig, Subnet};
use crate::error::NetworkError;
use crate::ipam::interface_name;
use crate::model::MacAddress;
use crate::netlink::route::{LOOPBACK, PortMode, Veth};
use crate::netlink::{Batch, Socket};
use crate::sysctl;

/// The container's interface.
const CONTAINER_INTERFACE: &str = "eth0";

/// A namespace that is ready for a container.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) netns: OwnedFd,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: MacAddress,
    pub(crate) interface: String,
}

/// Makes namespaces. Its thread is in a new one while it does, and back in the host's between.
pub(crate) struct Maker {
    host_netns: File,
    host: Socket,
    bridge: Bridge,
    bridge_name: String,
    mtu: u32,
    inter_container: bool,
    ipv6: bool,
}

impl Maker {
    pub(crate) fn new(config: &NetworkConfig, bridge: &Bridge) -> Result<Maker, NetworkError> {
        Ok(Maker {
            host_netns: current_netns()?,
            host: Socket::route()?,
            bridge: bridge.clone(),
            bridge_name: config.bridge.clone(),
            mtu: config.mtu,
            inter_container: config.inter_container,
            ipv6: sysctl::exists("ipv6"),
        })
    }

    /// One with loopback only.
    pub(crate) fn isolated(&mut self) -> Result<OwnedFd, NetworkError> {
        let ((), netns) = self.in_new_netns(|_, _| {
            let mut batch = Batch::new();
            batch.up(LOOPBACK);
            Socket::route()?
                .transact(&batch)
                .map_err(|failure| failure.on("lo"))?;
            container_sysctls()
        })?;
        Ok(netns)
    }

    /// One on the bridge. On error, says whether the interface had been made.
    pub(crate) fn bridged(
        &mut self,
        address: Ipv4Addr,
        mac: Option<MacAddress>,
    ) -> Result<Prepared, (NetworkError, bool)> {
        let interface = interface_name(address);
        let own_mac = mac.unwrap_or(MacAddress::of(address));
        let mut made = false;
        let wired = self.in_new_netns(|maker, netns| {
            maker.connect(&interface, netns, own_mac)?;
            made = true;
            maker.set_up(&interface, address, mac.is_some())
        });
        let wired = wired.and_then(|wired| {
            for link in [interface.as_str(), self.bridge_name.as_str()] {
                self.host
                    .await_running(link)
                    .map_err(|failure| failure.on(link))?;
            }
            Ok(wired)
        });
        match wired {
            Ok(((), netns)) => Ok(Prepared {
                netns,
                address,
                mac: own_mac,
                interface,
            }),
            Err(error) => Err((error, made)),
        }
    }

    /// The host's side.
    fn connect(
        &mut self,
        interface: &str,
        netns: BorrowedFd<'_>,
        mac: MacAddress,
    ) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        batch.add_veth(&Veth {
            host_name: interface,
            bridge: self.bridge.index,
            mtu: self.mtu,
            netns,
            name: CONTAINER_INTERFACE,
            mac,
        });
        batch.up_port(
            interface,
            PortMode {
                isolated: !self.inter_container,
                ipv6: self.ipv6,
            },
        );
        self.host
            .transact(&batch)
            .map_err(|failure| failure.on(interface))
    }

    /// The container's side; the thread is in its namespace.
    fn set_up(
        &self,
        interface: &str,
        address: Ipv4Addr,
        announce: bool,
    ) -> Result<(), NetworkError> {
        let mut socket = Socket::route()?;
        let fail = |failure: crate::netlink::Failure| {
            failure.on(&format!("{CONTAINER_INTERFACE} of {interface}"))
        };
        let link = socket.link(CONTAINER_INTERFACE).map_err(fail)?;
        let index = link
            .ok_or(NetworkError::Malformed("the look-up of a veth"))?
            .index;
        if self.ipv6 {
            sysctl::write(
                &format!("ipv6/conf/{CONTAINER_INTERFACE}/disable_ipv6"),
                "1",
            )?;
        }
        if announce {
            // Neighbours may know the address with another owner's MAC address.
            sysctl::write(&format!("ipv4/conf/{CONTAINER_INTERFACE}/arp_notify"), "1")?;
        }
        container_sysctls()?;
        let subnet = self.bridge.subnet;
        let mut batch = Batch::new();
        batch.up(LOOPBACK);
        batch.add_address(index, Subnet::new(address, subnet.prefix_len));
        batch.up(index);
        batch.add_default_route(subnet.address);
        batch.add_neighbour(index, subnet.address, self.bridge.mac);
        socket.transact(&batch).map_err(fail)?;
        socket.await_running(CONTAINER_INTERFACE).map_err(fail)
    }

    /// Runs `work` in a new namespace and comes back. Nobody sees the namespace unless it succeeds.
    fn in_new_netns<T>(
        &mut self,
        work: impl FnOnce(&mut Maker, BorrowedFd<'_>) -> Result<T, NetworkError>,
    ) -> Result<(T, OwnedFd), NetworkError> {
        unshare_netns()?;
        let outcome = current_netns().and_then(|netns| {
            let result = work(self, netns.as_fd())?;
            Ok((result, OwnedFd::from(netns)))
        });
        move_into_link_name_space(self.host_netns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| {
                NetworkError::kernel("return to the host's network namespace", errno)
            })?;
        outcome
    }
}

/// Docker's sysctls of a container with a network namespace of its own.
fn container_sysctls() -> Result<(), NetworkError> {
    sysctl::write("ipv4/ip_unprivileged_port_start", "0")?;
    sysctl::write("ipv4/ping_group_range", "0 2147483647")
}

fn unshare_netns() -> Result<(), NetworkError> {
    /// `CLONE_NEWNET`.
    const NEW_NETWORK: u64 = 0x4000_0000;
    kekkai_sys::pidfd::unshare_namespaces(NEW_NETWORK)
        .map_err(|errno| NetworkError::kernel("create a network namespace", errno))
}

/// The network namespace of the calling thread.
fn current_netns() -> Result<File, NetworkError> {
    File::open("/proc/thread-self/ns/net")
        .map_err(|source| NetworkError::kernel("open the network namespace", source))
}
