//! C_Initialize, C_Finalize, threads and forks through the C ABI.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cryptoki_sys as ck;

mod common;
use common::{Library, call};

fn arguments() -> ck::CK_C_INITIALIZE_ARGS {
    ck::CK_C_INITIALIZE_ARGS { flags: ck::CKF_OS_LOCKING_OK, ..Default::default() }
}

fn initialize(library: &Library, mut arguments: ck::CK_C_INITIALIZE_ARGS) -> ck::CK_RV {
    call!(library, C_Initialize((&raw mut arguments).cast()))
}

#[test]
fn initialize_and_finalize_take_turns() {
    let library = Library::load();
    for _ in 0..3 {
        assert_eq!(call!(library, C_Finalize(ptr::null_mut())), ck::CKR_CRYPTOKI_NOT_INITIALIZED);
        assert_eq!(initialize(&library, arguments()), ck::CKR_OK);
        assert_eq!(initialize(&library, arguments()), ck::CKR_CRYPTOKI_ALREADY_INITIALIZED);
        assert_eq!(call!(library, C_Finalize(ptr::dangling_mut())), ck::CKR_ARGUMENTS_BAD);
        assert_eq!(call!(library, C_Finalize(ptr::null_mut())), ck::CKR_OK);
    }
    let reserved = ck::CK_C_INITIALIZE_ARGS { pReserved: ptr::dangling_mut(), ..arguments() };
    assert_eq!(initialize(&library, reserved), ck::CKR_ARGUMENTS_BAD);
    let half = ck::CK_C_INITIALIZE_ARGS { LockMutex: Some(lock), ..arguments() };
    assert_eq!(initialize(&library, half), ck::CKR_ARGUMENTS_BAD);
    let mut info = ck::CK_INFO::default();
    assert_eq!(call!(library, C_GetInfo(&raw mut info)), ck::CKR_CRYPTOKI_NOT_INITIALIZED);
    assert_eq!(call!(library, C_Initialize(ptr::null_mut())), ck::CKR_OK);
    assert_eq!(call!(library, C_GetInfo(ptr::null_mut())), ck::CKR_ARGUMENTS_BAD);
    assert_eq!(call!(library, C_GetInfo(&raw mut info)), ck::CKR_OK);
    assert_eq!((info.cryptokiVersion.major, info.cryptokiVersion.minor), (3, 2));
    assert_eq!(&info.manufacturerID, b"Conclave                        ");
}

#[test]
fn of_many_threads_one_initializes() {
    let library = Library::load();
    for _ in 0..10 {
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| call!(library, C_Initialize(ptr::null_mut())))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|rv| **rv == ck::CKR_OK).count(), 1);
        assert_eq!(results.iter().filter(|rv| **rv == ck::CKR_CRYPTOKI_ALREADY_INITIALIZED).count(), 7);
        assert_eq!(call!(library, C_Finalize(ptr::null_mut())), ck::CKR_OK);
    }
}

static CREATED: AtomicUsize = AtomicUsize::new(0);
static LOCKED: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn create(mutex: *mut *mut c_void) -> ck::CK_RV {
    CREATED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the module passes a place for the mutex.
    unsafe { mutex.write(ptr::without_provenance_mut(42)) };
    ck::CKR_OK
}
unsafe extern "C" fn destroy(mutex: *mut c_void) -> ck::CK_RV {
    assert_eq!(mutex.addr(), 42);
    CREATED.fetch_sub(1, Ordering::SeqCst);
    ck::CKR_OK
}
unsafe extern "C" fn lock(mutex: *mut c_void) -> ck::CK_RV {
    assert_eq!(mutex.addr(), 42);
    while HELD.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
    LOCKED.fetch_add(1, Ordering::SeqCst);
    ck::CKR_OK
}
unsafe extern "C" fn unlock(mutex: *mut c_void) -> ck::CK_RV {
    assert_eq!(mutex.addr(), 42);
    HELD.store(false, Ordering::Release);
    ck::CKR_OK
}

#[test]
fn the_applications_mutex_is_used_when_it_wants_that() {
    let library = Library::load();
    let callbacks = ck::CK_C_INITIALIZE_ARGS {
        CreateMutex: Some(create),
        DestroyMutex: Some(destroy),
        LockMutex: Some(lock),
        UnlockMutex: Some(unlock),
        flags: 0,
        pReserved: ptr::null_mut(),
    };
    assert_eq!(initialize(&library, callbacks), ck::CKR_OK);
    assert_eq!(CREATED.load(Ordering::SeqCst), 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| drop(library.slots(true))));
        }
    });
    assert!(LOCKED.load(Ordering::SeqCst) >= 800);
    assert!(!HELD.load(Ordering::SeqCst));
    assert_eq!(call!(library, C_Finalize(ptr::null_mut())), ck::CKR_OK);
    assert_eq!(CREATED.load(Ordering::SeqCst), 0);
    assert!(!HELD.load(Ordering::SeqCst));
    // With CKF_OS_LOCKING_OK the module locks by itself.
    assert_eq!(initialize(&library, ck::CK_C_INITIALIZE_ARGS { flags: ck::CKF_OS_LOCKING_OK, ..callbacks }), 0);
    assert_eq!(CREATED.load(Ordering::SeqCst), 0);
}

