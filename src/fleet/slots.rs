//! The connections that there are, by token, host and peer.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::connection::Connection;
use super::gate::Gate;
use super::limits::Limits;
use super::metrics::Closed;
use super::service::Id;

/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;

/// From where a connection comes, as far as strangers are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    Address(IpAddr),
    User(u32),
}

/// A connection, as those see it who do not have it in hand.
pub(super) struct Slot {
    pub(super) token: u64,
    pub(super) fd: OwnedFd,
    pub(super) peer: Peer,
    /// In milliseconds since the server's start, or [`NEVER`].
    pub(super) deadline: AtomicU64,
    /// Why it is closed when the deadline is over.
    pub(super) overdue: AtomicU8,
    /// Why it was shut down by another thread, plus one; 0 if it was not.
    doomed: AtomicU8,
    /// A request is under way, or its answer.
    pub(super) busy: AtomicBool,
    pub(super) host: OnceLock<Arc<Host>>,
    pub(super) stranger: AtomicBool,
    /// None once it is closed.
    connection: Mutex<Option<Connection>>,
}

/// A host that has connections.
pub(super) struct Host {
    pub(super) id: Id,
    name: String,
    pub(super) gate: Gate,
    connections: AtomicUsize,
}

impl Slot {
    pub(super) fn new(token: u64, fd: OwnedFd, peer: Peer, connection: Connection) -> Self {
        Self {
            token,
            fd,
            peer,
            deadline: AtomicU64::new(NEVER),
            overdue: AtomicU8::new(0),
            doomed: AtomicU8::new(0),
            busy: AtomicBool::new(false),
            host: OnceLock::new(),
            stranger: AtomicBool::new(true),
            connection: Mutex::new(Some(connection)),
        }
    }

    pub(super) fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it from another thread: whoever has it, or gets it, sees the end of its stream.
    pub(super) fn doom(&self, why: Closed) {
        let _ = self.doomed.compare_exchange(0, why as u8 + 1, Ordering::AcqRel, Ordering::Acquire);
        // It may be closed by now.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// Reads no more. What is still to be sent may go.
    pub(super) fn half_close(&self) {
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Read);
    }

    pub(super) fn doomed(&self) -> Option<Closed> {
        self.doomed.load(Ordering::Acquire).checked_sub(1).map(Closed::of)
    }
}

/// Counts of those that may be few only.
struct Counts<K>(Mutex<HashMap<K, usize>>);

impl<K: Hash + Eq> Counts<K> {
    /// False, and nothing counted, if there are `limit` already.
    fn add(&self, key: K, limit: usize) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        let free = *count < limit;
        if free {
            *count += 1;
        }
        free
    }

    fn remove(&self, key: &K) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

pub(super) struct Slots {
    all: RwLock<HashMap<u64, Arc<Slot>>>,
    hosts: Mutex<HashMap<Id, Arc<Host>>>,
    peers: Counts<Peer>,
    strangers: AtomicUsize,
}

impl Slots {
    pub(super) fn new() -> Self {
        let peers = Counts(Mutex::default());
        Self { all: RwLock::default(), hosts: Mutex::default(), peers, strangers: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, token: u64) -> Option<Arc<Slot>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(&token).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.all.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }

    pub(super) fn hosts(&self) -> usize {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn for_each(&self, visit: impl FnMut(&Arc<Slot>)) {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().for_each(visit);
    }

    /// Whether a stranger from there may have a connection. If so it is counted.
    pub(super) fn admit(&self, peer: Peer, limits: &Limits) -> bool {
        if self.len() >= limits.connections || self.strangers() >= limits.strangers {
            return false;
        }
        let free = self.peers.add(peer, limits.strangers_per_peer);
        if free {
            self.strangers.fetch_add(1, Ordering::Relaxed);
        }
        free
    }

    /// A stranger has become known, or has left.
    pub(super) fn no_stranger(&self, slot: &Slot) {
        if slot.stranger.swap(false, Ordering::AcqRel) {
            self.forget_stranger(slot.peer);
        }
    }

    pub(super) fn forget_stranger(&self, peer: Peer) {
        self.peers.remove(&peer);
        self.strangers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn insert(&self, slot: Arc<Slot>) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(slot.token, slot);
    }

    /// The connection is the host's. How many that has now; None: too many.
    pub(super) fn assign(&self, slot: &Slot, (id, name): (Id, &str), limits: &Limits) -> Option<usize> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(id).or_insert_with(|| {
            let gate = Gate::new(limits.workers_per_host);
            Arc::new(Host { id, name: name.to_owned(), gate, connections: AtomicUsize::new(0) })
        });
        if host.connections.load(Ordering::Relaxed) >= limits.connections_per_host {
            return None;
        }
        slot.host.set(Arc::clone(host)).ok()?;
        Some(host.connections.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) fn remove(&self, slot: &Slot) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(&slot.token);
        self.no_stranger(slot);
        if let Some(host) = slot.host.get() {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if host.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
                hosts.remove(&host.id);
                tracing::info!(host = host.name, "a host has no connections any more");
            }
        }
    }
}
