//! Network namespaces kept ready, and the thread that makes and buries them.
//!
//! Making one costs about a millisecond, most of it under the kernel's global network lock; taking one costs a lock of ours.
//! The thread makes new ones shortly after a take, not at once, so that it does not compete with the container that starts.
//! A used namespace is never given again. Those of ended containers are closed a little later and together: the kernel then
//! tears them down in one go, and not in the middle of somebody's start.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bridge::Bridge;
use crate::config::{NetworkConfig, PoolSize, Subnet};
use crate::error::NetworkError;
use crate::flows::FlowCleaner;
use crate::ipam::Ipam;
use crate::model::MacAddress;
use crate::netns::{Maker, Prepared};

/// Quiet after the last take before the pool is filled again, unless less than half is left.
const REFILL_DELAY: Duration = Duration::from_millis(5);
/// Quiet after the last take before ended containers' namespaces are closed.
const BURY_DELAY: Duration = Duration::from_millis(40);
/// How long they wait at most.
const BURY_DEADLINE: Duration = Duration::from_secs(1);
/// How many wait at most.
const BURY_COUNT: usize = 64;
/// Without a miss for so long, the pool shrinks by half.
const SHRINK_AFTER: Duration = Duration::from_secs(30);
/// Pause after a failure to make one ahead.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long one waits for an address of a container that is still dying.
const ADDRESS_WAIT: Duration = Duration::from_secs(3);
/// Namespaces with nothing but loopback kept ready.
const ISOLATED: PoolSize = PoolSize { min: 4, max: 16 };
/// What is left of a container's network.
#[derive(Debug)]
pub(crate) struct Remains {
    /// Absent when a daemon before us made it.
    pub(crate) netns: Option<OwnedFd>,
    pub(crate) address: Ipv4Addr,
    /// Whether UDP may still be on its way to it.
    pub(crate) had_udp: bool,
}

/// Addresses, shared with the thread that hears of dying interfaces.
#[derive(Debug)]
pub(crate) struct SharedIpam {
    ipam: Mutex<Ipam>,
    freed: Condvar,
}

impl SharedIpam {
    pub(crate) fn new(subnet: Subnet) -> SharedIpam {
        SharedIpam {
            ipam: Mutex::new(Ipam::new(subnet)),
            freed: Condvar::new(),
        }
    }

