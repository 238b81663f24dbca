//! Our nf_tables table: masquerading, published ports, and who may enter our bridges.
//!
//! ```text
//! guard        raw prerouting   from a bridge of ours, 127.0.0.0/8 is no address: drop
//! prerouting   dstnat           to 127.0.0.0/8: leave alone (what comes here did not come by loopback)
//!                               to the host itself: publish
//! output       dstnat           to the host itself: publish
//! publish                       host address + protocol + port in published_at, or protocol + port in published: DNAT
//! postrouting  srcnat           out of a subnet of ours to elsewhere: masquerade
//!                               published traffic back into a bridge, from a subnet of ours or from loopback: masquerade
//! forward      filter           into a bridge of ours: inward
//! inward                        known connections, published ports, the same bridge: accept; the rest: drop
//! ```
//!
//! Rules are written once; networks and ports are elements of sets and maps, so nothing grows with their number. A drop in
//! our table is final, whatever other tables accept; an accept is not, see `foreign`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::config::Subnet;
use crate::error::NetworkError;
use crate::model::PublishedPort;
use crate::netlink::conntrack::protocol_number;
use crate::netlink::nft::{
    ADDRESS_LOCAL, CT_STATE, CT_STATUS, Element, Expression, Field, Hook, KeyOrder, META_IIFNAME,
    META_L4PROTO, META_OIFNAME, R0, R1, R2, R4, STATE_KNOWN, STATUS_DNAT, SetKind, SetSpec,
    Transaction, Verdict,
};
use crate::netlink::{Failure, Socket};

// nft's numbers of types, for `nft list`.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;

const fn concat(first: u32, second: u32) -> u32 {
    first << 6 | second
}

const BRIDGES: SetSpec = SetSpec {
    name: "bridges",
    key_type: TYPE_IFNAME,
    key_length: 16,
    data: None,
    kind: SetKind::Exact,
    key_order: KeyOrder::Host,
};
const PEERS: SetSpec = SetSpec {
    name: "peers",
    key_type: concat(TYPE_IFNAME, TYPE_IFNAME),
    key_length: 32,
    data: None,
    kind: SetKind::Exact,
    key_order: KeyOrder::Network,
};
const SUBNETS: SetSpec = SetSpec {
    name: "subnets",
    key_type: TYPE_ADDRESS,
    key_length: 4,
    data: None,
    kind: SetKind::Interval,
    key_order: KeyOrder::Network,
};
const PUBLISHED: SetSpec = SetSpec {
    name: "published",
    key_type: concat(TYPE_PROTOCOL, TYPE_SERVICE),
    key_length: 8,
    data: Some((concat(TYPE_ADDRESS, TYPE_SERVICE), 8)),
    kind: SetKind::Exact,
    key_order: KeyOrder::Network,
};
const PUBLISHED_AT: SetSpec = SetSpec {
    name: "published_at",
    key_type: concat(concat(TYPE_ADDRESS, TYPE_PROTOCOL), TYPE_SERVICE),
    key_length: 12,
    data: Some((concat(TYPE_ADDRESS, TYPE_SERVICE), 8)),
    kind: SetKind::Exact,
    key_order: KeyOrder::Network,
};
const SETS: [&SetSpec; 5] = [&BRIDGES, &PEERS, &SUBNETS, &PUBLISHED, &PUBLISHED_AT];
/// How many chains `install` makes.
const CHAINS: usize = 7;

/// What the table is to hold.
#[derive(Clone, Debug)]
pub(crate) struct FirewallPlan {
    pub(crate) table: String,
    pub(crate) bridge: String,
    pub(crate) subnet: Subnet,
    pub(crate) masquerade: bool,
    pub(crate) inter_container: bool,
}

/// The table, and what is published in it.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: Socket,
    plan: FirewallPlan,
    /// The elements there are to be, so that the table can be made again when somebody flushes it.
    published: BTreeMap<PublishedKey, Vec<u8>>,
}

