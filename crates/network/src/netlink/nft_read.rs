//! Reading nf_tables: chains and rules of anybody's, as far as we must understand them.

#[cfg(test)]
use super::nft::Element;
use super::nft::{
    Direction, Hook, META_IIFNAME, META_OIFNAME, NFPROTO_IPV4, SUBSYSTEM, Verdict, nfgen,
};
use super::{Batch, Failure, Message, NLM_F_DUMP, Socket, attribute, attributes, be32, text};

const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
#[cfg(test)]
const GETSETELEM: u16 = SUBSYSTEM | 13;
/// An event: somebody's batch was applied.
pub(crate) const NEWGEN: u16 = SUBSYSTEM | 15;
const CHAIN_HOOK: u16 = 4;

/// A chain of anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) table: String,
    pub(crate) name: String,
    /// The hook's number, for a base chain.
    pub(crate) hook: Option<u32>,
    /// Whether what falls out of it is dropped.
    pub(crate) drops: bool,
}

impl Chain {
    /// Whether it is a base chain that sees forwarded packets.
    pub(crate) fn forwards(&self) -> bool {
        self.hook == Some(Hook::Forward.number())
    }
}

/// A rule of anybody's, as far as we compare it: the names and contents of its expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) handle: u64,
    /// The interface it accepts everything from or to, if that is all it does.
    pub(crate) accepts: Option<(Direction, String)>,
    /// Whether it ends the chain for every packet.
    pub(crate) unconditional: bool,
    /// Whether it keeps every packet from going on.
    pub(crate) blocks: bool,
}

fn parse_chain(message: Message<'_>) -> Option<Chain> {
    let list = message.payload.get(4..)?;
    let hook = attribute(list, CHAIN_HOOK)
        .and_then(|hook| attribute(hook, 1))
        .and_then(be32);
    Some(Chain {
        table: text(attribute(list, 1)?).to_owned(),
        name: text(attribute(list, 3)?).to_owned(),
        hook,
        drops: attribute(list, 5).and_then(be32) == Some(0),
    })
}

fn parse_rule(message: Message<'_>) -> Option<Rule> {
    let list = message.payload.get(4..)?;
    let handle = u64::from_be_bytes(attribute(list, 3)?.try_into().ok()?);
    let mut interface = None;
    let mut direction = None;
    let mut verdict = None;
    let mut conditions = 0;
    let mut others = 0;
    let mut rejected = false;
    for (_, expression) in attributes(attribute(list, 4).unwrap_or_default()) {
        let data = attribute(expression, 2).unwrap_or_default();
        match text(attribute(expression, 1)?) {
            "counter" => {}
            "meta" => {
                conditions += 1;
                direction = match attribute(data, 2).and_then(be32) {
                    Some(META_IIFNAME) => Some(Direction::In),
                    Some(META_OIFNAME) => Some(Direction::Out),
                    _ => None,
                };
            }
            "cmp" if attribute(data, 2).and_then(be32) == Some(0) => {
                conditions += 1;
                // With its zero byte: without it, it is a prefix (`-i br+`).
                interface = attribute(data, 3)
                    .and_then(|d| attribute(d, 1))
                    .filter(|name| name.contains(&0))
                    .map(|name| text(name).to_owned());
            }
            "immediate" => {
                let code = attribute(data, 2)
                    .and_then(|d| attribute(d, 2))
                    .and_then(|d| attribute(d, 1))
                    .and_then(be32);
                verdict = code;
            }
            name => {
                // A target of xtables' is an expression too; its name comes first.
                let target = attribute(data, 1).map(text);
                rejected |= name == "reject" || (name == "target" && target == Some("REJECT"));
                others += 1;
            }
        }
    }
    let accepts = match (direction, interface) {
        (Some(direction), Some(interface))
            if conditions == 2 && others == 0 && verdict == Some(1) =>
        {
            Some((direction, interface))
        }
        _ => None,
    };
    let ends = matches!(verdict, Some(0 | 1)) || verdict == Some(Verdict::Return.code());
    let rejects = others == 1 && verdict.is_none() && rejected;
    let unconditional = conditions == 0 && ((others == 0 && ends) || rejects);
    let blocks = unconditional && (rejects || verdict == Some(Verdict::Drop.code()));
    Some(Rule {
        handle,
        accepts,
        unconditional,
        blocks,
    })
}

impl Socket {
    fn list(&mut self, label: &'static str, kind: u16) -> Batch {
        let mut batch = Batch::new();
        batch.begin(label, kind, NLM_F_DUMP);
        batch.raw(&nfgen(NFPROTO_IPV4, [0, 0]));
        batch
    }

    /// The chains of family `ip`.
    pub(crate) fn chains(&mut self) -> Result<Vec<Chain>, Failure> {
        let mut batch = self.list("list chains", GETCHAIN);
        batch.end();
        self.query(&batch, |found: &mut Vec<Chain>, message| {
            found.extend(parse_chain(message))
        })
    }

    /// The rules of a chain, in order.
    pub(crate) fn rules(&mut self, table: &str, chain: &str) -> Result<Vec<Rule>, Failure> {
        let mut batch = self.list("list rules", GETRULE);
        batch.text(1, table);
        batch.text(2, chain);
        batch.end();
        self.query(&batch, |found: &mut Vec<Rule>, message| {
            found.extend(parse_rule(message))
        })
    }

    /// The elements of a set.
    #[cfg(test)]
    pub(crate) fn set_elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, Failure> {
        let mut batch = self.list("list elements", GETSETELEM);
        batch.text(1, table);
        batch.text(2, set);
        batch.end();
        self.query(&batch, |found: &mut Vec<Element>, message| {
            let list = message
                .payload
                .get(4..)
                .and_then(|list| attribute(list, 3))
                .unwrap_or_default();
            for (_, element) in attributes(list) {
                let value = |kind| {
                    attribute(element, kind)
                        .and_then(|v| attribute(v, 1))
                        .map(<[u8]>::to_vec)
                };
                if let Some(key) = value(1) {
                    let interval_end = attribute(element, 3)
                        .and_then(be32)
                        .is_some_and(|flags| flags & 1 != 0);
                    found.push(Element {
                        key,
                        data: value(2),
                        interval_end,
                    });
                }
            }
        })
    }
}

/// The process that applied the batch an event tells of.
pub(crate) fn generation_pid(message: &Message<'_>) -> Option<u32> {
    attribute(message.payload.get(4..)?, 2).and_then(be32)
}
