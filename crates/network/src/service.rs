//! The service that the engine uses: attach and release, adoption after a restart, and the networks' list.
//!
//! Locks are taken one at a time, never two. Order of effects when publishing: the host's port is held, then the redirection
//! goes in; taking back goes the other way round, and the address last (`ipam`).

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kekkai_metadata::Database;
use kekkai_types::{EndpointId, NetworkId, PortMapping, Protocol};

use crate::bridge::{self, Bridge};
use crate::config::{NetworkConfig, Subnet};
use crate::error::{NetworkError, PortError};
use crate::firewall::{self, Firewall, FirewallPlan};
use crate::flows::FlowCleaner;
use crate::foreign;
use crate::ipam::{interface_address, interface_name};
use crate::model::{
    Endpoint, EndpointRecord, EndpointRequest, NetworkDriver, NetworkInfo, PublishedPort,
};
use crate::netlink::Socket;
use crate::networks::{Network, Networks};
use crate::pool::{Pool, Remains, SharedIpam};
use crate::ports::Ports;
use crate::watch::{Listener, Watch, Watching};

/// An attached container.
#[derive(Debug)]
struct Attached {
    record: EndpointRecord,
    /// Kept so that the namespace is torn down when it suits, not in the middle of the container's exit. Absent when a daemon
    /// before us attached it.
    netns: Option<OwnedFd>,
}

#[derive(Debug)]
struct Running {
    pool: Arc<Pool>,
    _watching: Watching,
}

/// What the watch thread shares.
#[derive(Debug)]
struct Core {
    config: NetworkConfig,
    bridge: Bridge,
    ipam: Arc<SharedIpam>,
    firewall: Mutex<Firewall>,
    /// For the rules in others' tables; a socket of its own, so that nobody waits for it.
    foreign: Mutex<Socket>,
    route: Mutex<Socket>,
}

