//! Ports of the host: which are free, and holding those that are published.
//!
//! A published port is held by a socket that is bound, so that no other process takes it and thinks it serves. Nothing ever
//! arrives there: packets are redirected before. It does not listen where that can be avoided, so that without the
//! redirection (somebody flushes the tables) clients are refused instead of waiting.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use kekkai_types::{PortMapping, Protocol};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::error::PortError;
use crate::model::PublishedPort;

/// What Docker takes when the kernel does not say.
const DEFAULT_RANGE: (u16, u16) = (49153, 65535);

/// How often a port that was asked for by its number is tried: a process that another thread is just starting has copies of
/// our sockets until it executes its program, also of one that was closed a moment ago.
const ATTEMPTS: usize = 10;
/// Between the attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(4);

fn hold(protocol: Protocol, address: Ipv4Addr, port: u16) -> std::io::Result<OwnedFd> {
    let address = SocketAddrV4::new(address, port);
    match protocol {
        // The first way fails while connections of a former server wait for their end, the second does not.
        Protocol::Tcp => {
            hold_quietly(address).or_else(|_| TcpListener::bind(address).map(OwnedFd::from))
        }
        Protocol::Udp => UdpSocket::bind(address).map(OwnedFd::from),
        Protocol::Sctp => Err(rustix::io::Errno::PROTONOSUPPORT.into()),
    }
}

/// Bound, without `SO_REUSEADDR`: nobody else can bind it, whatever options they use.
fn hold_quietly(address: SocketAddrV4) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// The published ports of all containers.
#[derive(Debug)]
pub(crate) struct Ports {
    held: HashMap<(Protocol, u16), Vec<(Ipv4Addr, OwnedFd)>>,
    /// Where the next ephemeral port is looked for.
    next: HashMap<Protocol, u16>,
    range: (u16, u16),
}

impl Ports {
    /// `range` is where ephemeral ports come from, first and last.
    pub(crate) fn new(range: (u16, u16)) -> Ports {
        Ports {
            held: HashMap::new(),
            next: HashMap::new(),
            range,
        }
    }

    /// The range in `net.ipv4.ip_local_port_range`, as Docker takes it.
    pub(crate) fn kernel_range() -> (u16, u16) {
        let read = || {
            let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
            let mut numbers = text.split_whitespace().map(str::parse::<u16>);
            let range = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            (range.0 > 0 && range.0 <= range.1).then_some(range)
        };
        read().unwrap_or(DEFAULT_RANGE)
    }

