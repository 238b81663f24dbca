//! Links, addresses, routes and neighbours (`rtnetlink(7)`).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::{
    Batch, Failure, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Socket,
};
use super::{attribute, text, u32_at};
use crate::config::Subnet;
use crate::model::MacAddress;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `IN6_ADDR_GEN_MODE_NONE`.
const NO_ADDRESS: u8 = 1;
const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;
const NUD_PERMANENT: u16 = 0x80;
/// How often it is looked whether a link can send.
const RUNNING_ATTEMPTS: u32 = 200;
/// Between two looks.
const RUNNING_PAUSE: Duration = Duration::from_millis(1);
/// Loopback's index in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// What is known of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
    /// Whether packets can be sent: a link that is up still drops them until the kernel has seen its carrier.
    pub(crate) running: bool,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    pub(crate) master: u32,
    pub(crate) mac: Option<MacAddress>,
}

/// What kind of bridge port a host's end is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortMode {
    /// Whether it cannot talk to other isolated ports.
    pub(crate) isolated: bool,
    /// Whether the kernel has IPv6.
    pub(crate) ipv6: bool,
}

/// How a container is wired to the bridge.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    /// The host's end.
    pub(crate) host_name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    /// The namespace the other end is made in.
    pub(crate) netns: BorrowedFd<'a>,
    /// The other end.
    pub(crate) name: &'a str,
    pub(crate) mac: MacAddress,
}

