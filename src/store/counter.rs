//! The sidecar of a token: a few pages of memory that all its processes share.
//!
//! It holds the commit counter, which objects the commits changed, and the queue of those who wait
//! to write. Nothing in it is trusted with the integrity of the data: the `flock` and SQLite decide
//! who writes. A wrong queue costs fairness; the counter only ever says "read anew".
//!
//! It is a mapped file, so a process of the same user that truncates it gets the others a
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
use super::write::Changed;
use crate::error::{ErrorKind, Result};
use crate::hsm::ObjectId;

const PAGE: usize = 4096;
/// Objects are told apart by a part of their id. As many as make this a multiple of a page.
const BUCKETS: usize = 8 * PAGE / 8 - 2;
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

/// What the commits changed, by the odd values that the counter had meanwhile. Releases without this
/// have the first page only; their commits are noticed by `accounted`.
#[repr(C, align(64))]
struct Changes {
    /// The even value after the last commit that said here what it changed.
    accounted: AtomicU64,
    /// The last commit that may have changed anything.
    anything: AtomicU64,
    /// The last commit that changed an object of each bucket.
    buckets: [AtomicU64; BUCKETS],
}

#[repr(C)]
struct Shared {
    page: Page,
    changes: Changes,
}

const LENGTH: usize = 9 * PAGE;
const _: () = assert!(size_of::<Shared>() == LENGTH);

/// The mapped memory of one token.
pub(super) struct Sidecar {
    shared: NonNull<Shared>,
}

// SAFETY: the memory is made of atomics only, and stays mapped until the one owner is dropped.
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
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new shared mapping of a file that is at least this long; no address is given.
        let address = unsafe { libc::mmap(ptr::null_mut(), LENGTH, protection, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(address.cast::<Shared>()) {
            Some(shared) if address != libc::MAP_FAILED => Ok(Self { shared }),
            _ => Err(io_error(path, &std::io::Error::last_os_error())),
        }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped, page-aligned and this long while `self` lives; every bit pattern is a
        // valid atomic, and all access by all processes is atomic.
        unsafe { self.shared.as_ref() }
    }

    fn page(&self) -> &Page {
        &self.shared().page
    }

    pub(super) fn counter(&self) -> u64 {
        self.page().counter.load(Ordering::Acquire)
    }

    /// Whether no commit changed the object since the counter had the even value `since`; then the
    /// answer is a newer such value. An object of the same bucket may make it None for nothing.
    ///
    /// A commit under way that changes it is seen no later than its effect on the data.
    pub(super) fn is_unchanged(&self, object: &ObjectId, since: u64) -> Option<u64> {
        let Shared { page, changes } = self.shared();
        let now = page.counter.load(Ordering::Acquire) & !1;
        let accounted = changes.accounted.load(Ordering::Acquire) >= now;
        let older = |change: &AtomicU64| change.load(Ordering::Acquire) <= since;
        (since & 1 == 0 && accounted && older(&changes.anything) && older(changes.bucket(object))).then_some(now)
    }

    /// Makes the counter odd until the mark is dropped. The caller holds the write lock. A counter
    /// that a dead process left odd is put right on the way.
    pub(super) fn begin_commit(&self, changed: &Changed) -> CommitMark<'_> {
        let Shared { page, changes } = self.shared();
        let before = page.counter.load(Ordering::Relaxed);
        let odd = before.wrapping_add(1) | 1;
        page.counter.store(odd, Ordering::Relaxed);
        let accounted = changes.accounted.load(Ordering::Relaxed) == before;
        match changed {
            Changed::Objects(objects) if accounted => {
                objects.iter().for_each(|object| changes.bucket(object).store(odd, Ordering::Relaxed));
            }
            _ => changes.anything.store(odd, Ordering::Relaxed),
        }
        // Nobody may see the commit before these values.
        fence(Ordering::SeqCst);
        CommitMark { shared: self.shared(), even: odd.wrapping_add(1) }
    }

    /// Lets the counter of a token in the making start above another's.
    #[cfg(feature = "fleet")]
    pub(super) fn start_above(&self, counter: u64) {
        let Shared { page, changes } = self.shared();
        let even = (counter | 1).wrapping_add(1);
        changes.anything.store(even, Ordering::Relaxed);
        changes.accounted.store(even, Ordering::Relaxed);
        page.counter.store(even, Ordering::Release);
    }

    /// Ends what a dead process began. The caller holds the write lock.
    pub(super) fn repair(&self) {
        if !self.counter().is_multiple_of(2) {
            drop(self.begin_commit(&Changed::Anything));
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
        unsafe { libc::munmap(self.shared.as_ptr().cast(), LENGTH) };
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
    shared: &'a Shared,
    even: u64,
}

impl Drop for CommitMark<'_> {
    fn drop(&mut self) {
        self.shared.changes.accounted.store(self.even, Ordering::Release);
        self.shared.page.counter.store(self.even, Ordering::Release);
    }
}