    /// Takes a host port for each mapping, in order; on error it takes none.
    pub(crate) fn reserve(
        &mut self,
        mappings: &[PortMapping],
        default_ip: Ipv4Addr,
        address: Ipv4Addr,
    ) -> Result<Vec<PublishedPort>, PortError> {
        let mut taken = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            match self.reserve_one(mapping, default_ip, address) {
                Ok(port) => taken.push(port),
                Err(error) => {
                    self.release(&taken);
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Takes exactly these ports again, after a restart of the daemon.
    pub(crate) fn reclaim(
        &mut self,
        port: &PublishedPort,
        address: Ipv4Addr,
    ) -> Result<(), PortError> {
        self.take_patiently(port, address)
    }

    /// Gives ports back. Idempotent.
    pub(crate) fn release(&mut self, ports: &[PublishedPort]) {
        for port in ports {
            let key = (port.container.protocol, port.host_port);
            if let Some(holders) = self.held.get_mut(&key) {
                holders.retain(|(ip, _)| *ip != port.host_ip);
                if holders.is_empty() {
                    self.held.remove(&key);
                }
            }
        }
    }

    fn reserve_one(
        &mut self,
        mapping: &PortMapping,
        default_ip: Ipv4Addr,
        address: Ipv4Addr,
    ) -> Result<PublishedPort, PortError> {
        let protocol = mapping.container.protocol;
        if protocol == Protocol::Sctp {
            return Err(PortError::Protocol(protocol));
        }
        let host_ip = match mapping.host_ip {
            None => default_ip,
            Some(IpAddr::V4(ip)) => ip,
            Some(IpAddr::V6(ip)) => return Err(PortError::Ipv6(ip)),
        };
        let with = |host_port| PublishedPort {
            container: mapping.container,
            host_ip,
            host_port,
        };
        let (first, last) = match mapping.host_ports {
            Some((first, last)) if first == last && first != 0 => {
                let port = with(first);
                return self.take_patiently(&port, address).map(|()| port);
            }
            Some((0, 0)) | None => {
                let port = self.take_ephemeral(with(0), address)?;
                return Ok(port);
            }
            Some(range) => range,
        };
        if first > last || first == 0 {
            return Err(PortError::Range(first, last));
        }
        (first..=last)
            .map(with)
            .find(|port| self.take(port, address).is_ok())
            .ok_or(PortError::Exhausted)
    }

    fn take_ephemeral(
        &mut self,
        mut port: PublishedPort,
        address: Ipv4Addr,
    ) -> Result<PublishedPort, PortError> {
        let (first, last) = self.range;
        let protocol = port.container.protocol;
        let start = self
            .next
            .get(&protocol)
            .copied()
            .filter(|n| (first..=last).contains(n))
            .unwrap_or(first);
        for candidate in (start..=last).chain(first..start) {
            port.host_port = candidate;
            match self.take(&port, address) {
                Ok(()) => {
                    self.next
                        .insert(protocol, candidate.checked_add(1).unwrap_or(first));
                    return Ok(port);
                }
                // Another number does not help when the address is wrong.
                Err(PortError::Bind { source, .. })
                    if source.kind() != std::io::ErrorKind::AddrInUse
                        && source.kind() != std::io::ErrorKind::PermissionDenied =>
                {
                    return Err(bind_error(&port, address, source));
                }
                Err(_) => {}
            }
        }
        Err(PortError::Exhausted)
    }

    fn take_patiently(&mut self, port: &PublishedPort, address: Ipv4Addr) -> Result<(), PortError> {
        for _ in 1..ATTEMPTS {
            match self.take(port, address) {
                Err(PortError::Bind { source, .. })
                    if source.kind() == std::io::ErrorKind::AddrInUse =>
                {
                    std::thread::sleep(ATTEMPT_PAUSE);
                }
                other => return other,
            }
        }
        self.take(port, address)
    }

    fn take(&mut self, port: &PublishedPort, address: Ipv4Addr) -> Result<(), PortError> {
        let key = (port.container.protocol, port.host_port);
        let holders = self.held.get(&key).map(Vec::as_slice).unwrap_or_default();
        let in_the_way = |ip: &Ipv4Addr| {
            *ip == port.host_ip || ip.is_unspecified() || port.host_ip.is_unspecified()
        };
        if let Some((ip, _)) = holders.iter().find(|(ip, _)| in_the_way(ip)) {
            return Err(PortError::Allocated {
                host_ip: *ip,
                host_port: port.host_port,
            });
        }
        let held = hold(key.0, port.host_ip, port.host_port)
            .map_err(|source| bind_error(port, address, source))?;
        self.held.entry(key).or_default().push((port.host_ip, held));
        Ok(())
    }
}

fn bind_error(port: &PublishedPort, address: Ipv4Addr, source: std::io::Error) -> PortError {
    PortError::Bind {
        host_ip: port.host_ip,
        host_port: port.host_port,
        address,
        container: port.container,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::lab::lab;

    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn mapping(container: &str, host_ports: Option<(u16, u16)>) -> PortMapping {
        PortMapping {
            container: container.parse().unwrap(),
            host_ip: Some(LOCAL.into()),
            host_ports,
        }
    }

    /// A port that nobody has at this moment.
    fn free() -> u16 {
        TcpListener::bind((LOCAL, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    }

    #[test]
    fn a_port_is_taken_once() {
        lab(|_| {
            let mut ports = Ports::new((40000, 40100));
            let number = free();
            let wanted = mapping("80/tcp", Some((number, number)));
            let taken = ports
                .reserve(std::slice::from_ref(&wanted), LOCAL, CONTAINER)
                .unwrap();
            assert_eq!(
                TcpListener::bind((LOCAL, number)).unwrap_err().kind(),
                std::io::ErrorKind::AddrInUse
            );
            let error = ports
                .reserve(std::slice::from_ref(&wanted), LOCAL, CONTAINER)
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("Bind for 127.0.0.1:{number} failed: port is already allocated")
            );
            let everywhere = PortMapping {
                host_ip: None,
                ..wanted.clone()
            };
            assert!(matches!(
                ports.reserve(&[everywhere], Ipv4Addr::UNSPECIFIED, CONTAINER),
                Err(PortError::Allocated { .. })
            ));
            ports.release(&taken);
            ports.release(&taken);
            drop(TcpListener::bind((LOCAL, number)).unwrap());
        });
    }

    #[test]
    fn a_process_in_the_way_is_told_in_dockers_words() {
        lab(|_| {
            let other = TcpListener::bind((LOCAL, 0)).unwrap();
            let number = other.local_addr().unwrap().port();
            let mut ports = Ports::new((40000, 40100));
            let error = ports
                .reserve(
                    &[mapping("80/tcp", Some((number, number)))],
                    LOCAL,
                    CONTAINER,
                )
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "failed to bind host port for 127.0.0.1:{number}:10.0.0.2:80/tcp: address already in use"
                )
            );
            let elsewhere = PortMapping {
                host_ip: Some("192.0.2.77".parse().unwrap()),
                ..mapping("80/tcp", None)
            };
            let error = ports.reserve(&[elsewhere], LOCAL, CONTAINER).unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("cannot assign requested address"),
                "{error}"
            );
        });
    }

    #[test]
    fn ranges_and_ephemeral_ports() {
        lab(|_| {
            let mut ports = Ports::new((40200, 40202));
            let udp = ports
                .reserve(
                    &[mapping("53/udp", None), mapping("54/udp", None)],
                    LOCAL,
                    CONTAINER,
                )
                .unwrap();
            assert_ne!(udp[0].host_port, udp[1].host_port);
            assert!(
                udp.iter()
                    .all(|port| (40200..=40202).contains(&port.host_port))
            );
            let mut few = Ports::new((1, 2));
            let range = Some((40210, 40211));
            let three = vec![mapping("80/tcp", range); 3];
            assert!(matches!(
                few.reserve(&three, LOCAL, CONTAINER),
                Err(PortError::Exhausted)
            ));
            let two = few.reserve(&three[..2], LOCAL, CONTAINER).unwrap();
            assert_eq!((two[0].host_port, two[1].host_port), (40210, 40211));
            assert!(matches!(
                few.reserve(&[mapping("80/sctp", None)], LOCAL, CONTAINER),
                Err(PortError::Protocol(_))
            ));
            assert!(matches!(
                few.reserve(&[mapping("80/tcp", Some((5, 4)))], LOCAL, CONTAINER),
                Err(PortError::Range(5, 4))
            ));
        });
    }
}
