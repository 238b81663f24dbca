//! A laboratory: a host, an outside world and containers, each a network namespace of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kekkai_metadata::Database;
use kekkai_types::{ContainerId, PortMapping};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::config::{NetworkConfig, PoolSize, Subnet};
use crate::model::{Endpoint, EndpointRequest, MacAddress};
use crate::netlink::route::{LOOPBACK, PortMode, Veth};
use crate::netlink::{Batch, Socket};
use crate::service::NetworkService;
use crate::sysctl;

/// The host's address towards the outside, and the outside's.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The bridge's.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a packet may be lost before we believe it.
const SILENCE: Duration = Duration::from_millis(400);

fn unshare() {
    kekkai_sys::pidfd::unshare_namespaces(0x4000_0000).unwrap();
}

pub(crate) fn current() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Runs `work` in another network namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

pub(crate) struct Lab {
    pub(crate) outside: OwnedFd,
    pub(crate) database: Database,
    pub(crate) directory: tempfile::TempDir,
}

/// Runs a test in a new laboratory; the thread it runs on is in the host's namespace.
pub(crate) fn lab(test: impl FnOnce(&Lab) + Send) {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare();
                let host = current();
                unshare();
                let outside = current();
                move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                wire(outside.as_fd());
                let directory = tempfile::tempdir().unwrap();
                let database = Database::open(&directory.path().join("metadata.db")).unwrap();
                test(&Lab {
                    outside,
                    database,
                    directory,
                });
            })
            .join()
            .unwrap();
    });
}

/// Connects host and outside. The outside routes nothing to the containers, except where a test adds it.
fn wire(outside: BorrowedFd<'_>) {
    let mut socket = Socket::route().unwrap();
    let mut batch = Batch::new();
    batch.up(LOOPBACK);
    batch.add_bridge("uplink", MacAddress([2, 0, 0, 0, 0, 1]), 1500, "test");
    socket.transact(&batch).unwrap();
    let bridge = socket.link("uplink").unwrap().unwrap().index;
    let mut batch = Batch::new();
    batch.add_veth(&Veth {
        host_name: "up0",
        bridge,
        mtu: 1500,
        netns: outside,
        name: "eth0",
        mac: MacAddress([2, 0, 0, 0, 0, 2]),
    });
    batch.up_port(
        "up0",
        PortMode {
            isolated: false,
            ipv6: true,
        },
    );
    batch.add_address(bridge, Subnet::new(HOST, 24));
    batch.up(bridge);
    socket.transact(&batch).unwrap();
    inside(outside, || {
        let mut socket = Socket::route().unwrap();
        let index = socket.link("eth0").unwrap().unwrap().index;
        let mut batch = Batch::new();
        batch.add_address(index, Subnet::new(OUTSIDE, 24));
        batch.up(index);
        socket.transact(&batch).unwrap();
        socket.await_running("eth0").unwrap();
    });
    for link in ["up0", "uplink"] {
        socket.await_running(link).unwrap();
    }
}

pub(crate) fn config() -> NetworkConfig {
    NetworkConfig {
        bridge: "kkt0".into(),
        bip: Some(Subnet::new(GATEWAY, 24)),
        table: "kekkai_test".into(),
        pool: PoolSize { min: 2, max: 4 },
        ..NetworkConfig::default()
    }
}

impl Lab {
    pub(crate) fn start(&self) -> NetworkService {
        self.start_with(config())
    }

    pub(crate) fn start_with(&self, config: NetworkConfig) -> NetworkService {
        let service = NetworkService::open(config, &self.database).unwrap();
        assert!(service.adopt(&[]).unwrap().is_empty());
        service
    }
}

pub(crate) fn request(ports: &[&str]) -> EndpointRequest {
    EndpointRequest {
        container: ContainerId::random(),
        name: "web".into(),
        mac: None,
        ip: None,
        ports: ports.iter().map(|port| mapping(port)).collect(),
    }
}

/// `[HOST_IP:]HOST_PORT:CONTAINER_PORT[/PROTOCOL]`, or a container's port only.
fn mapping(text: &str) -> PortMapping {
    let mut parts: Vec<&str> = text.split(':').collect();
    let container = parts.pop().unwrap().parse().unwrap();
    let host_ports = parts
        .pop()
        .map(|port| (port.parse().unwrap(), port.parse().unwrap()));
    PortMapping {
        container,
        host_ip: parts.pop().map(|ip| ip.parse().unwrap()),
        host_ports,
    }
}

pub(crate) fn attach(service: &NetworkService, ports: &[&str]) -> Endpoint {
    service.attach(&request(ports)).unwrap()
}

/// A server that lets go of its namespace when dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A TCP server in a namespace that answers each connection with the address it came from.
#[must_use]
pub(crate) fn serve(netns: BorrowedFd<'_>, address: (Ipv4Addr, u16)) -> Server {
    let listener = inside(netns, || TcpListener::bind(address).unwrap());
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, peer)) => drop(stream.write_all(peer.ip().to_string().as_bytes())),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    Server {
        stop,
        thread: Some(thread),
    }
}

/// A UDP server that answers with the address and the text it got; what it says first is told to the receiver.
pub(crate) fn serve_udp(netns: BorrowedFd<'_>, port: u16) -> Receiver<String> {
    let socket = inside(netns, || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    });
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let text = format!(
                "{} {}",
                peer.ip(),
                String::from_utf8_lossy(&buffer[..length])
            );
            let _ = socket.send_to(text.as_bytes(), peer);
            let _ = sender.send(text);
        }
    });
    receiver
}

/// The address under which a server saw us, or why it could not be reached.
pub(crate) fn call(
    netns: BorrowedFd<'_>,
    address: (Ipv4Addr, u16),
) -> Result<String, std::io::ErrorKind> {
    inside(netns, || call_here(address))
}

pub(crate) fn call_here(address: (Ipv4Addr, u16)) -> Result<String, std::io::ErrorKind> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from(address), SILENCE).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    if text.is_empty() {
        Err(std::io::ErrorKind::UnexpectedEof)
    } else {
        Ok(text)
    }
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Names of the interfaces of this namespace.
pub(crate) fn interfaces() -> Vec<String> {
    Socket::route()
        .unwrap()
        .links()
        .unwrap()
        .into_iter()
        .map(|link| link.name)
        .collect()
}

/// Lets the outside reach the containers' subnet by way of the host.
pub(crate) fn route_outside_in(lab: &Lab) {
    inside(lab.outside.as_fd(), || {
        let mut socket = Socket::route().unwrap();
        let mut batch = Batch::new();
        batch.add_default_route(HOST);
        socket.transact(&batch).unwrap();
        sysctl::write("ipv4/conf/all/route_localnet", "1").unwrap();
    });
}
