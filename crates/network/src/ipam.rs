//! Addresses of the subnet: who has one, and when it may be given again.
//!
//! ```text
//!             lease                  built                    link_gone
//!   free ------------> held,building ------> held,alive -------------------> held,gone
//!     ^                     | abandon             | release                       | release
//!     +---------------------+                     v            link_gone          |
//!     +<------------------------------------- dying <-----                        |
//!     +<--------------------------------------------------------------------------+
//! ```
//!
//! An address is free again only when its holder has let go *and* the kernel has said that its interface is gone: a network
//! namespace dies late, and until then it answers for the address.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use crate::config::Subnet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Not made yet.
    Building,
    Alive,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    held: bool,
    link: Link,
}

/// The addresses of one subnet.
#[derive(Debug)]
pub(crate) struct Ipam {
    subnet: Subnet,
    /// Where the next search begins, so that an address rests before it is given again.
    next: u32,
    leases: HashMap<Ipv4Addr, Lease>,
}

impl Ipam {
    /// `subnet.address` is the gateway's, which is never given.
    pub(crate) fn new(subnet: Subnet) -> Ipam {
        Ipam {
            subnet,
            next: u32::from(subnet.network()) + 1,
            leases: HashMap::new(),
        }
    }

    /// First and last address that containers may have; empty when the first is after the last.
    fn range(&self) -> (u32, u32) {
        let network = u32::from(self.subnet.network());
        let broadcast = u32::from(self.subnet.broadcast());
        (network.saturating_add(1), broadcast.saturating_sub(1))
    }

    /// How many addresses there are for containers.
    pub(crate) fn capacity(&self) -> usize {
        let (first, last) = self.range();
        // Without the gateway's.
        usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX)
    }

    /// How many are not free.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.leases.len()
    }

    /// Takes a free address, for an interface that is about to be made.
    pub(crate) fn lease(&mut self) -> Option<Ipv4Addr> {
        let (first, last) = self.range();
        let start = if (first..=last).contains(&self.next) {
            self.next
        } else {
            first
        };
        let free = (start..=last)
            .chain(first..start)
            .map(Ipv4Addr::from)
            .find(|address| {
                *address != self.subnet.address && !self.leases.contains_key(address)
            })?;
        self.next = u32::from(free) + 1;
        self.leases.insert(
            free,
            Lease {
                held: true,
                link: Link::Building,
            },
        );
        Some(free)
    }

    /// The interface was made.
    pub(crate) fn built(&mut self, address: Ipv4Addr) {
        if let Some(lease) = self.leases.get_mut(&address)
            && lease.link == Link::Building
        {
            lease.link = Link::Alive;
        }
    }

    /// The interface could not be made.
    pub(crate) fn abandon(&mut self, address: Ipv4Addr) {
        self.leases.remove(&address);
    }

    /// Notes an address in use that was not leased here: by a container that outlived a daemon, or by an interface that is
    /// still dying.
    pub(crate) fn claim(&mut self, address: Ipv4Addr, held: bool, alive: bool) {
        let link = if alive { Link::Alive } else { Link::Gone };
        if held || alive {
            self.leases.insert(address, Lease { held, link });
        }
    }

    /// The holder lets go.
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        if let Some(lease) = self.leases.get_mut(&address) {
            lease.held = false;
            self.free_if_unused(address);
        }
    }

    /// The kernel says that the interface is gone.
    pub(crate) fn link_gone(&mut self, address: Ipv4Addr) {
        if let Some(lease) = self.leases.get_mut(&address) {
            lease.link = Link::Gone;
            self.free_if_unused(address);
        }
    }

    /// Compares with the interfaces there are, after events were lost.
    pub(crate) fn resync(&mut self, alive: &HashSet<Ipv4Addr>) {
        let gone: Vec<Ipv4Addr> = self
            .leases
            .iter()
            .filter(|(address, lease)| lease.link == Link::Alive && !alive.contains(*address))
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            self.link_gone(address);
        }
    }

    fn free_if_unused(&mut self, address: Ipv4Addr) {
        if self
            .leases
            .get(&address)
            .is_some_and(|lease| !lease.held && lease.link == Link::Gone)
        {
            self.leases.remove(&address);
        }
    }
}

/// The host's end of the interface that has this address. One name per address, so that an interface tells its address.
pub(crate) fn interface_name(address: Ipv4Addr) -> String {
    format!("kk{:08x}", u32::from(address))
}

/// The address that an interface of ours stands for.
pub(crate) fn interface_address(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix("kk").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, 2, last)
    }

    fn ipam() -> Ipam {
        Ipam::new(Subnet::new(ip(1), 29))
    }

    #[test]
    fn addresses_rest_and_come_back() {
        let mut ipam = ipam();
        assert_eq!(ipam.capacity(), 5);
        let all: Vec<_> = std::iter::from_fn(|| ipam.lease()).collect();
        assert_eq!(all, [ip(2), ip(3), ip(4), ip(5), ip(6)]);
        for address in all {
            ipam.built(address);
        }
        ipam.release(ip(3));
        assert_eq!(ipam.lease(), None, "its interface still lives");
        ipam.link_gone(ip(3));
        assert_eq!(ipam.lease(), Some(ip(3)));
        ipam.link_gone(ip(5));
        assert_eq!(ipam.lease(), None, "its holder has not let go");
        ipam.release(ip(5));
        ipam.release(ip(5));
        assert_eq!(ipam.lease(), Some(ip(5)));
        ipam.abandon(ip(5));
        assert_eq!(ipam.taken(), 4);
    }

    #[test]
    fn lost_events_are_made_up_for() {
        let mut ipam = ipam();
        let (a, b, c) = (
            ipam.lease().unwrap(),
            ipam.lease().unwrap(),
            ipam.lease().unwrap(),
        );
        ipam.built(a);
        ipam.built(b);
        ipam.release(a);
        ipam.release(b);
        ipam.resync(&HashSet::from([b]));
        assert_eq!(ipam.taken(), 2, "a is free; b lives; c is being made");
        ipam.built(c);
        ipam.claim(ip(6), false, true);
        ipam.claim(ip(6), true, true);
        ipam.link_gone(ip(6));
        assert_eq!(ipam.taken(), 3);
    }

    #[test]
    fn names() {
        assert_eq!(interface_name(Ipv4Addr::new(172, 17, 0, 2)), "kkac110002");
        assert_eq!(
            interface_address("kkac110002"),
            Some(Ipv4Addr::new(172, 17, 0, 2))
        );
        for other in ["kkt1", "eth0", "kkac11000", "kkac1100021", "kkzz110002"] {
            assert_eq!(interface_address(other), None);
        }
    }
}
