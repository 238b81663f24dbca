//! Changing nf_tables over `NETLINK_NETFILTER`: tables, chains, rules, sets and maps.
//!
//! Changes go in one batch between `BATCH_BEGIN` and `BATCH_END`: the kernel applies all or none, and no packet sees half.

use super::{Batch, Failure, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, Socket};

pub(super) const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES` as the batch's resource.
const RESOURCE: [u8; 2] = 10u16.to_be_bytes();
pub(super) const NFPROTO_IPV4: u8 = 2;
const NESTED_LIST: u16 = 1;

const SET_TABLE: u16 = 1;

/// Elements in one message; its list has a length of 16 bits.
const MAX_ELEMENTS: usize = 400;

/// Where a base chain hangs, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    pub(super) fn number(self) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
}

impl Verdict {
    pub(super) fn code(&self) -> u32 {
        match self {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
            Verdict::Jump(_) => -3i32 as u32,
            Verdict::Return => -5i32 as u32,
        }
    }
}

/// A field of the packet, with its offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    SourceAddress,
    DestinationAddress,
    DestinationPort,
}

/// The part of nf_tables' expressions that our rules are made of. Registers are numbered from 8 in units of 4 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// `meta`: 6 input interface's name, 7 output interface's name (16 bytes each), 16 transport protocol (1 byte).
    Meta {
        key: u32,
        register: u32,
    },
    /// Loads a field.
    Payload {
        field: Field,
        register: u32,
    },
    /// `ct state` (key 0) or `ct status` (key 2), then masked.
    Ct {
        key: u32,
        mask: u32,
    },
    /// The type of the destination's (or source's) address in register 8; 2 is local.
    FibDestinationType,
    /// Masks the address in register 8.
    Mask([u8; 4]),
    /// Compares register 8 on.
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    /// Goes on when the registers from 8 on are in the set.
    InSet(&'static str),
    NotInSet(&'static str),
    /// Goes on when they are in the map, whose value is then in the registers from 8 on.
    Map(&'static str),
    /// Changes the destination to the address in register 8 and the port in register 9.
    Dnat,
    Masquerade,
    /// Counts, as every rule of iptables-nft does.
    Counter,
    Verdict(Verdict),
}

/// Register 8, the first.
pub(crate) const R0: u32 = 8;
/// Register 9.
pub(crate) const R1: u32 = 9;
/// Register 10.
pub(crate) const R2: u32 = 10;
/// Register 12, which a second interface name goes to.
pub(crate) const R4: u32 = 12;
pub(crate) const META_IIFNAME: u32 = 6;
pub(crate) const META_OIFNAME: u32 = 7;
pub(crate) const META_L4PROTO: u32 = 16;
pub(crate) const CT_STATE: u32 = 0;
pub(crate) const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT` of established and related.
pub(crate) const STATE_KNOWN: u32 = 2 | 4;
/// `IPS_DST_NAT`.
pub(crate) const STATUS_DNAT: u32 = 1 << 5;
/// `RTN_LOCAL`.
pub(crate) const ADDRESS_LOCAL: u32 = 2;

/// A set or map of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetSpec {
    pub(crate) name: &'static str,
    /// nft's numbers of the key's type, for display: parts of 6 bits.
    pub(crate) key_type: u32,
    pub(crate) key_length: u32,
    /// Type and length of a map's value.
    pub(crate) data: Option<(u32, u32)>,
    pub(crate) kind: SetKind,
    pub(crate) key_order: KeyOrder,
}

/// The byte order of keys; for display only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    Network,
    Host,
}

/// How keys are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetKind {
    Exact,
    Interval,
}

/// One element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Option<Vec<u8>>,
    /// Whether it ends an interval instead of beginning one.
    pub(crate) interval_end: bool,
}

/// A list of changes to nf_tables that is applied whole.
#[derive(Debug)]
pub(crate) struct Transaction {
    batch: Batch,
    sets: u32,
}

pub(super) fn nfgen(family: u8, resource: [u8; 2]) -> [u8; 4] {
    [family, 0, resource[0], resource[1]]
}

impl Transaction {
    pub(crate) fn new() -> Transaction {
        let mut batch = Batch::new();
        batch.begin("begin nf_tables batch", BATCH_BEGIN, 0);
        batch.raw(&nfgen(0, RESOURCE));
        batch.end();
        Transaction { batch, sets: 0 }
    }

