//! A process that forks while its threads use the store.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conclave::error::ErrorKind;
use conclave::hsm::ObjectId;
use conclave::store::{Directory, Store};

use super::{by_label, new_token, object, record};

/// Runs `run` in a forked child, whose exit status tells how it went.
fn in_child(run: impl FnOnce() -> Result<(), String>) -> libc::pid_t {
    // SAFETY: the child uses the allocator and the store only, which are both ready for a fork
    // with other threads running, and ends without returning into the test harness.
    match unsafe { libc::fork() } {
        0 => {
            let status = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(Ok(())) => 0,
                Ok(Err(reason)) => {
                    // SAFETY: a valid buffer.
                    unsafe { libc::write(2, reason.as_ptr().cast(), reason.len()) };
                    1
                }
                Err(_) => 2,
            };
            // SAFETY: ends the process.
            unsafe { libc::_exit(status) }
        }
        pid => pid,
    }
}

fn status(pid: libc::pid_t) -> i32 {
    let mut status = -1;
    // SAFETY: the status is valid for writes.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status
}

fn number(parent: u64, thread: u64, count: u64) -> ObjectId {
    object(parent << 48 | thread << 32 | count)
}

#[test]
fn a_busy_parent_forks_and_finalizes_while_the_child_writes() {
    const THREADS: u64 = 3;
    const CHILD_WRITES: u64 = 60;
    let data = tempfile::tempdir().unwrap();
    let (directory, first) = new_token(data.path());
    drop(first);
    for round in 1..=6_u64 {
        let store = directory.store(0).unwrap();
        let stop = AtomicBool::new(false);
        let written: Vec<_> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        let pid = thread::scope(|scope| {
            for (thread, written) in (0_u64..).zip(&written) {
                let (store, stop) = (&store, &stop);
                scope.spawn(move || {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let mut one = record(0, "parent");
                        one.object = number(round, thread, count);
                        store.insert(&[one]).unwrap();
                        store.find(&by_label("none"), 0, 1).unwrap();
                        store.count().unwrap();
                        count += 1;
                    }
                    written.store(count, Ordering::Relaxed);
                });
            }
            thread::sleep(Duration::from_millis(30));
            let begin = Instant::now();
            let pid = in_child(|| {
                let abandoned = store.insert(&[record(1, "x")]).unwrap_err().kind();
                if abandoned != ErrorKind::CryptokiNotInitialized {
                    return Err(format!("the parent's store answers {abandoned:?}\n"));
                }
                let own = Directory::open(data.path()).and_then(|directory| directory.store(0));
                let own = own.map_err(|error| format!("{error}\n"))?;
                for count in 0..CHILD_WRITES {
                    let mut one = record(0, "child");
                    one.object = number(round, 1000, count);
                    own.insert(&[one]).map_err(|error| format!("{error}\n"))?;
                }
                // A child forks as well.
                let grandchild = in_child(|| match own.meta() {
                    Err(error) if error.kind() == ErrorKind::CryptokiNotInitialized => {
                        let directory = Directory::open(data.path()).map_err(|error| format!("{error}\n"))?;
                        directory
                            .store(0)
                            .and_then(|store| store.meta())
                            .map_err(|error| format!("{error}\n"))
                            .map(drop)
                    }
                    _ => Err("the grandchild may use the child's store\n".to_owned()),
                });
                if status(grandchild) != 0 {
                    return Err("the grandchild failed\n".to_owned());
                }
                own.meta().map_err(|error| format!("{error}\n"))?;
                Ok(())
            });
            println!("fork took {:?}", begin.elapsed());
            thread::sleep(Duration::from_millis(10));
            stop.store(true, Ordering::Relaxed);
            pid
        });
        drop(store);
        assert_eq!(status(pid), 0);
        let store = directory.store(0).unwrap();
        for (thread, written) in (0..).zip(&written) {
            for count in 0..written.load(Ordering::Relaxed) {
                assert!(store.get(&number(round, thread, count)).unwrap().is_some(), "{round} {thread} {count}");
            }
        }
        for count in 0..CHILD_WRITES {
            assert!(store.get(&number(round, 1000, count)).unwrap().is_some(), "{round} child {count}");
        }
    }
}

#[test]
fn the_child_of_a_writer_does_not_keep_its_lock() {
    let data = tempfile::tempdir().unwrap();
    let (_, store) = new_token(data.path());
    let stop = AtomicBool::new(false);
    let children: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            for count in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                store.insert(&[record(count, "a")]).unwrap();
            }
        });
        let children = (0..20)
            .map(|_| {
                in_child(|| {
                    let held: Vec<_> = std::fs::read_dir("/proc/self/fd")
                        .map_err(|error| error.to_string())?
                        .flatten()
                        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                        .filter(|path| path.starts_with(data.path()))
                        .collect();
                    if held.is_empty() { Ok(()) } else { Err(format!("the child has {held:?} open\n")) }
                })
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        children
    });
    assert!(children.into_iter().all(|pid| status(pid) == 0));
}

#[test]
fn waiting_to_write_is_bounded_and_does_not_hold_up_a_fork() {
    let data = tempfile::tempdir().unwrap();
    let (_, store) = new_token(data.path());
    let lock =
        std::fs::File::options().write(true).create(true).truncate(false).open(data.path().join("tokens/0/lock"));
    let lock = lock.unwrap();
    // SAFETY: an open descriptor.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    let begin = Instant::now();
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn({
                    let store = &store;
                    move || store.insert(&[record(number, "a")])
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        let fork = Instant::now();
        let pid = in_child(|| Ok(()));
        assert!(fork.elapsed() < Duration::from_secs(3), "{:?}", fork.elapsed());
        assert_eq!(status(pid), 0);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::FunctionFailed);
        }
    });
    assert!(begin.elapsed() > Duration::from_secs(8) && begin.elapsed() < Duration::from_secs(20));
    assert_eq!(store.count().unwrap(), 0);
    drop(lock);
    store.insert(&[record(1, "a")]).unwrap();
}