impl Changes {
    /// Ids are random.
    fn bucket(&self, object: &ObjectId) -> &AtomicU64 {
        &self.buckets[usize::from(u16::from_le_bytes([object[0], object[1]])) % BUCKETS]
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
    let rc = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, LENGTH as libc::off_t) };
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

    const NOTHING: Changed = Changed::Objects(Vec::new());

    #[test]
    fn what_a_commit_did_not_change_stays_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counter");
        let (one, two) = (Sidecar::open(&path).unwrap(), Sidecar::open(&path).unwrap());
        let [this, other] = [[1; 16], [2; 16]];
        let change = |objects: &[ObjectId]| drop(one.begin_commit(&Changed::Objects(objects.to_vec())));
        assert_eq!(two.is_unchanged(&this, 0), Some(0));
        change(&[other]);
        assert_eq!((two.is_unchanged(&this, 0), two.is_unchanged(&other, 0)), (Some(2), None));
        assert_eq!(two.is_unchanged(&other, 2), Some(2));
        change(&[other, this]);
        assert_eq!((two.is_unchanged(&this, 2), two.is_unchanged(&this, 4)), (None, Some(4)));
        // During a commit: what it leaves alone is known up to the one before.
        let mark = one.begin_commit(&Changed::Objects(vec![other]));
        assert_eq!((two.is_unchanged(&this, 4), two.is_unchanged(&other, 4)), (Some(4), None));
        drop(mark);
        drop(one.begin_commit(&Changed::Anything));
        assert_eq!((two.is_unchanged(&this, 6), two.is_unchanged(&this, 8)), (None, Some(8)));
        assert_eq!(two.is_unchanged(&this, u64::MAX), None);
        // A release that knows the counter only; its commit may have changed anything, for good.
        one.page().counter.store(10, Ordering::Relaxed);
        assert_eq!(two.is_unchanged(&this, 8), None);
        change(&[other]);
        assert_eq!((two.is_unchanged(&this, 8), two.is_unchanged(&this, 10)), (None, None));
        change(&[other]);
        assert_eq!((two.is_unchanged(&this, 10), two.is_unchanged(&this, 12)), (None, Some(14)));
        // One that died in its commit.
        one.page().counter.store(15, Ordering::Relaxed);
        two.repair();
        assert_eq!((two.is_unchanged(&this, 14), two.is_unchanged(&this, 18)), (None, Some(18)));
    }

    #[test]
    fn counter_is_odd_during_a_commit_and_repaired_after_a_death() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counter");
        let one = Sidecar::open(&path).unwrap();
        let two = Sidecar::open(&path).unwrap();
        assert_eq!(two.counter(), 0);
        let mark = one.begin_commit(&NOTHING);
        assert_eq!(two.counter(), 1);
        drop(mark);
        assert_eq!(two.counter(), 2);
        std::mem::forget(one.begin_commit(&NOTHING));
        assert_eq!(two.counter(), 3);
        let mark = two.begin_commit(&NOTHING);
        assert_eq!(one.counter(), 5);
        drop(mark);
        assert_eq!(one.counter(), 6);
        std::mem::forget(one.begin_commit(&NOTHING));
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