fn ifinfo(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

impl Batch {
    /// A new bridge, up.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: MacAddress, mtu: u32, alias: &str) {
        self.begin(
            "create bridge",
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        );
        self.raw(&ifinfo(0, 0, 0, 0));
        self.text(IFLA_IFNAME, name);
        self.attribute(IFLA_ADDRESS, &mac.0);
        self.u32(IFLA_MTU, mtu);
        self.nest(IFLA_LINKINFO, |b| b.attribute(IFLA_INFO_KIND, b"bridge"));
        self.end();
        // An alias given at creation is ignored by the kernel.
        self.begin("tag bridge", RTM_SETLINK, NLM_F_ACK);
        self.raw(&ifinfo(0, 0, 0, 0));
        self.text(IFLA_IFNAME, name);
        self.attribute(IFLA_IFALIAS, alias.as_bytes());
        self.end();
    }

    /// Sets a link up.
    pub(crate) fn up(&mut self, index: u32) {
        self.begin("set up link", RTM_SETLINK, NLM_F_ACK);
        self.raw(&ifinfo(0, index, IFF_UP, IFF_UP));
        self.end();
    }

    /// Sets a link's address and MTU.
    pub(crate) fn configure(&mut self, index: u32, mac: MacAddress, mtu: u32) {
        self.begin("configure link", RTM_SETLINK, NLM_F_ACK);
        self.raw(&ifinfo(0, index, 0, 0));
        self.attribute(IFLA_ADDRESS, &mac.0);
        self.u32(IFLA_MTU, mtu);
        self.end();
    }

    /// A pair of interfaces: the host's end on the bridge, down; the other in the container's namespace, down.
    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) {
        self.begin(
            "create veth",
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        );
        self.raw(&ifinfo(0, 0, 0, 0));
        self.text(IFLA_IFNAME, veth.host_name);
        self.u32(IFLA_MTU, veth.mtu);
        self.u32(IFLA_MASTER, veth.bridge);
        self.nest(IFLA_LINKINFO, |b| {
            b.attribute(IFLA_INFO_KIND, b"veth");
            b.nest(IFLA_INFO_DATA, |b| {
                b.nest(VETH_INFO_PEER, |b| {
                    b.raw(&ifinfo(0, 0, 0, 0));
                    b.text(IFLA_IFNAME, veth.name);
                    b.attribute(IFLA_ADDRESS, &veth.mac.0);
                    b.u32(IFLA_MTU, veth.mtu);
                    b.attribute(IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.end();
    }

    /// Configures a host's end and sets it up.
    pub(crate) fn up_port(&mut self, name: &str, port: PortMode) {
        self.begin("configure bridge port", RTM_NEWLINK, NLM_F_ACK);
        self.raw(&ifinfo(0, 0, 0, 0));
        self.text(IFLA_IFNAME, name);
        self.nest(IFLA_LINKINFO, |b| {
            b.attribute(IFLA_INFO_SLAVE_KIND, b"bridge");
            b.nest(IFLA_INFO_SLAVE_DATA, |b| {
                // What a container sends to its own published port goes back where it came from.
                b.attribute(IFLA_BRPORT_MODE, &[1]);
                b.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(port.isolated)]);
            });
        });
        if port.ipv6 {
            // A port needs no address of its own, and every one would cost duplicate address detection and multicast.
            self.nest(IFLA_AF_SPEC, |b| {
                b.nest(u16::from(AF_INET6), |b| {
                    b.attribute(IFLA_INET6_ADDR_GEN_MODE, &[NO_ADDRESS])
                });
            });
        }
        self.end();
        // Apart, because the kernel sets a link up before it reads the rest.
        self.begin("set up bridge port", RTM_SETLINK, NLM_F_ACK);
        self.raw(&ifinfo(0, 0, IFF_UP, IFF_UP));
        self.text(IFLA_IFNAME, name);
        self.end();
    }

    /// Deletes a link. Takes the kernel some 10 ms.
    pub(crate) fn delete_link(&mut self, index: u32) {
        self.begin("delete link", RTM_DELLINK, NLM_F_ACK);
        self.raw(&ifinfo(0, index, 0, 0));
        self.end();
    }

    fn address(&mut self, label: &'static str, kind: u16, flags: u16, index: u32, subnet: Subnet) {
        self.begin(label, kind, flags | NLM_F_ACK);
        let mut header = [AF_INET, subnet.prefix_len, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        self.raw(&header);
        self.attribute(IFA_LOCAL, &subnet.address.octets());
        self.attribute(IFA_ADDRESS, &subnet.address.octets());
        if subnet.prefix_len < 31 {
            self.attribute(IFA_BROADCAST, &subnet.broadcast().octets());
        }
        self.end();
    }

    pub(crate) fn add_address(&mut self, index: u32, subnet: Subnet) {
        self.address(
            "add address",
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            index,
            subnet,
        );
    }

    pub(crate) fn delete_address(&mut self, index: u32, subnet: Subnet) {
        self.address("delete address", RTM_DELADDR, 0, index, subnet);
    }

    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr) {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_BOOT: u8 = 3;
        const RTN_UNICAST: u8 = 1;
        self.begin(
            "add default route",
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        );
        self.raw(&[
            AF_INET,
            0,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_BOOT,
            0,
            RTN_UNICAST,
            0,
            0,
            0,
            0,
        ]);
        self.attribute(RTA_GATEWAY, &gateway.octets());
        self.end();
    }

    /// Spares the container the question for its gateway's address.
    pub(crate) fn add_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: MacAddress) {
        self.begin(
            "add neighbour",
            RTM_NEWNEIGH,
            NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK,
        );
        let mut header = [0; 12];
        header[0] = AF_INET;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        self.raw(&header);
        self.attribute(NDA_DST, &address.octets());
        self.attribute(NDA_LLADDR, &mac.0);
        self.end();
    }
}

/// Reads a link out of an `RTM_NEWLINK` or `RTM_DELLINK` message.
pub(crate) fn parse_link(message: &Message<'_>) -> Option<Link> {
    let list = message.payload.get(16..)?;
    let number = |kind| {
        attribute(list, kind)
            .and_then(|data| u32_at(data, 0))
            .unwrap_or(0)
    };
    let words = |kind| {
        attribute(list, kind)
            .map(text)
            .unwrap_or_default()
            .to_owned()
    };
    let kind = attribute(list, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
    Some(Link {
        index: u32_at(message.payload, 4)?,
        up: u32_at(message.payload, 8)? & IFF_UP != 0,
        running: attribute(list, IFLA_OPERSTATE).and_then(|data| data.first()) == Some(&IF_OPER_UP),
        name: words(IFLA_IFNAME),
        alias: words(IFLA_IFALIAS),
        kind: kind.map(text).unwrap_or_default().to_owned(),
        mtu: number(IFLA_MTU),
        master: number(IFLA_MASTER),
        mac: attribute(list, IFLA_ADDRESS)
            .and_then(|data| data.try_into().ok())
            .map(MacAddress),
    })
}

impl Socket {
    /// The link of this name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Failure> {
        let mut batch = Batch::new();
        batch.begin("look up link", RTM_GETLINK, NLM_F_ACK);
        batch.raw(&ifinfo(0, 0, 0, 0));
        batch.text(IFLA_IFNAME, name);
        batch.end();
        let found = self.query(&batch, |found: &mut Option<Link>, message| {
            *found = parse_link(&message)
        });
        match found {
            Err(failure) if failure.errno == rustix::io::Errno::NODEV => Ok(None),
            other => other,
        }
    }

    /// Waits until the link can send. Asking makes the kernel look at the carrier at once (since 6.8; older ones do it by
    /// themselves a little later); until then the first packets would be lost, and a client waits a second to repeat them.
    pub(crate) fn await_running(&mut self, name: &str) -> Result<(), Failure> {
        for _ in 0..RUNNING_ATTEMPTS {
            match self.link(name)? {
                Some(link) if !link.running => std::thread::sleep(RUNNING_PAUSE),
                _ => return Ok(()),
            }
        }
        // It is used all the same: it will come up.
        Ok(())
    }

    /// Every link of the namespace.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Failure> {
        let mut batch = Batch::new();
        batch.begin("list links", RTM_GETLINK, NLM_F_DUMP);
        batch.raw(&ifinfo(0, 0, 0, 0));
        batch.end();
        self.query(&batch, |links: &mut Vec<Link>, message| {
            links.extend(parse_link(&message))
        })
    }

    /// The IPv4 addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<Subnet>, Failure> {
        let mut batch = Batch::new();
        batch.begin("list addresses", RTM_GETADDR, NLM_F_DUMP);
        batch.raw(&[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
        batch.end();
        self.query(&batch, |found: &mut Vec<Subnet>, message| {
            let Some(header) = message.payload.get(..8) else {
                return;
            };
            if u32_at(header, 4) != Some(index) {
                return;
            }
            if let Some(address) = attribute(&message.payload[8..], IFA_LOCAL).and_then(ipv4) {
                found.push(Subnet::new(address, header[1]));
            }
        })
    }

    /// The destinations of the IPv4 routes, default routes left out, with the index of the interface they leave by.
    pub(crate) fn route_destinations(&mut self) -> Result<Vec<(Subnet, u32)>, Failure> {
        let mut batch = Batch::new();
        batch.begin("list routes", RTM_GETROUTE, NLM_F_DUMP);
        batch.raw(&[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        batch.end();
        self.query(&batch, |found: &mut Vec<(Subnet, u32)>, message| {
            let Some(header) = message.payload.get(..12) else {
                return;
            };
            let list = &message.payload[12..];
            if let Some(address) = attribute(list, RTA_DST).and_then(ipv4)
                && header[1] > 0
            {
                let interface = attribute(list, RTA_OIF)
                    .and_then(|data| u32_at(data, 0))
                    .unwrap_or(0);
                found.push((Subnet::new(address, header[1]), interface));
            }
        })
    }
}

fn ipv4(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}
