//! The sidecar of a token: one page of memory that all its processes share.
//!
//! It holds the commit counter, and the queue of those who wait to write. Nothing in it is trusted
//! with the integrity of the data: the `flock` and SQLite decide who writes. A wrong queue costs
//! fairness; the counter only ever says "read anew".
//!
//! The page is a mapped file, so a process of the same user that truncates it gets the others a
//! SIGBUS, as is true of the `-shm` file which SQLite maps beside it. The file is allocated in full
//! at open (a full disk cannot fault later), never shrunk, and lies in a directory of mode 0700.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use super::io_error;
use crate::error::{ErrorKind, Result};

const PAGE: usize = 4096;
const WAITERS: usize = PAGE / 64 - 1;
/// Who has shown no sign of life for this long has lost its place.
const STALE: u64 = 20_000_000;

#[repr(C, align(64))]
struct Waiter {
    /// When it came, in nanoseconds of the monotonic clock; 0 in a free place.
    since: AtomicU64,
    /// When it last showed that it is alive.
    beat: AtomicU64,
    /// A futex word that changes when the lock was released.
    wake: AtomicU32,
}

#[repr(C, align(64))]
struct Page {
    counter: AtomicU64,
    waiters: [Waiter; WAITERS],
}

const _: () = assert!(size_of::<Page>() == PAGE);

/// The mapped page of one token.
pub(super) struct Sidecar {
    page: NonNull<Page>,
}

// SAFETY: the page is made of atomics only, and stays mapped until the one owner is dropped.
unsafe impl Send for Sidecar {}
// SAFETY: as above.
unsafe impl Sync for Sidecar {}

impl Sidecar {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| io_error(path, &error))?;
        allocate(&file, path)?;
        // SAFETY: a new shared mapping of a file that is at least a page long; no address is given.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        match NonNull::new(address.cast::<Page>()) {
            Some(page) if address != libc::MAP_FAILED => Ok(Self { page }),
            _ => Err(io_error(path, &std::io::Error::last_os_error())),
        }
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped, page-aligned and a page long while `self` lives; every bit pattern is a
        // valid atomic, and all access by all processes is atomic.
        unsafe { self.page.as_ref() }
    }

    pub(super) fn counter(&self) -> u64 {
        self.page().counter.load(Ordering::Acquire)
    }

    /// Makes the counter odd until the mark is dropped. The caller holds the write lock. A counter
    /// that a dead process left odd is put right on the way.
    pub(super) fn begin_commit(&self) -> CommitMark<'_> {
        let counter = &self.page().counter;
        let odd = counter.load(Ordering::Relaxed).wrapping_add(1) | 1;
        counter.store(odd, Ordering::Relaxed);
        // Nobody may see the commit before the odd value.
        fence(Ordering::SeqCst);
        CommitMark { counter, even: odd.wrapping_add(1) }
    }

    /// Ends what a dead process began. The caller holds the write lock.
    pub(super) fn repair(&self) {
        if !self.counter().is_multiple_of(2) {
            drop(self.begin_commit());
        }
    }

    /// Whether someone waits to write.
    pub(super) fn is_awaited(&self) -> bool {
        self.first(now()).is_some()
    }

    /// Joins the queue of writers; None if it is full.
    pub(super) fn join(&self) -> Option<Place<'_>> {
        let now = now();
        self.page().waiters.iter().find_map(|waiter| {
            let since = waiter.since.load(Ordering::Relaxed);
            if since != 0 && waiter.is_alive(now) {
                return None;
            }
            waiter.since.compare_exchange(since, now, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            waiter.beat.store(now, Ordering::Release);
            Some(Place { sidecar: self, waiter, since: now })
        })
    }

    /// Tells the first in the queue that the lock is free.
    pub(super) fn wake_first(&self) {
        if let Some(waiter) = self.first(now()) {
            waiter.wake.fetch_add(1, Ordering::Release);
            futex(&waiter.wake, libc::FUTEX_WAKE, 1, None);
        }
    }

    /// Who came first of those alive.
    fn first(&self, now: u64) -> Option<&Waiter> {
        let waiting = |waiter: &&Waiter| waiter.since.load(Ordering::Relaxed) != 0 && waiter.is_alive(now);
        self.page().waiters.iter().filter(waiting).min_by_key(|waiter| waiter.since.load(Ordering::Relaxed))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, of this length; nothing borrowed from it outlives `self`.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}

