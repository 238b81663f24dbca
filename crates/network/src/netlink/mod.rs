//! Netlink sockets and messages, as much of them as the network needs.
//!
//! Several messages go to the kernel in one send; each asks for an acknowledgement and carries a sequence number, so that an
//! error names the step that failed. Everything the kernel says is parsed with bounds checked; what is cut short is ignored.

pub(crate) mod conntrack;
pub(crate) mod nft;
pub(crate) mod nft_read;
pub(crate) mod route;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::error::NetworkError;

/// The message needs an answer.
pub(crate) const NLM_F_REQUEST: u16 = 1;
/// The kernel acknowledges it.
pub(crate) const NLM_F_ACK: u16 = 4;
/// Everything there is.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Fails when it exists.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Replaces what exists.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
/// Makes it when missing.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// At the end of a list.
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// What was dumped changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// An attribute that holds others.
const NLA_F_NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// As large as what the kernel sends at once (it caps the parts of a dump at 32 KiB, and looks at the size asked for).
const RECEIVE_BUFFER: usize = 32 * 1024;
/// How often a dump is repeated that others keep changing.
const DUMP_ATTEMPTS: u32 = 40;

/// Messages to be sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    start: usize,
    /// What each message does, in order; its index is the message's sequence number.
    labels: Vec<&'static str>,
    /// How many of them ask for an acknowledgement.
    acks: usize,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch::default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Begins a message; `label` says what it does, for errors.
    pub(crate) fn begin(&mut self, label: &'static str, kind: u16, flags: u16) {
        self.start = self.bytes.len();
        let sequence = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        self.labels.push(label);
        if flags & NLM_F_ACK != 0 {
            self.acks += 1;
        }
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
    }

    /// Appends a fixed header of the protocol.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub(crate) fn attribute(&mut self, kind: u16, data: &[u8]) {
        let length = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// An attribute of text with the zero byte that the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// nf_tables wants its numbers in network order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// An attribute whose content is what `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Batch)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes
            .extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Ends the message begun last.
    pub(crate) fn end(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn label(&self, sequence: u32) -> &'static str {
        usize::try_from(sequence)
            .ok()
            .and_then(|index| self.labels.get(index))
            .copied()
            .unwrap_or("netlink request")
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Splits what was received into messages.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            payload: &bytes[HEADER..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Splits a list of attributes into kind and content.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let data = &bytes[4..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// The first attribute of this kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, data)| data)
}

/// An attribute's text without its zero byte.
pub(crate) fn text(data: &[u8]) -> &str {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    std::str::from_utf8(&data[..end]).unwrap_or_default()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Why a batch failed: the step and the kernel's error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) step: &'static str,
    pub(crate) errno: Errno,
}

impl Failure {
    /// The error, with the object it happened to.
    pub(crate) fn on(self, subject: &str) -> NetworkError {
        NetworkError::kernel(format!("{} {subject}", self.step), self.errno)
    }
}

/// A socket in the network namespace it was opened in, whichever namespace its user is in later.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// For links, addresses, routes.
    pub(crate) fn route() -> Result<Socket, NetworkError> {
        Socket::open(None, 0)
    }

    /// For nf_tables and conntrack.
    pub(crate) fn netfilter() -> Result<Socket, NetworkError> {
        Socket::open(Some(netlink::NETFILTER), 0)
    }

    /// Hears of every change of links.
    pub(crate) fn link_events() -> Result<Socket, NetworkError> {
        /// `RTMGRP_LINK`.
        const LINK: u32 = 1;
        Socket::open(None, LINK)
    }

    /// Hears of every change of nf_tables.
    pub(crate) fn nft_events() -> Result<Socket, NetworkError> {
        /// `NFNLGRP_NFTABLES` is group 7.
        const NFTABLES: u32 = 1 << 6;
        Socket::open(Some(netlink::NETFILTER), NFTABLES)
    }

    fn open(protocol: Option<rustix::net::Protocol>, groups: u32) -> Result<Socket, NetworkError> {
        let open = || {
            let fd = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                protocol,
            )?;
            rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, groups))?;
            if groups != 0 {
                // A burst of a few hundred containers must fit; on overflow the state is read afresh.
                let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20);
            }
            Ok(fd)
        };
        let fd =
            open().map_err(|errno: Errno| NetworkError::kernel("open a netlink socket", errno))?;
        Ok(Socket {
            fd,
            buffer: Vec::new(),
        })
    }

    /// Sends a batch and waits for all its acknowledgements.
    pub(crate) fn transact(&mut self, batch: &Batch) -> Result<(), Failure> {
        let step = batch.labels.first().copied().unwrap_or("netlink request");
        let fail = |errno| Failure { step, errno };
        self.send(&batch.bytes).map_err(fail)?;
        let mut acknowledged = 0;
        while acknowledged < batch.acks {
            let received = self.receive(RecvFlags::empty()).map_err(fail)?;
            let answers = messages(&self.buffer[..received])
                .filter_map(|m| Some((m.sequence, error_code(&m)?)));
            let mut failed = None;
            for (sequence, code) in answers {
                acknowledged += 1;
                if code != 0 && failed.is_none() {
                    failed = Some(Failure {
                        step: batch.label(sequence),
                        errno: Errno::from_raw_os_error(code),
                    });
                }
            }
            if let Some(failure) = failed {
                self.drain();
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Sends one message that asks for a list or an object, and hands each part of the answer to `each`. Repeated when what
    /// is listed changed meanwhile: `each` then starts over after a call of `restart`.
    pub(crate) fn query<S: Default>(
        &mut self,
        batch: &Batch,
        mut each: impl FnMut(&mut S, Message<'_>),
    ) -> Result<S, Failure> {
        let step = batch.labels.first().copied().unwrap_or("netlink request");
        let fail = |errno| Failure { step, errno };
        for attempt in 0..DUMP_ATTEMPTS {
            // Many links come and go together; a pause lets a burst of them pass.
            if attempt > 2 {
                std::thread::sleep(std::time::Duration::from_millis(attempt.min(20).into()));
            }
            let mut state = S::default();
            self.send(&batch.bytes).map_err(fail)?;
            let mut interrupted = false;
            'answer: loop {
                let received = self.receive(RecvFlags::empty()).map_err(fail)?;
                for message in messages(&self.buffer[..received]) {
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    match (message.kind, error_code(&message)) {
                        (NLMSG_DONE, _) | (_, Some(0)) => break 'answer,
                        (_, Some(code)) => return Err(fail(Errno::from_raw_os_error(code))),
                        _ => each(&mut state, message),
                    }
                }
            }
            if !interrupted {
                return Ok(state);
            }
        }
        Err(fail(Errno::INTR))
    }

    /// The next events, without waiting. `Err(NOBUFS)` says that some were lost, `Err(AGAIN)` that there are none.
    pub(crate) fn events(&mut self) -> Result<&[u8], Errno> {
        let received = self.receive(RecvFlags::DONTWAIT)?;
        Ok(&self.buffer[..received])
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                other => return other.map(|_| ()),
            }
        }
    }

    fn receive(&mut self, flags: RecvFlags) -> Result<usize, Errno> {
        self.buffer.resize(RECEIVE_BUFFER, 0);
        loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), flags) {
                Err(Errno::INTR) => {}
                other => return other.map(|(received, _)| received),
            }
        }
    }

    /// Throws away the answers that follow a failure. The kernel has queued them all before the send returned.
    fn drain(&mut self) {
        while self.receive(RecvFlags::DONTWAIT).is_ok() {}
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The positive error number of an error message, 0 of an acknowledgement.
fn error_code(message: &Message<'_>) -> Option<i32> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = u32_at(message.payload, 0)?;
    Some(i32::from_ne_bytes(code.to_ne_bytes()).saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let mut batch = Batch::new();
        batch.begin("one", 16, NLM_F_ACK);
        batch.raw(&[1, 2, 3, 4]);
        batch.text(3, "eth0");
        batch.nest(18, |b| b.attribute(1, b"abc"));
        batch.end();
        batch.begin("two", 17, 0);
        batch.end();
        let found: Vec<_> = messages(&batch.bytes).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[1].kind), (16, 17));
        let list = &found[0].payload[4..];
        assert_eq!(attribute(list, 3).map(text), Some("eth0"));
        assert_eq!(
            attribute(attribute(list, 18).unwrap(), 1),
            Some(&b"abc"[..])
        );
        assert_eq!((batch.acks, batch.label(1)), (1, "two"));
    }

    proptest::proptest! {
        #[test]
        fn garbage_ends_quietly(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                for (_, data) in attributes(message.payload) {
                    assert!(attributes(data).count() <= bytes.len());
                }
            }
        }
    }
}