/// Map and key of a published port.
type PublishedKey = (&'static str, Vec<u8>);

/// An interface's name as nf_tables compares it.
fn ifname(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

fn key_of(port: &PublishedPort) -> PublishedKey {
    let mut key = Vec::with_capacity(12);
    let map = if port.host_ip.is_unspecified() {
        PUBLISHED.name
    } else {
        key.extend_from_slice(&port.host_ip.octets());
        PUBLISHED_AT.name
    };
    key.extend_from_slice(&[protocol_number(port.container.protocol), 0, 0, 0]);
    key.extend_from_slice(&port.host_port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    (map, key)
}

fn value_of(address: Ipv4Addr, port: &PublishedPort) -> Vec<u8> {
    let mut value = address.octets().to_vec();
    value.extend_from_slice(&port.container.port.to_be_bytes());
    value.extend_from_slice(&[0, 0]);
    value
}

impl Firewall {
    /// Nothing is sent before [`Firewall::install`].
    pub(crate) fn new(plan: FirewallPlan) -> Result<Firewall, NetworkError> {
        Ok(Firewall {
            socket: Socket::netfilter()?,
            plan,
            published: BTreeMap::new(),
        })
    }

    /// Makes the table, replacing an older one in the same instant.
    pub(crate) fn install(&mut self) -> Result<(), NetworkError> {
        let transaction = build(&self.plan, &self.published);
        transaction
            .commit(&mut self.socket)
            .map_err(|failure| self.failed(failure))
    }

    /// Whether the table is still there and whole.
    pub(crate) fn is_installed(&mut self) -> Result<bool, NetworkError> {
        let chains = self
            .socket
            .chains()
            .map_err(|failure| self.failed(failure))?;
        Ok(chains
            .iter()
            .filter(|chain| chain.table == self.plan.table)
            .count()
            == CHAINS)
    }

    /// Publishes ports of a container, all or none.
    pub(crate) fn publish(
        &mut self,
        address: Ipv4Addr,
        ports: &[PublishedPort],
    ) -> Result<(), NetworkError> {
        self.remember(address, ports);
        let mut transaction = Transaction::new();
        for (map, elements) in by_map(ports, |port| Some(value_of(address, port))) {
            transaction.add_elements(&self.plan.table, map, &elements);
        }
        let outcome = match transaction.commit(&mut self.socket) {
            // Somebody has flushed it; what is remembered above goes in with it.
            Err(failure) if failure.errno == rustix::io::Errno::NOENT => {
                build(&self.plan, &self.published).commit(&mut self.socket)
            }
            other => other,
        };
        outcome.map_err(|failure| {
            for port in ports {
                self.published.remove(&key_of(port));
            }
            self.failed(failure)
        })
    }

    /// Notes ports without sending them; `install` does.
    pub(crate) fn remember(&mut self, address: Ipv4Addr, ports: &[PublishedPort]) {
        for port in ports {
            self.published.insert(key_of(port), value_of(address, port));
        }
    }

    /// Takes ports back.
    pub(crate) fn unpublish(&mut self, ports: &[PublishedPort]) -> Result<(), NetworkError> {
        for port in ports {
            self.published.remove(&key_of(port));
        }
        let mut transaction = Transaction::new();
        for (map, elements) in by_map(ports, |_| None) {
            transaction.delete_elements(&self.plan.table, map, &elements);
        }
        match transaction.commit(&mut self.socket) {
            // One is missing, so the table is not what we made it: make it so.
            Err(failure) if failure.errno == rustix::io::Errno::NOENT => self.install(),
            other => other.map_err(|failure| self.failed(failure)),
        }
    }

    /// Removes the table.
    pub(crate) fn remove(&mut self) -> Result<(), NetworkError> {
        remove(&mut self.socket, &self.plan.table)
    }

    fn failed(&self, failure: Failure) -> NetworkError {
        failure.on(&format!("in nf_tables table {}", self.plan.table))
    }
}

/// Removes a table, also when there is none.
pub(crate) fn remove(socket: &mut Socket, table: &str) -> Result<(), NetworkError> {
    let mut transaction = Transaction::new();
    transaction.add_table(table);
    transaction.delete_table(table);
    transaction
        .commit(socket)
        .map_err(|failure| failure.on(&format!("in nf_tables table {table}")))
}

fn by_map(
    ports: &[PublishedPort],
    data: impl Fn(&PublishedPort) -> Option<Vec<u8>>,
) -> BTreeMap<&'static str, Vec<Element>> {
    let mut maps: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for port in ports {
        let (map, key) = key_of(port);
        maps.entry(map).or_default().push(Element {
            key,
            data: data(port),
            interval_end: false,
        });
    }
    maps
}

fn plain(key: &[u8]) -> Element {
    Element {
        key: key.to_vec(),
        data: None,
        interval_end: false,
    }
}

fn interval(subnet: Subnet) -> [Element; 2] {
    // A subnet that ends with the last address there is has no end.
    let after = u32::from(subnet.broadcast()).wrapping_add(1);
    [
        plain(&subnet.network().octets()),
        Element {
            key: after.to_be_bytes().to_vec(),
            data: None,
            interval_end: true,
        },
    ]
}

/// The whole table as one transaction.
fn build(plan: &FirewallPlan, published: &BTreeMap<PublishedKey, Vec<u8>>) -> Transaction {
    let table = plan.table.as_str();
    let mut t = Transaction::new();
    t.add_table(table);
    t.delete_table(table);
    t.add_table(table);
    for set in SETS {
        t.add_set(table, set);
    }
    let bridge = ifname(&plan.bridge);
    t.add_elements(table, BRIDGES.name, &[plain(&bridge)]);
    if plan.inter_container {
        t.add_elements(table, PEERS.name, &[plain(&[bridge, bridge].concat())]);
    }
    t.add_elements(table, SUBNETS.name, &interval(plan.subnet));
    for map in [PUBLISHED.name, PUBLISHED_AT.name] {
        let elements: Vec<Element> = published
            .iter()
            .filter(|((name, _), _)| *name == map)
            .map(|((_, key), value)| Element {
                key: key.clone(),
                data: Some(value.clone()),
                interval_end: false,
            })
            .collect();
        t.add_elements(table, map, &elements);
    }
    t.add_base_chain(table, "guard", "filter", Hook::Prerouting, -300);
    t.add_base_chain(table, "prerouting", "nat", Hook::Prerouting, -100);
    t.add_base_chain(table, "output", "nat", Hook::Output, -100);
    t.add_base_chain(table, "postrouting", "nat", Hook::Postrouting, 100);
    t.add_base_chain(table, "forward", "filter", Hook::Forward, 0);
    t.add_chain(table, "publish");
    t.add_chain(table, "inward");
    for (chain, rule) in rules(plan.masquerade) {
        t.append_rule(table, chain, &rule);
    }
    t
}

/// The address in register 8 is of 127.0.0.0/8.
fn loopback(field: Field) -> [Expression; 3] {
    [
        Expression::Payload {
            field,
            register: R0,
        },
        Expression::Mask([255, 0, 0, 0]),
        Expression::Equal(vec![127, 0, 0, 0]),
    ]
}

fn to_host() -> [Expression; 2] {
    [
        Expression::FibDestinationType,
        Expression::Equal(ADDRESS_LOCAL.to_ne_bytes().to_vec()),
    ]
}

/// `ct` masked is not zero.
fn ct(key: u32, mask: u32) -> [Expression; 2] {
    [
        Expression::Ct { key, mask },
        Expression::NotEqual(vec![0; 4]),
    ]
}

fn interface(key: u32) -> Expression {
    Expression::Meta { key, register: R0 }
}

fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.to_owned()))
}