/// The networks of one daemon. All methods may be called from any thread of the host's network namespace.
#[derive(Debug)]
pub struct NetworkService {
    core: Arc<Core>,
    networks: Networks,
    ports: Mutex<Ports>,
    endpoints: Mutex<HashMap<EndpointId, Attached>>,
    flows: Arc<FlowCleaner>,
    running: Mutex<Option<Running>>,
    /// Opened with the service, so that nothing is missed before `adopt`.
    watch: Mutex<Option<Watch>>,
    /// The name that keeps a second daemon off the bridge; the kernel takes it back with the process.
    _claim: UnixListener,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NetworkService {
    /// Makes or takes over the bridge, and loads or chooses the networks' identifiers (rows of `database`).
    /// Nothing of an earlier daemon's containers is touched; call [`NetworkService::adopt`] next, once, before anything else.
    pub fn open(
        config: NetworkConfig,
        database: &Database,
    ) -> Result<NetworkService, NetworkError> {
        let claim = claim(&config.bridge)?;
        let watch = Watch::open()?;
        let mut route = Socket::route()?;
        let mut networks = Networks::load(database)?;
        let bridge = bridge::ensure(&config, networks.bridge_subnet(), &mut route)?;
        networks.save(database, bridge.subnet)?;
        let firewall = Firewall::new(FirewallPlan {
            table: config.table.clone(),
            bridge: config.bridge.clone(),
            subnet: bridge.subnet,
            masquerade: config.masquerade,
            inter_container: config.inter_container,
        })?;
        let ipam = Arc::new(SharedIpam::new(bridge.subnet));
        let flows = Arc::new(FlowCleaner::new(Arc::clone(&ipam))?);
        let core = Core {
            ipam,
            config,
            bridge,
            firewall: Mutex::new(firewall),
            foreign: Mutex::new(Socket::netfilter()?),
            route: Mutex::new(route),
        };
        Ok(NetworkService {
            core: Arc::new(core),
            networks,
            ports: Mutex::new(Ports::new(Ports::kernel_range())),
            endpoints: Mutex::new(HashMap::new()),
            flows,
            running: Mutex::new(None),
            watch: Mutex::new(Some(watch)),
            _claim: claim,
        })
    }

    /// Takes over the containers that are still running (none at the first start): their addresses, published ports (sockets
    /// are bound again) and rules, in one step that no packet notices. Interfaces of containers that are not named keep their
    /// addresses taken until the kernel has let go of them. Then the pool starts to fill.
    /// Returns the ports that could not be had again, with the reason; they are no longer published.
    pub fn adopt(&self, running: &[EndpointRecord]) -> Result<Vec<NetworkError>, NetworkError> {
        let watch = lock(&self.watch).take().ok_or(NetworkError::NotReady)?;
        let alive = self.core.living_interfaces()?;
        let leftover =
            |address: &&Ipv4Addr| !running.iter().any(|record| record.address == **address);
        self.core.ipam.with(|ipam| {
            for address in alive.iter().filter(leftover) {
                ipam.claim(*address, false, true);
            }
            for record in running {
                ipam.claim(record.address, true, alive.contains(&record.address));
            }
        });
        let mut lost = Vec::new();
        for record in running {
            let record = self.reclaim_ports(record, &mut lost);
            lock(&self.core.firewall).remember(record.address, &record.ports);
            lock(&self.endpoints).insert(
                record.endpoint,
                Attached {
                    record,
                    netns: None,
                },
            );
        }
        lock(&self.core.firewall).install()?;
        self.core.coexist()?;
        let watching = watch.start(Arc::clone(&self.core) as Arc<dyn Listener>)?;
        let ipam = Arc::clone(&self.core.ipam);
        let pool = Pool::start(
            &self.core.config,
            &self.core.bridge,
            ipam,
            Arc::clone(&self.flows),
        )?;
        *lock(&self.running) = Some(Running {
            pool: Arc::new(pool),
            _watching: watching,
        });
        Ok(lost)
    }

    fn reclaim_ports(
        &self,
        record: &EndpointRecord,
        lost: &mut Vec<NetworkError>,
    ) -> EndpointRecord {
        let mut kept = record.clone();
        let mut ports = lock(&self.ports);
        kept.ports
            .retain(|port| match ports.reclaim(port, record.address) {
                Ok(()) => true,
                Err(source) => {
                    lost.push(NetworkError::Publish {
                        name: record.container.short(),
                        endpoint: record.endpoint,
                        source,
                    });
                    false
                }
            });
        kept
    }

    /// Gives a container a ready namespace on the bridge, and publishes its ports. On error nothing is left behind.
    pub fn attach(&self, request: &EndpointRequest) -> Result<Endpoint, NetworkError> {
        if request.ip.is_some() {
            return Err(NetworkError::StaticAddress);
        }
        let pool = self.pool()?;
        let prepared = pool.take(request.mac)?;
        let mut record = EndpointRecord {
            container: request.container,
            network: self.networks.bridge_id(),
            endpoint: EndpointId::random(),
            interface: prepared.interface,
            address: prepared.address,
            prefix_len: self.core.bridge.subnet.prefix_len,
            gateway: self.core.bridge.subnet.address,
            mac: prepared.mac,
            ports: Vec::new(),
        };
        let wired =
            self.publish(&request.name, &record, &request.ports)
                .and_then(|ports| {
                    record.ports = ports;
                    prepared.netns.try_clone().map_err(|source| {
                        NetworkError::kernel("duplicate a network namespace", source)
                    })
                });
        let attached = Attached {
            record: record.clone(),
            netns: Some(prepared.netns),
        };
        match wired {
            Ok(netns) => {
                lock(&self.endpoints).insert(record.endpoint, attached);
                Ok(Endpoint { record, netns })
            }
            Err(error) => {
                // That taking back fails too is worth less than why it is taken back.
                let _ = self.take_down(&pool, attached);
                Err(error)
            }
        }
    }

    /// A ready namespace with nothing but loopback, for `--network none`. Nothing needs to be released.
    pub fn isolated(&self) -> Result<OwnedFd, NetworkError> {
        self.pool()?.take_isolated()
    }

    /// Takes back a container's ports at once, and its address once the kernel has let go of its interface. Idempotent.
    pub fn release(&self, record: &EndpointRecord) -> Result<(), NetworkError> {
        let Some(attached) = lock(&self.endpoints).remove(&record.endpoint) else {
            return Ok(());
        };
        let pool = self.pool()?;
        self.take_down(&pool, attached)
    }

    /// The networks there are: `bridge`, `host`, `none`.
    #[must_use]
    pub fn list(&self) -> Vec<NetworkInfo> {
        self.networks
            .all()
            .map(|network| self.describe(network))
            .collect()
    }

    /// One network by name, identifier, or an identifier's unique prefix.
    pub fn inspect(&self, name_or_id: &str) -> Result<NetworkInfo, NetworkError> {
        self.networks
            .find(name_or_id)
            .map(|network| self.describe(network))
    }

    /// What [`NetworkService::inspect`] finds, without what is attached to it: cheap enough for every start.
    pub fn resolve(&self, name_or_id: &str) -> Result<(NetworkId, NetworkDriver), NetworkError> {
        self.networks
            .find(name_or_id)
            .map(|network| (network.id, network.driver))
    }

    fn describe(&self, network: &Network) -> NetworkInfo {
        let mut endpoints = Vec::new();
        if network.driver == NetworkDriver::Bridge {
            endpoints.extend(
                lock(&self.endpoints)
                    .values()
                    .map(|attached| attached.record.clone()),
            );
            endpoints.sort_by_key(|record| record.address);
        }
        network.describe(&self.core.config, self.core.bridge.subnet, endpoints)
    }

    /// The identifier of the default bridge.
    #[must_use]
    pub fn bridge_id(&self) -> NetworkId {
        self.networks.bridge_id()
    }

    /// The bridge's address: the containers' gateway, and what `host-gateway` stands for.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.core.bridge.subnet.address
    }

