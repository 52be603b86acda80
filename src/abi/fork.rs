//! Fork: the child starts without a library and touches nothing of the parent's.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{exit, global};
use crate::error::{ErrorKind, Result};
use crate::{hsm, store};

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Registers the handlers, once in the life of a process and its children.
pub(super) fn register() -> Result<()> {
    if REGISTERED.load(Ordering::Acquire) {
        return Ok(());
    }
    // The store's handlers first: those before a fork run in the opposite order, and a C_Initialize
    // that ours waits for must not wait for the store.
    store::fork::register()?;
    // SAFETY: the handlers are functions of this object, which is never unloaded (`-z nodelete`).
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) };
    if failed != 0 {
        return Err(ErrorKind::HostMemory.into());
    }
    REGISTERED.store(true, Ordering::Release);
    Ok(())
}

extern "C" fn before() {
    global::before_fork();
}

extern "C" fn after_in_parent() {
    global::after_fork_in_parent();
}

/// Runs in a process of one thread, in which any lock may be held for ever: it takes none.
extern "C" fn after_in_child() {
    hsm::after_fork_in_child();
    exit::after_fork_in_child();
    global::after_fork_in_child();
}
