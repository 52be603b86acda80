//! The server: its connections, listeners and threads.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{Connection, Next};
use super::gate::Gate;
use super::limits::Limits;
use super::listen::{Accepted, Listener};
use super::metrics::{Closed, Metrics};
use super::poller::{Interest, Poller};
use super::service::{Id, Service, Standing};
use super::slots::{NEVER, Slot, Slots};
use super::workers::{self, Pool};

/// Of the tokens of listeners; the rest is their number.
pub(super) const LISTENERS: u64 = 1 << 63;
/// Connections that are accepted before others have their turn.
const ACCEPTED: usize = 16;
/// Between two lines of the log on connections that are refused.
const SELDOM: Duration = Duration::from_secs(1);

/// A server; clones are of the same one.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

/// A [`Server`] that may be gone.
pub struct WeakServer(Weak<Shared>);

impl WeakServer {
    pub fn upgrade(&self) -> Option<Server> {
        self.0.upgrade().map(Server)
    }
}

pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) service: Arc<dyn Service>,
    pub(super) metrics: Metrics,
    pub(super) poller: Poller,
    pub(super) slots: Slots,
    pub(super) pool: Pool,
    /// For what is asked before a handshake.
    pub(super) strangers: Gate,
    /// Bytes of large messages.
    pub(super) memory: AtomicUsize,
    listeners: Vec<Listening>,
    spinning: AtomicUsize,
    spinners: usize,
    started: Instant,
    tokens: AtomicU64,
    stopping: AtomicBool,
    stopped: AtomicBool,
    epoch: AtomicU64,
    seldom: Seldom,
}

struct Listening {
    listener: Listener,
    /// To be armed again by the keeper: the system had no room for another connection.
    paused: AtomicBool,
}

