//! SQLite across `fork`.
//!
//! A child that inherits an open SQLite connection also inherits SQLite's record of the POSIX locks
//! it holds, but not the locks: it takes none of its own and can lose acknowledged commits. So
//! before a fork no call may be in flight, no `flock` held and no connection open.
//!
//! Every store operation holds the gate, shared, while it touches SQLite or a lock file; a thread
//! that merely waits for its turn to write does not. [`prepare`] takes the gate for itself, which
//! it gets within the bounded time of one transaction, and closes all connections. The parent
//! reopens them when next needed. In the child every store of the parent is abandoned: it answers
//! CKR_CRYPTOKI_NOT_INITIALIZED and is never freed, since other threads of the parent may have been
//! inside its caches at the fork.
//!
//! A store in a database elsewhere has no such locks. Its connections stay with the parent, and the
//! child closes its copies of their sockets.

use std::cell::Cell;
use std::mem::{self, ManuallyDrop};
#[cfg(feature = "fleet")]
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use crate::error::{ErrorKind, Result};

static GATE: RwLock<()> = RwLock::new(());
/// Locked only by holders of the gate, so it is free whenever [`prepare`] owns the gate.
static STORES: Mutex<Vec<Weak<dyn Connections>>> = Mutex::new(Vec::new());
/// Counts the forks between this process and the one that loaded the library.
static EPOCH: AtomicU32 = AtomicU32::new(0);
static REGISTER: Once = Once::new();

type Exclusive = RwLockWriteGuard<'static, ()>;

thread_local! {
    /// The gate from `prepare` until `parent` or `child`; ManuallyDrop, so no destructor at thread exit.
    static HELD: Cell<Option<ManuallyDrop<Exclusive>>> = const { Cell::new(None) };
}

/// What must be closed before a fork.
pub(super) trait Connections: Send + Sync {
    /// Called by whoever holds the gate; neither this nor the drop of `self` may ask for it.
    fn close(&self);

    /// Called in the child: closes the sockets that it shares with its parent, and touches nothing else,
    /// for any lock may be held by a thread that is not there.
    fn abandon(&self) {}
}

/// The right to use SQLite and lock files. A thread must not ask for a second one while it holds
/// one: a fork that waits between the two would stop both.
pub(super) struct Pass {
    _gate: RwLockReadGuard<'static, ()>,
}

impl Pass {
    /// Has the store's connections closed before each fork.
    pub(super) fn adopt(&self, store: Weak<dyn Connections>) {
        let mut stores = stores();
        stores.retain(|known| known.strong_count() > 0);
        stores.push(store);
    }
}

/// The process a store belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u32);

impl Epoch {
    pub(super) fn current() -> Self {
        Self(EPOCH.load(Ordering::Relaxed))
    }

    /// CKR_CRYPTOKI_NOT_INITIALIZED in a forked child.
    pub(super) fn check(self) -> Result<()> {
        match self == Self::current() {
            true => Ok(()),
            false => Err(ErrorKind::CryptokiNotInitialized.with("the store was opened before the process forked")),
        }
    }

    /// Waits while another thread forks.
    pub(super) fn enter(self) -> Result<Pass> {
        self.check()?;
        Ok(Pass { _gate: GATE.read().unwrap_or_else(PoisonError::into_inner) })
    }
}

/// Installs the handlers, once per process.
pub fn register() -> Result<()> {
    let mut rc = 0;
    REGISTER.call_once(|| {
        // SAFETY: the handlers are plain functions that live as long as the library, which is
        // linked with `-z nodelete`; they do not panic and need no arguments.
        rc = unsafe { libc::pthread_atfork(Some(on_prepare), Some(on_parent), Some(on_child)) };
    });
    match rc {
        0 => Ok(()),
        _ => Err(ErrorKind::HostMemory.with("pthread_atfork failed")),
    }
}

/// Before the fork, in the thread that forks: waits until no store operation is in flight, keeps
/// new ones out and closes all connections.
pub fn prepare() {
    let held = HELD.take();
    if held.is_some() {
        HELD.set(held);
        return;
    }
    let gate = GATE.write().unwrap_or_else(PoisonError::into_inner);
    for store in stores().iter().filter_map(Weak::upgrade) {
        store.close();
    }
    HELD.set(Some(ManuallyDrop::new(gate)));
}

/// After the fork, in the parent.
pub fn parent() {
    release();
}

/// After the fork, in the child: abandons the parent's stores.
pub fn child() {
    if let Some(held) = HELD.take() {
        EPOCH.fetch_add(1, Ordering::Relaxed);
        let abandoned = mem::take(&mut *stores());
        for store in abandoned.iter().filter_map(Weak::upgrade) {
            store.abandon();
            mem::forget(store);
        }
        mem::forget(abandoned);
        HELD.set(Some(held));
        release();
    }
}

/// Closes a descriptor that a child inherited and nobody in it uses.
#[cfg(feature = "fleet")]
pub(super) fn close_inherited(fd: RawFd) {
    // SAFETY: an open descriptor, which its owner, who is abandoned, closes no more.
    unsafe { libc::close(fd) };
}

extern "C" fn on_prepare() {
    prepare();
}

extern "C" fn on_parent() {
    parent();
}

extern "C" fn on_child() {
    child();
}

fn release() {
    drop(HELD.take().map(ManuallyDrop::into_inner));
}

fn stores() -> MutexGuard<'static, Vec<Weak<dyn Connections>>> {
    STORES.lock().unwrap_or_else(PoisonError::into_inner)
}