    /// The bridge's address and subnet.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.core.bridge.subnet
    }

    /// How many namespaces are ready on the bridge at this moment.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.pool().map_or(0, |pool| pool.ready())
    }

    /// Ends the service when the daemon does. With containers attached everything stays, so that they keep their network;
    /// without any it is removed, as [`NetworkService::destroy`] does. Says whether it was.
    pub fn close(&self) -> Result<bool, NetworkError> {
        if !lock(&self.endpoints).is_empty() {
            drop(lock(&self.running).take());
            return Ok(false);
        }
        self.destroy().map(|()| true)
    }

    /// Removes the bridge, the table and the rules in foreign chains, and is of no use afterwards. For tests and uninstalling;
    /// no container may run.
    pub fn destroy(&self) -> Result<(), NetworkError> {
        drop(lock(&self.running).take());
        lock(&self.endpoints).clear();
        foreign::remove(&mut lock(&self.core.foreign), &self.core.config.bridge)?;
        lock(&self.core.firewall).remove()?;
        bridge::remove(&self.core.config, &mut lock(&self.core.route))
    }

    fn pool(&self) -> Result<Arc<Pool>, NetworkError> {
        lock(&self.running)
            .as_ref()
            .map(|running| Arc::clone(&running.pool))
            .ok_or(NetworkError::NotReady)
    }

    fn publish(
        &self,
        name: &str,
        record: &EndpointRecord,
        mappings: &[PortMapping],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        if mappings.is_empty() {
            return Ok(Vec::new());
        }
        let refused = |source: PortError| NetworkError::Publish {
            name: name.to_owned(),
            endpoint: record.endpoint,
            source,
        };
        let ports = lock(&self.ports)
            .reserve(mappings, self.core.config.host_binding, record.address)
            .map_err(refused)?;
        if let Err(error) = lock(&self.core.firewall).publish(record.address, &ports) {
            lock(&self.ports).release(&ports);
            return Err(error);
        }
        self.flows.published(
            ports
                .iter()
                .filter(|port| is_udp(port))
                .map(|port| port.host_port)
                .collect(),
        );
        Ok(ports)
    }

    fn take_down(&self, pool: &Pool, attached: Attached) -> Result<(), NetworkError> {
        let Attached { record, netns } = attached;
        let outcome = if record.ports.is_empty() {
            Ok(())
        } else {
            lock(&self.core.firewall).unpublish(&record.ports)
        };
        lock(&self.ports).release(&record.ports);
        pool.bury(Remains {
            netns,
            address: record.address,
            had_udp: record.ports.iter().any(is_udp),
        });
        outcome
    }
}

