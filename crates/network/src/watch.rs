//! The thread that listens to the kernel: interfaces that are gone, and others changing nf_tables.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::error::NetworkError;
use crate::ipam::interface_address;
use crate::netlink::nft_read::{NEWGEN, generation_pid};
use crate::netlink::route::{RTM_DELLINK, parse_link};
use crate::netlink::{Socket, messages};

/// Somebody who restarts a firewall makes hundreds of changes; they are looked at together.
const PAUSE: Duration = Duration::from_millis(50);

/// What is done about events.
pub(crate) trait Listener: Send + Sync + 'static {
    /// An interface that stood for this address is gone.
    fn link_gone(&self, address: std::net::Ipv4Addr);
    /// Events about links were lost.
    fn links_lost(&self);
    /// Another process changed nf_tables.
    fn tables_changed(&self);
}

/// Listens from when it is opened, and tells from when it is started.
#[derive(Debug)]
pub(crate) struct Watch {
    links: Socket,
    tables: Socket,
}

/// Ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn open() -> Result<Watch, NetworkError> {
        Ok(Watch {
            links: Socket::link_events()?,
            tables: Socket::nft_events()?,
        })
    }

    /// Starts telling.
    pub(crate) fn start(self, listener: Arc<dyn Listener>) -> Result<Watching, NetworkError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| NetworkError::kernel("create an eventfd", errno))?;
        let stopped = stop
            .try_clone()
            .map_err(|source| NetworkError::kernel("duplicate an eventfd", source))?;
        let thread = std::thread::Builder::new()
            .name("network-watch".into())
            .stack_size(256 * 1024)
            .spawn(move || self.run(&stopped, &*listener))
            .map_err(|source| NetworkError::kernel("start the network watch", source))?;
        Ok(Watching {
            stop,
            thread: Some(thread),
        })
    }

    fn run(mut self, stop: &OwnedFd, listener: &dyn Listener) {
        let mut pending = false;
        let mut last = Instant::now()
            .checked_sub(PAUSE)
            .unwrap_or_else(Instant::now);
        loop {
            let timeout = pending.then(|| PAUSE.saturating_sub(last.elapsed()));
            let ready = match wait(
                [stop.as_fd(), self.links.as_fd(), self.tables.as_fd()],
                timeout,
            ) {
                Ok(ready) => ready,
                Err(errno) => {
                    tracing::error!(%errno, "the network watch has ended");
                    return;
                }
            };
            if ready[0] {
                return;
            }
            if ready[1] {
                self.hear_links(listener);
            }
            if ready[2] {
                pending |= self.hear_tables();
            }
            if pending && last.elapsed() >= PAUSE {
                listener.tables_changed();
                pending = false;
                last = Instant::now();
            }
        }
    }

    fn hear_links(&mut self, listener: &dyn Listener) {
        loop {
            match self.links.events() {
                Ok(bytes) => {
                    let gone = messages(bytes)
                        .filter(|message| message.kind == RTM_DELLINK)
                        // A bridge tells the loss of a port as a message of its own family; the link itself lives on.
                        .filter(|message| message.payload.first() == Some(&0))
                        .filter_map(|message| parse_link(&message))
                        .filter_map(|link| interface_address(&link.name));
                    for address in gone {
                        listener.link_gone(address);
                    }
                }
                Err(Errno::NOBUFS) => listener.links_lost(),
                Err(_) => return,
            }
        }
    }

    fn hear_tables(&mut self) -> bool {
        let own = u32::try_from(rustix::process::getpid().as_raw_nonzero().get()).ok();
        let mut foreign = false;
        loop {
            match self.tables.events() {
                Ok(bytes) => {
                    foreign |=
                        messages(bytes).any(|m| m.kind == NEWGEN && generation_pid(&m) != own);
                }
                Err(Errno::NOBUFS) => foreign = true,
                Err(_) => return foreign,
            }
        }
    }
}

fn wait<const N: usize>(
    fds: [rustix::fd::BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> Result<[bool; N], Errno> {
    let timeout = timeout.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.map(|fd| !fd.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; N]),
        Err(errno) => Err(errno),
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // An eventfd that nobody else writes to always takes this.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
