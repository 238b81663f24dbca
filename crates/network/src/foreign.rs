//! Living beside a firewall that drops what is forwarded (`design/pitfalls.md` 18).
//!
//! A drop in another table's forward chain is final, whatever ours accepts. Where iptables' `filter FORWARD` drops (Docker
//! sets it so, and so do ufw and others), two rules go into it, or into Docker's `DOCKER-USER` when there is one: accept
//! what comes from our bridge, and what goes to it. What may really enter is decided in our own table. They are written
//! exactly as iptables-nft writes them, so that `iptables -S` still reads the table, and found again by what they say.
//!
//! Chains of iptables-legacy cannot be seen from here, and tables of firewalls that are not iptables' are left alone.

use crate::error::NetworkError;
use crate::netlink::Socket;
use crate::netlink::nft::{Direction, Transaction, iptables_accept};
use crate::netlink::nft_read::{Chain, Rule};

const TABLE: &str = "filter";
const FORWARD: &str = "FORWARD";
const DOCKER_USER: &str = "DOCKER-USER";
const DIRECTIONS: [Direction; 2] = [Direction::In, Direction::Out];

/// Puts the rules where they are needed, and takes them from where they are not. Says in which chain they are.
pub(crate) fn reconcile(
    socket: &mut Socket,
    bridge: &str,
) -> Result<Option<&'static str>, NetworkError> {
    let chains: Vec<Chain> = socket
        .chains()
        .map_err(|failure| failure.on("of nf_tables"))?
        .into_iter()
        .filter(|chain| chain.table == TABLE)
        .collect();
    let has = |name: &str| chains.iter().any(|chain| chain.name == name);
    let mut target = None;
    if let Some(forward) = chains
        .iter()
        .find(|chain| chain.name == FORWARD && chain.forwards())
    {
        let blocks = forward.drops || rules(socket, FORWARD)?.iter().any(|rule| rule.blocks);
        if blocks {
            target = Some(if has(DOCKER_USER) {
                DOCKER_USER
            } else {
                FORWARD
            });
        }
    }
    for name in [FORWARD, DOCKER_USER] {
        if has(name) {
            adjust(socket, name, bridge, target == Some(name))?;
        }
    }
    Ok(target)
}

/// Takes the rules out, wherever they are.
pub(crate) fn remove(socket: &mut Socket, bridge: &str) -> Result<(), NetworkError> {
    let chains = socket
        .chains()
        .map_err(|failure| failure.on("of nf_tables"))?;
    for chain in chains {
        if chain.table == TABLE
            && let Some(name) = [FORWARD, DOCKER_USER]
                .into_iter()
                .find(|name| *name == chain.name)
        {
            adjust(socket, name, bridge, false)?;
        }
    }
    Ok(())
}

fn rules(socket: &mut Socket, chain: &str) -> Result<Vec<Rule>, NetworkError> {
    socket
        .rules(TABLE, chain)
        .map_err(|failure| failure.on(&format!("of {TABLE} {chain}")))
}

/// Makes a chain have both rules, or neither.
fn adjust(
    socket: &mut Socket,
    chain: &'static str,
    bridge: &str,
    wanted: bool,
) -> Result<(), NetworkError> {
    let present = rules(socket, chain)?;
    let mut transaction = Transaction::new();
    let mut changes = false;
    // Rules of the host's own come first; a rule that ends the chain must come after.
    let last = present
        .iter()
        .rev()
        .take_while(|rule| rule.unconditional)
        .last();
    for direction in DIRECTIONS {
        let says_so = |rule: &&Rule| {
            rule.accepts
                .as_ref()
                .is_some_and(|(d, name)| *d == direction && name == bridge)
        };
        let mut found = present.iter().filter(says_so);
        if wanted && found.next().is_none() {
            let rule = iptables_accept(direction, bridge);
            match last {
                Some(last) => transaction.insert_rule((TABLE, chain), last.handle, &rule),
                None => transaction.append_rule(TABLE, chain, &rule),
            }
            changes = true;
        }
        // Once there is one, others like it are left-overs.
        for surplus in found {
            transaction.delete_rule(TABLE, chain, surplus.handle);
            changes = true;
        }
    }
    if !changes {
        return Ok(());
    }
    transaction
        .commit(socket)
        .map_err(|failure| failure.on(&format!("in {TABLE} {chain}")))
}