impl Server {
    /// A server that accepts nothing yet.
    pub fn new(service: Arc<dyn Service>, listeners: Vec<Listener>, limits: Limits) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let shared = Arc::new(Shared {
            strangers: Gate::new(limits.workers_for_strangers),
            limits,
            service,
            metrics: Metrics::new(),
            poller: Poller::new()?,
            slots: Slots::new(),
            pool: Pool::default(),
            memory: AtomicUsize::new(0),
            listeners: listeners
                .into_iter()
                .map(|listener| Listening { listener, paused: AtomicBool::new(false) })
                .collect(),
            spinning: AtomicUsize::new(0),
            spinners: (cores / 2).max(1),
            started: Instant::now(),
            tokens: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            seldom: Seldom::default(),
        });
        for (token, listening) in (LISTENERS..).zip(&shared.listeners) {
            shared.poller.add(&listening.listener, token)?;
        }
        Ok(Self(shared))
    }

    /// Begins to serve. To be called once.
    pub fn start(&self) -> io::Result<()> {
        workers::start(&self.0)
    }

    pub fn standing(&self) -> Standing {
        self.0.service.standing()
    }

    /// What is measured, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let shared = &self.0;
        let gauges = [
            ("workers", "Threads that handle requests.", shared.pool.total()),
            ("hosts", "Hosts that have connections.", shared.slots.hosts()),
            ("connections_without_handshake", "Connections of strangers.", shared.slots.strangers()),
            ("large_message_bytes", "Memory held by large messages.", shared.memory.load(Ordering::Relaxed)),
        ];
        shared.metrics.text(&shared.service.standing(), &shared.service.figures(), &gauges, shared.started.elapsed())
    }

    /// Closes the connections of hosts that are not to have any, at once.
    pub fn expel(&self, is_gone: impl Fn(&Id) -> bool) {
        let mut closed = 0_u64;
        self.0.slots.for_each(|slot| {
            if slot.host.get().is_some_and(|host| is_gone(&host.id)) {
                slot.doom(Closed::Expelled);
                closed += 1;
            }
        });
        if closed > 0 {
            tracing::warn!(connections = closed, "expelled: connections of a host that is not in the domain any more");
        }
    }

    /// Ends all links: at once those that are idle, the others with the request under way.
    pub fn end_links(&self) {
        self.0.epoch.fetch_add(1, Ordering::AcqRel);
        self.0.slots.for_each(|slot| {
            if slot.host.get().is_some() && !slot.busy.load(Ordering::Acquire) {
                slot.doom(Closed::Expired);
            }
        });
    }

    /// A handle that does not keep the server alive.
    pub fn downgrade(&self) -> WeakServer {
        WeakServer(Arc::downgrade(&self.0))
    }

    /// Accepts nothing more and ends when what is under way is done, or when its time is over.
    /// True: everything was done.
    pub fn stop(&self) -> bool {
        let shared = &self.0;
        let until = Instant::now() + shared.limits.grace;
        shared.stopping.store(true, Ordering::Release);
        for listening in &shared.listeners {
            shared.poller.remove(&listening.listener);
            listening.listener.withdraw();
        }
        loop {
            let mut busy = false;
            shared.slots.for_each(|slot| match slot.busy.load(Ordering::Acquire) {
                true => busy = true,
                // Its worker sends what it has and closes it.
                false => slot.half_close(),
            });
            if (!busy && shared.slots.len() == 0) || Instant::now() > until {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let done = shared.slots.len() == 0;
        shared.slots.for_each(|slot| slot.doom(Closed::Stopping));
        shared.stopped.store(true, Ordering::Release);
        shared.pool.ring();
        // Nothing else ends the workers; a failure only leaves them to the process's end.
        let _ = shared.poller.wake();
        while shared.pool.total() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        done
    }
}

impl Shared {
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Links of another epoch are over.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Has a connection handled, as far as it can be now.
    pub(super) fn serve(&self, token: u64) {
        let Some(slot) = self.slots.get(token) else { return };
        let mut held = slot.connection();
        let Some(connection) = held.as_mut() else { return };
        slot.deadline.store(NEVER, Ordering::Relaxed);
        match connection.run(self, &slot) {
            Next::Wait(interest, at, why) => {
                connection.shrink();
                slot.overdue.store(why as u8, Ordering::Relaxed);
                slot.deadline.store(self.milliseconds(at), Ordering::Release);
                if interest != Interest::Writable {
                    slot.busy.store(false, Ordering::Release);
                }
                drop(held);
                self.arm(&slot, interest);
            }
            Next::Parked(until) => {
                slot.overdue.store(Closed::Handshake as u8, Ordering::Relaxed);
                slot.deadline.store(until.map_or(NEVER, |at| self.milliseconds(at)), Ordering::Release);
            }
            Next::Close(why) => {
                connection.release(self);
                self.metrics.closed(connection.state(), why);
                let closed = held.take();
                self.poller.remove(&slot.fd);
                self.slots.remove(&slot);
                drop(held);
                drop(closed);
                let gates = [Some(&self.strangers), slot.host.get().map(|host| &host.gate)];
                let next = gates.into_iter().flatten().flat_map(Gate::pass);
                next.for_each(|next| self.arm(&next, Interest::Now));
                let _ = rustix::net::shutdown(&slot.fd, rustix::net::Shutdown::Both);
                if matches!(why, Closed::TooLarge | Closed::BadFrame | Closed::Memory | Closed::Slow) {
                    self.refused(format_args!("{:?} was closed: {}", slot.peer, why.name()));
                }
            }
        }
    }

    pub(super) fn arm(&self, slot: &Slot, interest: Interest) {
        if let Err(error) = self.poller.arm(&slot.fd, slot.token, interest) {
            tracing::error!(%error, "a connection cannot be awaited");
            slot.doom(Closed::Failed);
        }
    }

    /// Accepts what waits at a listener.
    pub(super) fn accept(&self, token: u64) {
        let number = usize::try_from(token & !LISTENERS).unwrap_or(usize::MAX);
        let Some(listening) = self.listeners.get(number) else { return };
        for _ in 0..ACCEPTED {
            if self.stopping() {
                return;
            }
            match listening.listener.accept() {
                Ok(Some(accepted)) => self.welcome(accepted, listening.listener.is_admin()),
                Ok(None) => break,
                Err(error) => {
                    self.refused(format_args!("a connection cannot be accepted: {error}"));
                    listening.paused.store(true, Ordering::Release);
                    return;
                }
            }
        }
        self.rearm(token, listening);
    }

    fn rearm(&self, token: u64, listening: &Listening) {
        if let Err(error) = self.poller.arm(&listening.listener, token, Interest::Readable)
            && !self.stopping()
        {
            tracing::error!(%error, "no connections can be awaited at {}", listening.listener.address());
        }
    }

    fn welcome(&self, accepted: Accepted, admin: bool) {
        let Accepted { fd, peer } = accepted;
        // Whoever may open the operators' socket is not counted with strangers, who could shut it otherwise.
        if !admin && !self.slots.admit(peer, &self.limits) {
            self.metrics.turned_away();
            self.refused(format_args!("{peer:?}: too many connections"));
            // `[255, 2]`, if it takes it at once.
            let _ = rustix::net::send(
                &fd,
                &[0, 0, 0, 4, 0x82, 0x18, 0xff, 2],
                rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
            );
            return;
        }
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot::new(token, fd, peer, Connection::new(admin)));
        slot.stranger.store(!admin, Ordering::Relaxed);
        slot.overdue.store(Closed::Handshake as u8, Ordering::Relaxed);
        slot.deadline.store(self.milliseconds(Instant::now() + self.limits.handshake), Ordering::Relaxed);
        self.slots.insert(Arc::clone(&slot));
        self.metrics.accepted();
        if let Err(error) = self.poller.add(slot.fd.as_fd(), token) {
            self.refused(format_args!("a connection cannot be awaited: {error}"));
            *slot.connection() = None;
            self.metrics.closed(0, Closed::Failed);
            self.slots.remove(&slot);
        }
    }

    /// Ends what is overdue.
    pub(super) fn sweep(&self) {
        let now = self.milliseconds(Instant::now());
        self.slots.for_each(|slot| {
            if slot.deadline.load(Ordering::Acquire) <= now {
                slot.doom(Closed::of(slot.overdue.load(Ordering::Relaxed)));
            }
        });
        for (token, listening) in (LISTENERS..).zip(&self.listeners) {
            if listening.paused.swap(false, Ordering::AcqRel) {
                self.rearm(token, listening);
            }
        }
    }

    /// Leave to look out for one connection's next request, if the others do not suffer.
    pub(super) fn spin(&self) -> Option<Spinning<'_>> {
        if self.limits.spin.is_zero() || self.pool.idle() == 0 {
            return None;
        }
        let spinning = Spinning(self);
        (self.spinning.fetch_add(1, Ordering::Relaxed) < self.spinners).then_some(spinning)
    }

    /// Logs why somebody was refused, once a second at most.
    pub(super) fn refused(&self, why: fmt::Arguments<'_>) {
        if let Some(more) = self.seldom.now() {
            tracing::warn!(more, "refused: {why}");
        }
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(NEVER)
    }
}

pub(super) struct Spinning<'a>(&'a Shared);

impl Drop for Spinning<'_> {
    fn drop(&mut self) {
        self.0.spinning.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets something through once in [`SELDOM`].
#[derive(Default)]
struct Seldom {
    begin: OnceLock<Instant>,
    /// The first millisecond at which the next one may pass.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl Seldom {
    /// How many did not pass since the last that did; None if this one does not either.
    fn now(&self) -> Option<u64> {
        let now = u64::try_from(self.begin.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(NEVER);
        let seldom = u64::try_from(SELDOM.as_millis()).unwrap_or(NEVER);
        let pass = |next| (next <= now).then(|| now.saturating_add(seldom));
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass) {
            Ok(_) => Some(self.held_back.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.held_back.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}