#[test]
fn calls_during_and_after_finalize_are_refused_and_never_crash() {
    let (library, _) = Library::with_token();
    let slot = library.slots(true)[0];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (mut session, mut random, mut count) = (0, [0u8; 32], 0);
                    let flags = ck::CKF_SERIAL_SESSION;
                    let opened = call!(library, C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut session));
                    let drawn = call!(library, C_GenerateRandom(session, random.as_mut_ptr(), 32));
                    let listed = call!(library, C_GetSlotList(1, ptr::null_mut(), &raw mut count));
                    let closed = call!(library, C_CloseSession(session));
                    for rv in [opened, drawn, listed, closed] {
                        let expected = [
                            ck::CKR_OK,
                            ck::CKR_CRYPTOKI_NOT_INITIALIZED,
                            ck::CKR_SESSION_HANDLE_INVALID,
                            ck::CKR_SESSION_CLOSED,
                        ];
                        assert!(expected.contains(&rv), "{rv:#x}");
                    }
                }
            });
        }
        for _ in 0..40 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            assert_eq!(call!(library, C_Finalize(ptr::null_mut())), ck::CKR_OK);
            assert_eq!(call!(library, C_Initialize(ptr::null_mut())), ck::CKR_OK);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Runs `child` in a forked child; answers whether it said true within a while.
fn in_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child calls the module and _exit only, and allocates as glibc allows after fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: leaves without the parent's destructors.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = -1;
    for _ in 0..2000 {
        // SAFETY: our own child, and a place for its status.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid {
            return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // SAFETY: our own child, which hangs.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    false
}

#[test]
fn a_forked_child_initializes_anew() {
    let (library, session) = Library::with_token();
    let slot = library.slots(true)[0];
    assert!(in_child(|| {
        let mut random = [0u8; 16];
        call!(library, C_GenerateRandom(session, random.as_mut_ptr(), 16)) == ck::CKR_CRYPTOKI_NOT_INITIALIZED
            && call!(library, C_Finalize(ptr::null_mut())) == ck::CKR_CRYPTOKI_NOT_INITIALIZED
            && call!(library, C_Initialize(ptr::null_mut())) == ck::CKR_OK
            && call!(library, C_GenerateRandom(session, random.as_mut_ptr(), 16)) == ck::CKR_SESSION_HANDLE_INVALID
            && library.login(library.open(slot), ck::CKU_USER, common::USER_PIN) == ck::CKR_OK
    }));
    let mut random = [0u8; 16];
    assert_eq!(call!(library, C_GenerateRandom(session, random.as_mut_ptr(), 16)), ck::CKR_OK);
}

#[test]
fn a_child_of_a_busy_parent_works_too() {
    let (library, session) = Library::with_token();
    let slot = library.slots(true)[0];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (library, stop) = (&library, &stop);
            scope.spawn(move || {
                let template = common::Template::new()
                    .ulong(ck::CKA_VALUE_LEN, 32)
                    .flag(ck::CKA_TOKEN, thread == 0)
                    .bytes(ck::CKA_LABEL, b"busy");
                while !stop.load(Ordering::Relaxed) {
                    let key = library.generate(session, ck::CKM_AES_KEY_GEN, &template).unwrap();
                    assert_eq!(call!(library, C_DestroyObject(session, key)), ck::CKR_OK);
                }
            });
        }
        let good = (0..10).all(|_| {
            in_child(|| {
                let again = call!(library, C_Initialize(ptr::null_mut())) == ck::CKR_OK;
                let session = library.open(slot);
                let template = common::Template::new().ulong(ck::CKA_VALUE_LEN, 32).flag(ck::CKA_TOKEN, true);
                again
                    && library.login(session, ck::CKU_USER, common::USER_PIN) == ck::CKR_OK
                    && library
                        .generate(session, ck::CKM_AES_KEY_GEN, &template)
                        .is_ok_and(|key| call!(library, C_DestroyObject(session, key)) == ck::CKR_OK)
            })
        });
        stop.store(true, Ordering::Relaxed);
        assert!(good);
    });
}

#[test]
fn a_process_may_exit_with_threads_inside() {
    let (library, _) = Library::with_token();
    for _ in 0..5 {
        assert!(in_child(|| {
            assert_eq!(call!(library, C_Initialize(ptr::null_mut())), ck::CKR_OK);
            let session = library.open(library.slots(true)[0]);
            let f = library.f;
            for _ in 0..4 {
                std::thread::spawn(move || {
                    let mut random = [0u8; 4096];
                    loop {
                        // SAFETY: a buffer and its length.
                        unsafe { f.C_GenerateRandom.unwrap()(session, random.as_mut_ptr(), 4096) };
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            // SAFETY: with all exit handlers, as a program that returns from main.
            unsafe { libc::exit(0) }
        }));
    }
}