    fn message(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Batch),
    ) {
        self.batch.begin(label, kind, flags | NLM_F_ACK);
        self.batch.raw(&nfgen(NFPROTO_IPV4, [0, 0]));
        fill(&mut self.batch);
        self.batch.end();
    }

    /// Makes the table unless it is there.
    pub(crate) fn add_table(&mut self, table: &str) {
        self.message("add table", NEWTABLE, NLM_F_CREATE, |b| b.text(1, table));
    }

    pub(crate) fn delete_table(&mut self, table: &str) {
        self.message("delete table", DELTABLE, 0, |b| b.text(1, table));
    }

    pub(crate) fn add_base_chain(
        &mut self,
        table: &str,
        name: &str,
        kind: &str,
        hook: Hook,
        priority: i32,
    ) {
        self.message("add chain", NEWCHAIN, NLM_F_CREATE, |b| {
            b.text(1, table);
            b.text(3, name);
            b.nest(4, |b| {
                b.be32(1, hook.number());
                b.attribute(2, &priority.to_be_bytes());
            });
            b.be32(5, 1);
            b.text(7, kind);
        });
    }

    pub(crate) fn add_chain(&mut self, table: &str, name: &str) {
        self.message("add chain", NEWCHAIN, NLM_F_CREATE, |b| {
            b.text(1, table);
            b.text(3, name);
        });
    }

    pub(crate) fn add_set(&mut self, table: &str, set: &SetSpec) {
        self.sets += 1;
        let id = self.sets;
        let interval = if set.kind == SetKind::Interval { 4 } else { 0 };
        let map = if set.data.is_some() { 8 } else { 0 };
        self.message("add set", NEWSET, NLM_F_CREATE, |b| {
            b.text(SET_TABLE, table);
            b.text(2, set.name);
            b.be32(3, interval | map);
            b.be32(4, set.key_type);
            b.be32(5, set.key_length);
            if let Some((kind, length)) = set.data {
                b.be32(6, kind);
                b.be32(7, length);
            }
            b.be32(10, id);
            if set.key_order == KeyOrder::Host {
                // What nft keeps there so that `nft list` shows such keys: kind 0, length 4, 1 for the host's byte order.
                let [a, b0, c, d] = 1u32.to_ne_bytes();
                b.attribute(13, &[0, 4, a, b0, c, d]);
            }
        });
    }

    fn elements(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        place: (&str, &str),
        elements: &[Element],
    ) {
        for chunk in elements.chunks(MAX_ELEMENTS) {
            self.message(label, kind, flags, |b| {
                b.text(1, place.0);
                b.text(2, place.1);
                b.nest(3, |b| {
                    for element in chunk {
                        b.nest(NESTED_LIST, |b| {
                            b.nest(1, |b| b.attribute(1, &element.key));
                            if element.interval_end {
                                b.be32(3, 1);
                            }
                            if let Some(data) = &element.data {
                                b.nest(2, |b| b.attribute(1, data));
                            }
                        });
                    }
                });
            });
        }
    }

    /// Adds elements. With another value for a key that is there the batch fails.
    pub(crate) fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(
            "add element",
            NEWSETELEM,
            NLM_F_CREATE,
            (table, set),
            elements,
        );
    }

    /// Deletes elements; the batch fails when one is missing.
    pub(crate) fn delete_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements("delete element", DELSETELEM, 0, (table, set), elements);
    }

    /// Appends a rule to the chain.
    pub(crate) fn append_rule(&mut self, table: &str, chain: &str, rule: &[Expression]) {
        self.message("add rule", NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |b| {
            b.text(1, table);
            b.text(2, chain);
            b.nest(4, |b| rule.iter().for_each(|expression| put(b, expression)));
        });
    }

    /// Puts a rule before the one with this handle.
    pub(crate) fn insert_rule(&mut self, place: (&str, &str), before: u64, rule: &[Expression]) {
        self.message("insert rule", NEWRULE, NLM_F_CREATE, |b| {
            b.text(1, place.0);
            b.text(2, place.1);
            b.attribute(6, &before.to_be_bytes());
            b.nest(4, |b| rule.iter().for_each(|expression| put(b, expression)));
        });
    }

    pub(crate) fn delete_rule(&mut self, table: &str, chain: &str, handle: u64) {
        self.message("delete rule", DELRULE, 0, |b| {
            b.text(1, table);
            b.text(2, chain);
            b.attribute(3, &handle.to_be_bytes());
        });
    }

    /// Applies it.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), Failure> {
        self.batch.begin("end nf_tables batch", BATCH_END, 0);
        self.batch.raw(&nfgen(0, RESOURCE));
        self.batch.end();
        socket.transact(&self.batch)
    }
}