impl Waiter {
    fn is_alive(&self, now: u64) -> bool {
        let beat = self.beat.load(Ordering::Acquire);
        // A beat from the future is left over from before a restart of the machine.
        beat <= now.saturating_add(STALE) && now.saturating_sub(beat) < STALE
    }
}

/// A commit under way: the counter is odd.
pub(super) struct CommitMark<'a> {
    counter: &'a AtomicU64,
    even: u64,
}

impl Drop for CommitMark<'_> {
    fn drop(&mut self) {
        self.counter.store(self.even, Ordering::Release);
    }
}

/// A place in the queue of writers.
pub(super) struct Place<'a> {
    sidecar: &'a Sidecar,
    waiter: &'a Waiter,
    since: u64,
}

impl Place<'_> {
    /// Shows that this waiter is alive. False if another took the place because it seemed dead.
    pub(super) fn beat(&self) -> bool {
        self.waiter.beat.store(now(), Ordering::Release);
        self.waiter.since.load(Ordering::Acquire) == self.since
    }

    /// Whether nobody alive came earlier.
    pub(super) fn is_first(&self) -> bool {
        self.sidecar.first(now()).is_none_or(|first| ptr::eq(first, self.waiter))
    }

    /// The value to hand to [`Self::sleep`], taken before the lock is tried.
    pub(super) fn signal(&self) -> u32 {
        self.waiter.wake.load(Ordering::Acquire)
    }

    /// Sleeps until woken, or at most so long.
    pub(super) fn sleep(&self, signal: u32, at_most: Duration) {
        futex(&self.waiter.wake, libc::FUTEX_WAIT, signal, Some(at_most));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _ = self.waiter.since.compare_exchange(self.since, 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// Gives the file all its blocks, so that writing to the mapping cannot run out of disk.
fn allocate(file: &File, path: &Path) -> Result<()> {
    // SAFETY: an open descriptor and plain integers.
    let rc = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, PAGE as libc::off_t) };
    match rc {
        0 => Ok(()),
        libc::ENOSPC | libc::EDQUOT => {
            Err(ErrorKind::DeviceMemory.with(format!("{}: no space left on the device", path.display())))
        }
        rc => Err(io_error(path, &std::io::Error::from_raw_os_error(rc))),
    }
}

/// The monotonic clock that the processes of a machine share, in nanoseconds.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// A futex call across processes; how it ends does not matter, as everyone looks again.
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the word and the timeout are valid for the call; the kernel writes to neither.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, timeout) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_is_odd_during_a_commit_and_repaired_after_a_death() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counter");
        let one = Sidecar::open(&path).unwrap();
        let two = Sidecar::open(&path).unwrap();
        assert_eq!(two.counter(), 0);
        let mark = one.begin_commit();
        assert_eq!(two.counter(), 1);
        drop(mark);
        assert_eq!(two.counter(), 2);
        std::mem::forget(one.begin_commit());
        assert_eq!(two.counter(), 3);
        let mark = two.begin_commit();
        assert_eq!(one.counter(), 5);
        drop(mark);
        assert_eq!(one.counter(), 6);
        std::mem::forget(one.begin_commit());
        two.repair();
        assert_eq!(one.counter() % 2, 0);
    }

    #[test]
    fn the_queue_is_first_come_first_served_and_skips_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let sidecar = Sidecar::open(&dir.path().join("counter")).unwrap();
        assert!(!sidecar.is_awaited());
        let first = sidecar.join().unwrap();
        let second = sidecar.join().unwrap();
        assert!(first.is_first() && !second.is_first());
        drop(first);
        assert!(second.is_first());
        std::mem::forget(second);
        std::thread::sleep(Duration::from_nanos(2 * STALE));
        assert!(!sidecar.is_awaited(), "a waiter that died no longer holds up the others");
        let places: Vec<_> = (0..WAITERS).map(|_| sidecar.join()).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(sidecar.join().is_none());
    }
}