/// Every rule with its chain, in order.
fn rules(masquerade: bool) -> Vec<(&'static str, Vec<Expression>)> {
    let from_bridge = || vec![interface(META_IIFNAME), Expression::InSet(BRIDGES.name)];
    let to_bridge = || vec![interface(META_OIFNAME), Expression::InSet(BRIDGES.name)];
    let from_subnet = || {
        vec![
            Expression::Payload {
                field: Field::SourceAddress,
                register: R0,
            },
            Expression::InSet(SUBNETS.name),
        ]
    };
    let then = |mut rule: Vec<Expression>, more: &[Expression]| {
        rule.extend_from_slice(more);
        rule
    };
    let verdict = |verdict: Verdict| [Expression::Verdict(verdict)];
    let dnat_status = || ct(CT_STATUS, STATUS_DNAT).to_vec();

    let mut rules = vec![
        (
            "guard",
            then(
                then(from_bridge(), &loopback(Field::DestinationAddress)),
                &verdict(Verdict::Drop),
            ),
        ),
        (
            "guard",
            then(
                then(from_bridge(), &loopback(Field::SourceAddress)),
                &verdict(Verdict::Drop),
            ),
        ),
        (
            "prerouting",
            then(
                loopback(Field::DestinationAddress).to_vec(),
                &verdict(Verdict::Return),
            ),
        ),
        ("prerouting", then(to_host().to_vec(), &[jump("publish")])),
        ("output", then(to_host().to_vec(), &[jump("publish")])),
        (
            "publish",
            vec![
                Expression::Payload {
                    field: Field::DestinationAddress,
                    register: R0,
                },
                Expression::Meta {
                    key: META_L4PROTO,
                    register: R1,
                },
                Expression::Payload {
                    field: Field::DestinationPort,
                    register: R2,
                },
                Expression::Map(PUBLISHED_AT.name),
                Expression::Dnat,
            ],
        ),
        (
            "publish",
            vec![
                Expression::Meta {
                    key: META_L4PROTO,
                    register: R0,
                },
                Expression::Payload {
                    field: Field::DestinationPort,
                    register: R1,
                },
                Expression::Map(PUBLISHED.name),
                Expression::Dnat,
            ],
        ),
    ];
    if masquerade {
        let elsewhere = [
            interface(META_OIFNAME),
            Expression::NotInSet(BRIDGES.name),
            Expression::Masquerade,
        ];
        rules.push(("postrouting", then(from_subnet(), &elsewhere)));
    }
    let back = then(dnat_status(), &to_bridge());
    rules.push((
        "postrouting",
        then(
            then(back.clone(), &from_subnet()),
            &[Expression::Masquerade],
        ),
    ));
    rules.push((
        "postrouting",
        then(
            then(back, &loopback(Field::SourceAddress)),
            &[Expression::Masquerade],
        ),
    ));
    rules.push(("forward", then(to_bridge(), &[jump("inward")])));
    rules.push((
        "inward",
        then(
            ct(CT_STATE, STATE_KNOWN).to_vec(),
            &verdict(Verdict::Accept),
        ),
    ));
    rules.push(("inward", then(dnat_status(), &verdict(Verdict::Accept))));
    rules.push((
        "inward",
        vec![
            interface(META_IIFNAME),
            Expression::Meta {
                key: META_OIFNAME,
                register: R4,
            },
            Expression::InSet(PEERS.name),
            Expression::Verdict(Verdict::Accept),
        ],
    ));
    rules.push(("inward", verdict(Verdict::Drop).to_vec()));
    rules
}