    /// Changes the addresses; whoever waits for one looks again.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Ipam) -> T) -> T {
        let result = change(&mut self.ipam.lock().unwrap_or_else(PoisonError::into_inner));
        self.freed.notify_all();
        result
    }

    fn lease_within(&self, wait: Duration) -> Option<Ipv4Addr> {
        let mut ipam = self.ipam.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + wait;
        loop {
            if let Some(address) = ipam.lease() {
                return Some(address);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            ipam = self
                .freed
                .wait_timeout(ipam, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

enum Request {
    Bridged(
        Option<MacAddress>,
        SyncSender<Result<Prepared, NetworkError>>,
    ),
    Isolated(SyncSender<Result<OwnedFd, NetworkError>>),
}

/// A pool's stock and how large it is to be now.
#[derive(Debug)]
struct Stock<T> {
    ready: VecDeque<T>,
    target: usize,
    size: PoolSize,
    last_miss: Instant,
}

impl<T> Stock<T> {
    fn new(size: PoolSize) -> Stock<T> {
        Stock {
            ready: VecDeque::new(),
            target: size.min,
            size,
            last_miss: Instant::now(),
        }
    }

    fn take(&mut self) -> Option<T> {
        let taken = self.ready.pop_front();
        if self.ready.is_empty() {
            self.target = (self.target * 2).min(self.size.max);
            self.last_miss = Instant::now();
        }
        taken
    }

    fn wants(&self) -> bool {
        self.ready.len() < self.target
    }

    fn is_low(&self) -> bool {
        self.ready.len() * 2 < self.target
    }

    /// What is too much after a quiet time.
    fn surplus(&mut self, now: Instant) -> Vec<T> {
        if self.target > self.size.min && now.duration_since(self.last_miss) > SHRINK_AFTER {
            self.target = (self.target / 2).max(self.size.min);
            self.last_miss = now;
        }
        self.ready
            .drain(self.target.min(self.ready.len())..)
            .collect()
    }
}

struct State {
    bridged: Stock<Prepared>,
    isolated: Stock<OwnedFd>,
    requests: VecDeque<Request>,
    remains: Vec<Remains>,
    remains_since: Instant,
    last_take: Instant,
    retry_at: Option<Instant>,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("bridged", &self.bridged.ready.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to do. Looking and waiting are under one lock, so that nothing is overlooked.
    fn next_task(&self) -> Task {
        let mut state = self.lock();
        loop {
            match state.next(Instant::now()) {
                Next::Task(task) => return task,
                Next::Wait(time) => {
                    state = self
                        .changed
                        .wait_timeout(state, time)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }
}

/// The pool. Dropping it closes everything that is ready.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Starts the thread, in the network namespace of the caller.
    pub(crate) fn start(
        config: &NetworkConfig,
        bridge: &Bridge,
        ipam: Arc<SharedIpam>,
        flows: Arc<FlowCleaner>,
    ) -> Result<Pool, NetworkError> {
        let limit = ipam.with(|ipam| ipam.capacity()) / 8;
        let size = PoolSize {
            min: config.pool.min.min(limit),
            max: config.pool.max.min(limit),
        };
        let now = Instant::now();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                bridged: Stock::new(size),
                isolated: Stock::new(ISOLATED),
                requests: VecDeque::new(),
                remains: Vec::new(),
                remains_since: now,
                last_take: now.checked_sub(BURY_DEADLINE).unwrap_or(now),
                retry_at: None,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            maker: Maker::new(config, bridge)?,
            flows,
            ipam,
            subnet: bridge.subnet,
        };
        let thread = std::thread::Builder::new()
            .name("network-pool".into())
            .stack_size(256 * 1024)
            .spawn(move || worker.run())
            .map_err(|source| NetworkError::kernel("start the network thread", source))?;
        Ok(Pool {
            shared,
            thread: Some(thread),
        })
    }

    /// A namespace on the bridge; at once when one is ready.
    pub(crate) fn take(&self, mac: Option<MacAddress>) -> Result<Prepared, NetworkError> {
        let mut state = self.shared.lock();
        if mac.is_none()
            && let Some(prepared) = state.bridged.take()
        {
            state.last_take = Instant::now();
            drop(state);
            self.shared.changed.notify_one();
            return Ok(prepared);
        }
        let (sender, receiver) = sync_channel(1);
        self.ask(state, Request::Bridged(mac, sender))?;
        receiver.recv().unwrap_or(Err(NetworkError::NotReady))
    }

    /// A namespace with loopback only.
    pub(crate) fn take_isolated(&self) -> Result<OwnedFd, NetworkError> {
        let mut state = self.shared.lock();
        if let Some(netns) = state.isolated.take() {
            state.last_take = Instant::now();
            drop(state);
            self.shared.changed.notify_one();
            return Ok(netns);
        }
        let (sender, receiver) = sync_channel(1);
        self.ask(state, Request::Isolated(sender))?;
        receiver.recv().unwrap_or(Err(NetworkError::NotReady))
    }

    fn ask(&self, mut state: MutexGuard<'_, State>, request: Request) -> Result<(), NetworkError> {
        if state.closed {
            return Err(NetworkError::NotReady);
        }
        state.last_take = Instant::now();
        state.requests.push_back(request);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Buries what is left of a container's network, a little later.
    pub(crate) fn bury(&self, remains: Remains) {
        let mut state = self.shared.lock();
        if state.remains.is_empty() {
            state.remains_since = Instant::now();
        }
        state.remains.push(remains);
        drop(state);
        self.shared.changed.notify_one();
    }

    /// How many are ready on the bridge.
    pub(crate) fn ready(&self) -> usize {
        self.shared.lock().bridged.ready.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Task {
    Serve(Request),
    FillBridged,
    FillIsolated,
    Bury(Vec<Remains>),
    Drop(Vec<Prepared>, Vec<OwnedFd>),
    Stop,
}

/// What is to be done now, or how long there is nothing.
enum Next {
    Task(Task),
    Wait(Duration),
}

impl State {
    /// The most urgent thing to do at `now`.
    fn next(&mut self, now: Instant) -> Next {
        if self.closed {
            return Next::Task(Task::Stop);
        }
        if let Some(request) = self.requests.pop_front() {
            return Next::Task(Task::Serve(request));
        }
        let quiet = now.saturating_duration_since(self.last_take);
        let may_fill = self.retry_at.is_none_or(|at| at <= now);
        let mut wait = SHRINK_AFTER;
        for (wants, low, task) in [
            (
                self.bridged.wants(),
                self.bridged.is_low(),
                Task::FillBridged,
            ),
            (
                self.isolated.wants(),
                self.isolated.is_low(),
                Task::FillIsolated,
            ),
        ] {
            if wants && may_fill && (low || quiet >= REFILL_DELAY) {
                return Next::Task(task);
            }
            if wants {
                let pause = self
                    .retry_at
                    .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
                wait = wait.min(REFILL_DELAY.saturating_sub(quiet).max(pause));
            }
        }
        if !self.remains.is_empty() {
            let age = now.saturating_duration_since(self.remains_since);
            if quiet >= BURY_DELAY || age >= BURY_DEADLINE || self.remains.len() >= BURY_COUNT {
                return Next::Task(Task::Bury(std::mem::take(&mut self.remains)));
            }
            wait = wait
                .min(BURY_DELAY.saturating_sub(quiet))
                .min(BURY_DEADLINE.saturating_sub(age));
        }
        let (bridged, isolated) = (self.bridged.surplus(now), self.isolated.surplus(now));
        if !bridged.is_empty() || !isolated.is_empty() {
            return Next::Task(Task::Drop(bridged, isolated));
        }
        Next::Wait(wait.max(Duration::from_millis(1)))
    }
}

struct Worker {
    shared: Arc<Shared>,
    maker: Maker,
    flows: Arc<FlowCleaner>,
    ipam: Arc<SharedIpam>,
    subnet: Subnet,
}

impl Worker {
    fn run(mut self) {
        loop {
            let task = self.shared.next_task();
            match task {
                Task::Stop => return self.close(),
                Task::Serve(Request::Bridged(mac, reply)) => {
                    // One may have become ready since it was asked for.
                    let ready = if mac.is_none() {
                        self.shared.lock().bridged.ready.pop_front()
                    } else {
                        None
                    };
                    let made = ready.map_or_else(|| self.make(mac, ADDRESS_WAIT), Ok);
                    // Whoever asked is gone: its namespace goes with the reply.
                    if let Err(lost) = reply.send(made)
                        && let Ok(prepared) = lost.0
                    {
                        self.ipam.with(|ipam| ipam.release(prepared.address));
                    }
                }
                Task::Serve(Request::Isolated(reply)) => {
                    let _ = reply.send(self.maker.isolated());
                }
                Task::FillBridged => match self.make(None, Duration::ZERO) {
                    Ok(prepared) => self.shared.lock().bridged.ready.push_back(prepared),
                    Err(error) => self.pause(&error),
                },
                Task::FillIsolated => match self.maker.isolated() {
                    Ok(netns) => self.shared.lock().isolated.ready.push_back(netns),
                    Err(error) => self.pause(&error),
                },
                Task::Bury(remains) => self.bury(remains),
                Task::Drop(bridged, isolated) => {
                    drop(isolated);
                    for prepared in bridged {
                        self.ipam.with(|ipam| ipam.release(prepared.address));
                    }
                }
            }
        }
    }

    fn make(&mut self, mac: Option<MacAddress>, wait: Duration) -> Result<Prepared, NetworkError> {
        let leased = self.ipam.lease_within(Duration::ZERO).or_else(|| {
            // Addresses of containers that ended are waiting for us to close their namespaces.
            let remains = std::mem::take(&mut self.shared.lock().remains);
            self.bury(remains);
            self.ipam.lease_within(wait)
        });
        let address = leased.ok_or(NetworkError::NoAddress {
            subnet: self.subnet,
        })?;
        match self.maker.bridged(address, mac) {
            Ok(prepared) => {
                self.ipam.with(|ipam| ipam.built(address));
                Ok(prepared)
            }
            Err((error, made)) => {
                self.ipam.with(|ipam| {
                    if made {
                        ipam.built(address);
                        ipam.release(address);
                    } else {
                        ipam.abandon(address);
                    }
                });
                Err(error)
            }
        }
    }

    fn pause(&self, error: &NetworkError) {
        tracing::debug!(%error, "no network namespace could be made ahead");
        self.shared.lock().retry_at = Some(Instant::now() + RETRY_AFTER);
    }

    fn bury(&mut self, remains: Vec<Remains>) {
        for Remains {
            netns,
            address,
            had_udp,
        } in remains
        {
            if had_udp {
                self.flows.gone(address);
            } else {
                self.ipam.with(|ipam| ipam.release(address));
            }
            drop(netns);
        }
    }

    fn close(self) {
        let mut state = self.shared.lock();
        // Their senders go, and with them whoever waits gets an error.
        state.requests.clear();
        state.bridged.ready.clear();
        state.isolated.ready.clear();
        state.remains.clear();
    }
}
