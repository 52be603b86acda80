//! Process exit with threads still inside.
//!
//! When a process ends, AWS-LC's destructor locks the random generator of every thread for good, and
//! a thread that makes its generator afterwards locks it against itself and aborts the process. So
//! each thread makes its generator when it first comes in, and nobody comes in once exit has begun:
//! what is inside by then runs on, or waits for the end.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::global;
use crate::error::{ErrorKind, Result};
use crate::hsm;

/// How long exit waits for threads that are making their generators.
const PATIENCE: Duration = Duration::from_secs(1);

static REGISTERED: AtomicBool = AtomicBool::new(false);
static EXITING: AtomicBool = AtomicBool::new(false);
/// Threads that are making their generators.
static ARRIVING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // No destructor: a call during the thread's exit finds it still there.
    static ARRIVED: Cell<bool> = const { Cell::new(false) };
}

/// Registers the handler, once in the life of a process and its children. It runs before any
/// destructor of a shared object.
pub(super) fn register() -> Result<()> {
    if REGISTERED.load(Ordering::Acquire) {
        return Ok(());
    }
    // SAFETY: the handler is a function of this object, which is never unloaded (`-z nodelete`).
    if unsafe { libc::atexit(at_exit) } != 0 {
        return Err(ErrorKind::HostMemory.into());
    }
    REGISTERED.store(true, Ordering::Release);
    Ok(())
}

/// To be called before anything that may draw random numbers; CKR_CRYPTOKI_NOT_INITIALIZED once
/// exit has begun.
#[inline]
pub(super) fn arrive() -> Result<()> {
    if ARRIVED.get() { Ok(()) } else { arrive_first() }
}

#[cold]
fn arrive_first() -> Result<()> {
    ARRIVING.fetch_add(1, Ordering::SeqCst);
    // After the addition: exit either sees it and waits, or is seen here.
    let made = if is_under_way() { Err(ErrorKind::CryptokiNotInitialized.into()) } else { hsm::prepare_thread() };
    ARRIVING.fetch_sub(1, Ordering::SeqCst);
    ARRIVED.set(made.is_ok());
    made
}

pub(super) fn is_under_way() -> bool {
    EXITING.load(Ordering::SeqCst)
}

/// Threads that were arriving are not in the child.
pub(super) fn after_fork_in_child() {
    ARRIVING.store(0, Ordering::SeqCst);
}

extern "C" fn at_exit() {
    EXITING.store(true, Ordering::SeqCst);
    global::close_for_exit();
    let since = Instant::now();
    while ARRIVING.load(Ordering::SeqCst) != 0 && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(50));
    }
}
