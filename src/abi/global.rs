//! The one module-global state: the library between C_Initialize and C_Finalize.
//!
//! It hangs on one atomic pointer. What it points to is never freed, so a call that races
//! C_Finalize works on a library that was closed, not on freed memory; a call that comes later
//! finds no pointer. There is no lock that a forked child could find held.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryptoki_sys as ck;

use super::{exit, fork};
use crate::cryptoki::{Module, Options};
use crate::error::{ErrorKind, Result};
use crate::hsm::prepare_tables;

/// How long C_Finalize waits for calls that hold the application's mutex, and a fork for a running
/// C_Initialize.
const PATIENCE: Duration = Duration::from_secs(2);

struct Global {
    module: Module,
    /// The application's mutex, if it wants no other locking.
    mutex: Option<AppMutex>,
    /// The one before, so that a leak checker finds them all.
    _older: *mut Self,
}

static CURRENT: AtomicPtr<Global> = AtomicPtr::new(ptr::null_mut());
static NEWEST: AtomicPtr<Global> = AtomicPtr::new(ptr::null_mut());
/// Whether a C_Initialize, a C_Finalize or a fork is under way.
static CHANGING: AtomicBool = AtomicBool::new(false);
/// Whether the fork under way has the turn.
static FORKING: AtomicBool = AtomicBool::new(false);

/// Calls `body` with the library; CKR_CRYPTOKI_NOT_INITIALIZED.
#[inline]
pub(super) fn with<R>(body: impl FnOnce(&Module) -> Result<R>) -> Result<R> {
    let current = CURRENT.load(Ordering::Acquire);
    // SAFETY: NULL, or made by `initialize` and never freed.
    let Some(global) = (unsafe { current.as_ref() }) else {
        return Err(ErrorKind::CryptokiNotInitialized.into());
    };
    exit::arrive()?;
    let done = match &global.mutex {
        None => body(&global.module),
        Some(mutex) => {
            let _held = mutex.lock()?;
            if is_closed(current) {
                return Err(ErrorKind::CryptokiNotInitialized.into());
            }
            body(&global.module)
        }
    };
    match done {
        // What a library that is being closed answers is no more than that.
        Err(_) if is_closed(current) => Err(ErrorKind::CryptokiNotInitialized.into()),
        done => done,
    }
}

fn is_closed(global: *mut Global) -> bool {
    CURRENT.load(Ordering::Acquire) != global
}

/// C_Initialize (PKCS#11 3.2 §5.4.1). `args` is None for a NULL pointer.
pub(super) fn initialize(args: Option<ck::CK_C_INITIALIZE_ARGS>) -> Result<()> {
    let _turn = Turn::take();
    if !CURRENT.load(Ordering::Acquire).is_null() {
        return Err(ErrorKind::CryptokiAlreadyInitialized.into());
    }
    let (options, callbacks) = parse(args)?;
    fork::register()?;
    exit::register()?;
    if exit::arrive().is_err() || exit::is_under_way() {
        return Err(ErrorKind::FunctionFailed.with("the process is ending"));
    }
    // A fork waits for this call, so that no child finds a table half made.
    prepare_tables();
    let module = Module::new(options)?;
    let mutex = callbacks.map(AppMutex::create).transpose()?;
    let older = NEWEST.load(Ordering::Relaxed);
    let global = Box::into_raw(Box::new(Global { module, mutex, _older: older }));
    NEWEST.store(global, Ordering::Relaxed);
    CURRENT.store(global, Ordering::Release);
    if exit::is_under_way() {
        close_for_exit();
    }
    Ok(())
}

/// C_Finalize (§5.4.2). Calls in other threads end as the closed library lets them.
pub(super) fn finalize() -> Result<()> {
    let _turn = Turn::take();
    let current = CURRENT.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: as in `with`.
    let Some(global) = (unsafe { current.as_ref() }) else {
        return Err(ErrorKind::CryptokiNotInitialized.into());
    };
    match &global.mutex {
        None => global.module.finalize(),
        Some(mutex) => {
            {
                let _held = mutex.lock();
                global.module.finalize();
            }
            mutex.destroy();
        }
    }
    Ok(())
}

/// From now on there is no library. Only the audit log is closed: calls may be under way.
pub(super) fn close_for_exit() {
    let current = CURRENT.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: NULL, or made by `initialize` and never freed.
    let global: Option<&'static Global> = unsafe { current.as_ref() };
    if let Some(global) = global {
        global.module.close_audit(PATIENCE);
    }
}

/// Before a fork: waits for a running C_Initialize or C_Finalize, whose half-made state the child
/// would inherit, and keeps others out.
pub(super) fn before_fork() {
    if let Some(turn) = Turn::take_within(PATIENCE) {
        std::mem::forget(turn);
        FORKING.store(true, Ordering::Relaxed);
    }
}

pub(super) fn after_fork_in_parent() {
    if FORKING.swap(false, Ordering::Relaxed) {
        CHANGING.store(false, Ordering::Release);
    }
}

/// The child has no library until its own C_Initialize; the parent's is left alone.
pub(super) fn after_fork_in_child() {
    CURRENT.store(ptr::null_mut(), Ordering::Release);
    FORKING.store(false, Ordering::Relaxed);
    CHANGING.store(false, Ordering::Release);
}