/// Removes what a daemon that is gone has left on this host: the bridge if we made it, the table, and the rules in foreign
/// chains. Refuses while a daemon has the bridge. For uninstalling, and for tests that kill daemons.
pub fn purge(bridge: &str, table: &str) -> Result<(), NetworkError> {
    let _claim = claim(bridge)?;
    let config = NetworkConfig {
        bridge: bridge.to_owned(),
        table: table.to_owned(),
        ..NetworkConfig::default()
    };
    let mut netfilter = Socket::netfilter()?;
    foreign::remove(&mut netfilter, bridge)?;
    firewall::remove(&mut netfilter, table)?;
    bridge::remove(&config, &mut Socket::route()?)
}

fn is_udp(port: &PublishedPort) -> bool {
    port.container.protocol == Protocol::Udp
}

/// Takes the name that stands for the bridge in this network namespace.
fn claim(bridge: &str) -> Result<UnixListener, NetworkError> {
    let address = SocketAddr::from_abstract_name(format!("kekkai/bridge/{bridge}"))
        .map_err(|_| NetworkError::Config(format!("invalid name of a bridge: {bridge:?}")))?;
    UnixListener::bind_addr(&address).map_err(|source| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            NetworkError::Config(format!("bridge {bridge} is in use by another daemon"))
        } else {
            NetworkError::kernel(format!("claim bridge {bridge}"), source)
        }
    })
}

impl Core {
    /// The addresses whose interfaces are on our bridge.
    fn living_interfaces(&self) -> Result<HashSet<Ipv4Addr>, NetworkError> {
        let links = lock(&self.route)
            .links()
            .map_err(|failure| failure.on("of the host"))?;
        let ours = links.iter().filter(|link| link.master == self.bridge.index);
        Ok(ours
            .filter_map(|link| interface_address(&link.name))
            .collect())
    }

    /// Makes forwarding work beside another firewall, where that is wanted.
    fn coexist(&self) -> Result<(), NetworkError> {
        let mut socket = lock(&self.foreign);
        if self.config.foreign_forward {
            foreign::reconcile(&mut socket, &self.config.bridge).map(|_| ())
        } else {
            Ok(())
        }
    }

    fn restore_table(&self) -> Result<(), NetworkError> {
        let mut firewall = lock(&self.firewall);
        if firewall.is_installed()? {
            Ok(())
        } else {
            firewall.install()
        }
    }
}

impl Listener for Core {
    fn link_gone(&self, address: Ipv4Addr) {
        debug_assert!(interface_address(&interface_name(address)) == Some(address));
        self.ipam.with(|ipam| ipam.link_gone(address));
    }

    fn links_lost(&self) {
        match self.living_interfaces() {
            Ok(alive) => self.ipam.with(|ipam| ipam.resync(&alive)),
            Err(error) => tracing::warn!(%error, "addresses of ended containers may stay taken"),
        }
    }

    fn tables_changed(&self) {
        if let Err(error) = self.restore_table() {
            tracing::warn!(%error, table = self.config.table, "the nf_tables table could not be restored");
        }
        if let Err(error) = self.coexist() {
            tracing::warn!(%error, bridge = self.config.bridge, "another firewall may drop what containers send");
        }
    }
}