fn put(batch: &mut Batch, expression: &Expression) {
    let name = match expression {
        Expression::Meta { .. } => "meta",
        Expression::Payload { .. } => "payload",
        Expression::Ct { .. } => {
            // Two expressions of the kernel's: load and mask.
            return put_ct(batch, expression);
        }
        Expression::FibDestinationType => "fib",
        Expression::Mask(_) => "bitwise",
        Expression::Equal(_) | Expression::NotEqual(_) => "cmp",
        Expression::InSet(_) | Expression::NotInSet(_) | Expression::Map(_) => "lookup",
        Expression::Dnat => "nat",
        Expression::Masquerade => "masq",
        Expression::Counter => "counter",
        Expression::Verdict(_) => "immediate",
    };
    put_named(batch, name, |b| put_data(b, expression));
}

fn put_named(batch: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    batch.nest(NESTED_LIST, |b| {
        b.text(1, name);
        b.nest(2, fill);
    });
}

fn put_ct(batch: &mut Batch, expression: &Expression) {
    if let Expression::Ct { key, mask } = expression {
        put_named(batch, "ct", |b| {
            b.be32(1, R0);
            b.be32(2, *key);
        });
        put_mask(batch, mask.to_ne_bytes());
    }
}

fn put_mask(batch: &mut Batch, mask: [u8; 4]) {
    put_named(batch, "bitwise", |b| put_mask_data(b, mask));
}

fn put_mask_data(batch: &mut Batch, mask: [u8; 4]) {
    batch.be32(1, R0);
    batch.be32(2, R0);
    batch.be32(3, 4);
    batch.nest(4, |b| b.attribute(1, &mask));
    batch.nest(5, |b| b.attribute(1, &[0; 4]));
}

fn put_data(b: &mut Batch, expression: &Expression) {
    match expression {
        Expression::Meta { key, register } => {
            b.be32(1, *register);
            b.be32(2, *key);
        }
        Expression::Payload { field, register } => {
            let (base, offset, length) = match field {
                Field::SourceAddress => (1, 12, 4),
                Field::DestinationAddress => (1, 16, 4),
                Field::DestinationPort => (2, 2, 2),
            };
            b.be32(1, *register);
            b.be32(2, base);
            b.be32(3, offset);
            b.be32(4, length);
        }
        Expression::FibDestinationType => {
            b.be32(1, R0);
            b.be32(2, 3);
            b.be32(3, 2);
        }
        Expression::Mask(mask) => put_mask_data(b, *mask),
        Expression::Equal(data) => put_compare(b, 0, data),
        Expression::NotEqual(data) => put_compare(b, 1, data),
        Expression::InSet(set) => put_lookup(b, set, 0),
        Expression::NotInSet(set) => put_lookup(b, set, 1),
        Expression::Map(map) => {
            b.text(1, map);
            b.be32(2, R0);
            b.be32(3, R0);
        }
        Expression::Dnat => {
            b.be32(1, 1);
            b.be32(2, u32::from(NFPROTO_IPV4));
            b.be32(3, R0);
            b.be32(5, R1);
        }
        Expression::Counter => {
            b.attribute(1, &0u64.to_be_bytes());
            b.attribute(2, &0u64.to_be_bytes());
        }
        Expression::Verdict(verdict) => {
            b.be32(1, 0);
            b.nest(2, |b| {
                b.nest(2, |b| {
                    b.be32(1, verdict.code());
                    if let Verdict::Jump(chain) = verdict {
                        b.text(2, chain);
                    }
                });
            });
        }
        Expression::Ct { .. } | Expression::Masquerade => {}
    }
}

fn put_compare(b: &mut Batch, operation: u32, data: &[u8]) {
    b.be32(1, R0);
    b.be32(2, operation);
    b.nest(3, |b| b.attribute(1, data));
}

fn put_lookup(b: &mut Batch, set: &str, flags: u32) {
    b.text(1, set);
    b.be32(2, R0);
    b.be32(5, flags);
}

/// Which of a packet's interfaces is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Direction {
    fn meta_key(self) -> u32 {
        match self {
            Direction::In => META_IIFNAME,
            Direction::Out => META_OIFNAME,
        }
    }
}

/// The rule `-i INTERFACE -j ACCEPT` (or `-o`) exactly as iptables-nft writes it.
pub(crate) fn iptables_accept(direction: Direction, interface: &str) -> Vec<Expression> {
    let mut name = interface.as_bytes().to_vec();
    name.push(0);
    vec![
        Expression::Meta {
            key: direction.meta_key(),
            register: 1,
        },
        Expression::Equal(name),
        Expression::Counter,
        Expression::Verdict(Verdict::Accept),
    ]
}
