//! Forgetting connections that the kernel tracks (`ctnetlink`).
//!
//! Needed for UDP: a flow that somebody keeps alive would go on to where it went before a port was published, or to an
//! address whose container is gone, for as long as it lasts.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use kekkai_types::Protocol;

use super::{Batch, Failure, NLM_F_ACK, NLM_F_DUMP, Socket, attribute};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NFPROTO_IPV4: u8 = 2;

/// The transport's number in an IP header.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Which connections are forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    /// Those whose answers come from one of these addresses.
    pub(crate) answered_by: HashSet<Ipv4Addr>,
    /// UDP to one of these ports, wherever it went first.
    pub(crate) udp_to: HashSet<u16>,
}

impl Flows {
    fn contain(&self, original: &[u8], reply: &[u8]) -> bool {
        let source = attribute(reply, CTA_TUPLE_IP)
            .and_then(|ip| attribute(ip, CTA_IP_V4_SRC))
            .and_then(|source| <[u8; 4]>::try_from(source).ok());
        if source.is_some_and(|source| self.answered_by.contains(&Ipv4Addr::from(source))) {
            return true;
        }
        let Some(protocol) = attribute(original, CTA_TUPLE_PROTO) else {
            return false;
        };
        let number = attribute(protocol, CTA_PROTO_NUM).and_then(|n| n.first().copied());
        let port = attribute(protocol, CTA_PROTO_DST_PORT)
            .and_then(|p| p.try_into().ok())
            .map(u16::from_be_bytes);
        number == Some(protocol_number(Protocol::Udp))
            && port.is_some_and(|port| self.udp_to.contains(&port))
    }
}

impl Socket {
    /// Forgets connections; returns how many.
    pub(crate) fn forget_flows(&mut self, flows: &Flows) -> Result<usize, Failure> {
        let mut batch = Batch::new();
        batch.begin("list connections", GET, NLM_F_DUMP);
        batch.raw(&[NFPROTO_IPV4, 0, 0, 0]);
        batch.end();
        let found = self.query(&batch, |found: &mut Vec<Vec<u8>>, message| {
            let list = message.payload.get(4..).unwrap_or_default();
            let (Some(original), Some(reply)) = (
                attribute(list, CTA_TUPLE_ORIG),
                attribute(list, CTA_TUPLE_REPLY),
            ) else {
                return;
            };
            if flows.contain(original, reply) {
                found.push(original.to_vec());
            }
        })?;
        for original in &found {
            let mut batch = Batch::new();
            batch.begin("forget connection", DELETE, NLM_F_ACK);
            batch.raw(&[NFPROTO_IPV4, 0, 0, 0]);
            batch.nest(CTA_TUPLE_ORIG, |b| b.raw(original));
            batch.end();
            match self.transact(&batch) {
                // It may have ended by itself meanwhile.
                Err(failure) if failure.errno != rustix::io::Errno::NOENT => return Err(failure),
                _ => {}
            }
        }
        Ok(found.len())
    }
}
