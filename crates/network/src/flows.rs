//! Forgetting tracked UDP flows, off everybody's path.
//!
//! The kernel answers by walking its whole table of connections (some 20 ms, empty or not), so this has a thread of its own,
//! started at the first use, which serves all that wait with one walk.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::NetworkError;
use crate::netlink::Socket;
use crate::netlink::conntrack::Flows;
use crate::pool::SharedIpam;

/// More that comes within this time is done together.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Debug)]
enum Job {
    /// UDP to these ports of the host, which were published just now.
    Published(Vec<u16>),
    /// What goes to a container that is gone; its address is given back afterwards.
    Gone(Ipv4Addr),
}

#[derive(Debug)]
struct Running {
    queue: Sender<Job>,
    thread: JoinHandle<()>,
}

/// Hands jobs to the thread.
#[derive(Debug)]
pub(crate) struct FlowCleaner {
    ipam: Arc<SharedIpam>,
    /// Opened early, in the host's network namespace, and taken by the thread.
    socket: Mutex<Option<Socket>>,
    running: Mutex<Option<Running>>,
}

impl FlowCleaner {
    pub(crate) fn new(ipam: Arc<SharedIpam>) -> Result<FlowCleaner, NetworkError> {
        Ok(FlowCleaner {
            ipam,
            socket: Mutex::new(Some(Socket::netfilter()?)),
            running: Mutex::new(None),
        })
    }

    /// Flows to these ports shall go where they are published now.
    pub(crate) fn published(&self, udp_ports: Vec<u16>) {
        if !udp_ports.is_empty() {
            self.submit(Job::Published(udp_ports));
        }
    }

    /// Flows to this address shall end; then it is released.
    pub(crate) fn gone(&self, address: Ipv4Addr) {
        self.submit(Job::Gone(address));
    }

    fn submit(&self, job: Job) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = self.start();
        }
        let refused = match running.as_ref() {
            Some(running) => running.queue.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        // Without the thread flows stay as they are, but no address is lost.
        if let Some(Job::Gone(address)) = refused {
            self.ipam.with(|ipam| ipam.release(address));
        }
    }

    fn start(&self) -> Option<Running> {
        let socket = self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let ipam = Arc::clone(&self.ipam);
        let (queue, jobs) = channel();
        let thread = std::thread::Builder::new()
            .name("network-flows".into())
            .stack_size(256 * 1024)
            .spawn(move || run(socket, &jobs, &ipam))
            .ok()?;
        Some(Running { queue, thread })
    }
}

impl Drop for FlowCleaner {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Running { queue, thread }) = running {
            drop(queue);
            let _ = thread.join();
        }
    }
}

fn run(mut socket: Socket, jobs: &Receiver<Job>, ipam: &SharedIpam) {
    while let Ok(first) = jobs.recv() {
        let mut flows = Flows {
            answered_by: HashSet::new(),
            udp_to: HashSet::new(),
        };
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Published(ports) => flows.udp_to.extend(ports),
                Job::Gone(address) => {
                    flows.answered_by.insert(address);
                }
            }
            next = jobs.recv_timeout(GATHER).ok();
        }
        if let Err(failure) = socket.forget_flows(&flows) {
            // Only a client that goes on sending UDP can tell.
            tracing::debug!(error = %failure.on("of containers"), "tracked connections stay");
        }
        for address in flows.answered_by {
            ipam.with(|ipam| ipam.release(address));
        }
    }
}