/// Checks the arguments of C_Initialize: what goes down, and the callbacks if they must be used.
fn parse(args: Option<ck::CK_C_INITIALIZE_ARGS>) -> Result<(Options, Option<Callbacks>)> {
    let Some(args) = args else {
        return Ok((Options { enter_thread: Some(exit::arrive), ..Options::default() }, None));
    };
    if !args.pReserved.is_null() {
        return Err(ErrorKind::ArgumentsBad.with("pReserved is not NULL"));
    }
    let no_threads = args.flags & ck::CKF_LIBRARY_CANT_CREATE_OS_THREADS != 0;
    let options = Options { enter_thread: (!no_threads).then_some(exit::arrive), ..Options::default() };
    let callbacks = match (args.CreateMutex, args.DestroyMutex, args.LockMutex, args.UnlockMutex) {
        (None, None, None, None) => None,
        (Some(create), Some(destroy), Some(lock), Some(unlock)) => Some(Callbacks { create, destroy, lock, unlock }),
        _ => return Err(ErrorKind::ArgumentsBad.with("some mutex callbacks are given and some are NULL")),
    };
    // With CKF_OS_LOCKING_OK the library may use its own locks, and does.
    let callbacks = callbacks.filter(|_| args.flags & ck::CKF_OS_LOCKING_OK == 0);
    Ok((options, callbacks))
}

/// The right to change the state.
struct Turn;

impl Turn {
    fn take() -> Self {
        loop {
            if let Some(turn) = Self::take_within(Duration::MAX) {
                return turn;
            }
        }
    }

    fn take_within(patience: Duration) -> Option<Self> {
        let mut since = None;
        while CHANGING.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            if since.get_or_insert_with(Instant::now).elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        CHANGING.store(false, Ordering::Release);
    }
}

type Callback = unsafe extern "C" fn(*mut c_void) -> ck::CK_RV;

#[derive(Clone, Copy)]
struct Callbacks {
    create: unsafe extern "C" fn(*mut *mut c_void) -> ck::CK_RV,
    destroy: Callback,
    lock: Callback,
    unlock: Callback,
}

/// One mutex of the application, held around each call (§5.4.1, CKF_OS_LOCKING_OK not set).
struct AppMutex {
    callbacks: Callbacks,
    mutex: *mut c_void,
    /// Calls that hold it or wait for it.
    users: AtomicUsize,
}

impl AppMutex {
    fn create(callbacks: Callbacks) -> Result<Self> {
        let mut mutex = ptr::null_mut();
        // SAFETY: the application's function, called as the standard says.
        answered(unsafe { (callbacks.create)(&raw mut mutex) })?;
        Ok(Self { callbacks, mutex, users: AtomicUsize::new(0) })
    }

    fn lock(&self) -> Result<Held<'_>> {
        self.users.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the application's function and the mutex it made.
        match answered(unsafe { (self.callbacks.lock)(self.mutex) }) {
            Ok(()) => Ok(Held(self)),
            Err(error) => {
                self.users.fetch_sub(1, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    /// Destroys the mutex when nobody uses it any more; leaves it to the application otherwise.
    fn destroy(&self) {
        let since = Instant::now();
        while self.users.load(Ordering::SeqCst) != 0 {
            if since.elapsed() > PATIENCE {
                return;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        // SAFETY: as above. A call that starts now finds no current library; one that found it
        // before and has not yet counted itself is the application's race (§5.4.2).
        let _ = unsafe { (self.callbacks.destroy)(self.mutex) };
    }
}

struct Held<'a>(&'a AppMutex);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: the application's function and the mutex it made, locked by `AppMutex::lock`.
        let _ = unsafe { (self.0.callbacks.unlock)(self.0.mutex) };
        self.0.users.fetch_sub(1, Ordering::SeqCst);
    }
}

fn answered(rv: ck::CK_RV) -> Result<()> {
    match rv {
        ck::CKR_OK => Ok(()),
        ck::CKR_HOST_MEMORY => Err(ErrorKind::HostMemory.into()),
        _ => Err(ErrorKind::GeneralError.with("a mutex callback of the application failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn create(_: *mut *mut c_void) -> ck::CK_RV {
        ck::CKR_OK
    }
    unsafe extern "C" fn other(_: *mut c_void) -> ck::CK_RV {
        ck::CKR_OK
    }

    fn all() -> ck::CK_C_INITIALIZE_ARGS {
        ck::CK_C_INITIALIZE_ARGS {
            CreateMutex: Some(create),
            DestroyMutex: Some(other),
            LockMutex: Some(other),
            UnlockMutex: Some(other),
            flags: 0,
            pReserved: ptr::null_mut(),
        }
    }

    #[test]
    fn the_arguments_are_those_of_the_standard() {
        assert!(parse(None).unwrap().1.is_none());
        let none = ck::CK_C_INITIALIZE_ARGS::default();
        assert!(parse(Some(none)).unwrap().1.is_none());
        assert!(parse(Some(all())).unwrap().1.is_some());
        let os = ck::CK_C_INITIALIZE_ARGS { flags: ck::CKF_OS_LOCKING_OK, ..all() };
        assert!(parse(Some(os)).unwrap().1.is_none());
        let threads = ck::CK_C_INITIALIZE_ARGS { flags: ck::CKF_LIBRARY_CANT_CREATE_OS_THREADS, ..none };
        assert!(parse(Some(threads)).unwrap().0.enter_thread.is_none());
        for bad in [
            ck::CK_C_INITIALIZE_ARGS { LockMutex: None, ..all() },
            ck::CK_C_INITIALIZE_ARGS { CreateMutex: Some(create), ..none },
            ck::CK_C_INITIALIZE_ARGS { pReserved: ptr::dangling_mut(), ..none },
        ] {
            assert_eq!(parse(Some(bad)).err().unwrap().kind(), ErrorKind::ArgumentsBad);
        }
    }
}
