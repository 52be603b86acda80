//! Where secrets live: mappings that are locked, left out of core dumps and wiped on fork.
//!
//! Chunks are cut into pages and pages into slots of one size class; the book-keeping is outside
//! them, so a free slot is all zeros. A forked child finds zeros in its parent's chunks and may
//! find their lock held, so it never touches that arena: [`after_fork_in_child`] makes it begin
//! another, and a slot is given back only to the arena it came from.

use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{ErrorKind, Result};

const CHUNK: usize = 64 * 1024;
const PAGE: usize = 4096;
/// Slots are 2^5 to 2^12 bytes; more has a mapping of its own.
const SMALLEST: u32 = 5;
const CLASSES: usize = 8;
const LARGEST_SLOT: usize = 1 << (SMALLEST as usize + CLASSES - 1);

static CURRENT: AtomicPtr<Arena> = AtomicPtr::new(ptr::null_mut());
static WARNED: AtomicBool = AtomicBool::new(false);

/// Makes a forked child forget its parent's arena. Async-signal-safe.
pub(super) fn after_fork_in_child() {
    CURRENT.store(ptr::null_mut(), Ordering::Release);
}

/// Exclusive memory of at least the length asked for, zeroed when it is made and when it is dropped.
pub(super) struct Region {
    at: NonNull<u8>,
    capacity: usize,
    home: Home,
}

enum Home {
    /// A length of zero has no memory.
    Nowhere,
    Slot(&'static Arena),
    Mapping,
}

// SAFETY: a region is the only owner of its bytes, and they belong to no thread.
unsafe impl Send for Region {}
// SAFETY: a shared region only gives shared slices.
unsafe impl Sync for Region {}

impl Region {
    pub(super) fn new(len: usize) -> Result<Self> {
        if len == 0 {
            return Ok(Self { at: NonNull::dangling(), capacity: 0, home: Home::Nowhere });
        }
        if len > LARGEST_SLOT {
            let capacity = len.checked_next_multiple_of(PAGE).ok_or(ErrorKind::HostMemory)?;
            return Ok(Self { at: map(capacity)?, capacity, home: Home::Mapping });
        }
        let arena = Arena::current();
        let class = class_of(len);
        Ok(Self { at: arena.take(class)?, capacity: slot_size(class), home: Home::Slot(arena) })
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The first `len` bytes.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        debug_assert!(len <= self.capacity);
        // SAFETY: `at` is valid for `capacity` initialised bytes (or is dangling with a capacity
        // of 0), which only this region may reach; the length never exceeds the capacity.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), len.min(self.capacity)) }
    }

    /// The first `len` bytes.
    pub(super) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        debug_assert!(len <= self.capacity);
        // SAFETY: as in `bytes`, and `&mut self` makes the slice unique.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), len.min(self.capacity)) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match self.home {
            Home::Nowhere => {}
            Home::Slot(arena) if !ptr::eq(arena, CURRENT.load(Ordering::Acquire)) => {
                // The arena of the process this one was forked from: its pages are zeros here
                // already, and its lock may be held by a thread that does not exist here.
            }
            Home::Slot(arena) => {
                wipe(self.at, self.capacity);
                arena.give_back(class_of(self.capacity), self.at);
            }
            Home::Mapping => {
                wipe(self.at, self.capacity);
                // SAFETY: `map` made exactly this mapping, and nothing refers to it any more.
                unsafe { libc::munmap(self.at.as_ptr().cast(), self.capacity) };
            }
        }
    }
}

struct Arena(Mutex<Slots>);

struct Slots {
    /// Free slots of each class, all zeros.
    free: [Vec<NonNull<u8>>; CLASSES],
    /// The pages of the newest chunk that have no class yet.
    pages: Vec<NonNull<u8>>,
}

// SAFETY: the pointers are owned by the arena, and the memory behind them belongs to no thread.
unsafe impl Send for Slots {}

impl Arena {
    fn current() -> &'static Self {
        let current = CURRENT.load(Ordering::Acquire);
        if !current.is_null() {
            // SAFETY: only leaked boxes are ever stored, so the pointer stays valid.
            return unsafe { &*current };
        }
        let made = Box::into_raw(Box::new(Self(Mutex::new(Slots {
            free: [const { Vec::new() }; CLASSES],
            pages: Vec::new(),
        }))));
        match CURRENT.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: `made` was leaked just now.
            Ok(_) => unsafe { &*made },
            Err(other) => {
                // SAFETY: `made` was never shared, and `other` is a leaked box.
                unsafe {
                    drop(Box::from_raw(made));
                    &*other
                }
            }
        }
    }

    fn take(&self, class: usize) -> Result<NonNull<u8>> {
        let slots = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.free[class].pop() {
            return Ok(slot);
        }
        if slots.pages.is_empty() {
            let chunk = map(CHUNK)?;
            // SAFETY: the offsets stay inside the chunk.
            slots.pages.extend((0..CHUNK / PAGE).rev().map(|n| unsafe { chunk.add(n * PAGE) }));
        }
        let page = slots.pages.pop().ok_or(ErrorKind::HostMemory)?;
        let size = slot_size(class);
        // SAFETY: the offsets stay inside the page.
        slots.free[class].extend((1..PAGE / size).rev().map(|n| unsafe { page.add(n * size) }));
        Ok(page)
    }

    fn give_back(&self, class: usize, slot: NonNull<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).free[class].push(slot);
    }
}

fn class_of(len: usize) -> usize {
    (len.next_power_of_two().trailing_zeros().max(SMALLEST) - SMALLEST) as usize
}

fn slot_size(class: usize) -> usize {
    1 << (SMALLEST as usize + class)
}

fn wipe(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller owns `len` bytes there.
    unsafe { libc::explicit_bzero(at.as_ptr().cast(), len) };
}

/// Fresh zeroed pages, protected as far as the system allows; says once in the log where it does not.
fn map(len: usize) -> Result<NonNull<u8>> {
    // SAFETY: a new anonymous mapping at an address of the system's choice.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(ErrorKind::HostMemory.with("no memory for secrets"));
    }
    let done = [
        // SAFETY: (all three) they change the mapping just made, in ways its use does not notice.
        (unsafe { libc::madvise(at, len, libc::MADV_DONTDUMP) }, "kept out of core dumps"),
        // SAFETY: as above.
        (unsafe { libc::madvise(at, len, libc::MADV_WIPEONFORK) }, "wiped on fork"),
        // SAFETY: as above.
        (unsafe { libc::mlock(at, len) }, "locked into memory (see ulimit -l)"),
    ];
    for (result, what) in done {
        if result != 0 && !WARNED.swap(true, Ordering::Relaxed) {
            tracing::warn!("secret memory is not {what}: {}", std::io::Error::last_os_error());
        }
    }
    NonNull::new(at.cast()).ok_or_else(|| ErrorKind::HostMemory.into())
}

const _: () = assert!(LARGEST_SLOT == PAGE && CHUNK.is_multiple_of(PAGE) && mem::size_of::<usize>() >= 4);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The VmFlags of the mapping that holds `at`.
    fn flags(at: NonNull<u8>) -> Vec<String> {
        let address = at.as_ptr() as usize;
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let first = line.split(' ').next().unwrap();
            if let Some((from, to)) = first.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            } else if inside && first == "VmFlags:" {
                return line.split_whitespace().skip(1).map(str::to_owned).collect();
            }
        }
        panic!("the mapping is not there");
    }

    fn may_lock() -> bool {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the struct is ours to fill.
        unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
        limit.rlim_cur >= 2 * 1024 * 1024
    }

    #[test]
    fn mappings_are_protected() {
        for len in [48, LARGEST_SLOT + 1] {
            let region = Region::new(len).unwrap();
            let flags = flags(region.at);
            for flag in ["dd", "wf"] {
                assert!(flags.iter().any(|f| f == flag), "{flag} is missing for {len}: {flags:?}");
            }
            assert!(!may_lock() || flags.iter().any(|f| f == "lo"), "{len}: {flags:?}");
        }
    }

    #[test]
    fn slots_fit_and_are_wiped_when_dropped() {
        for len in [1, 31, 32, 33, 100, 1024, 4095, 4096] {
            let mut region = Region::new(len).unwrap();
            assert!(region.capacity() >= len && region.capacity() < (2 * len).max(33));
            assert!(region.bytes(len).iter().all(|b| *b == 0));
            region.bytes_mut(len).fill(0xa5);
            let (at, capacity) = (region.at, region.capacity());
            let Home::Slot(arena) = region.home else { panic!("{len} bytes have no slot") };
            mem::drop(region);
            let slots = arena.0.lock().unwrap();
            // Another test may have been given the slot in the meantime.
            if slots.free[class_of(capacity)].contains(&at) {
                // SAFETY: the slot is free and the lock is held, so nobody writes to it.
                let seen = unsafe { std::slice::from_raw_parts(at.as_ptr(), capacity) };
                assert!(seen.iter().all(|b| *b == 0), "{len}");
            }
        }
        assert_eq!(Region::new(0).unwrap().bytes(0), b"");
        assert!(Region::new(usize::MAX).is_err());
        assert!(Region::new(usize::MAX / 4).is_err());
    }

    #[test]
    fn a_forked_child_reads_zeros_and_begins_anew() {
        let mut small = Region::new(40).unwrap();
        let mut large = Region::new(10_000).unwrap();
        small.bytes_mut(40).fill(0x11);
        large.bytes_mut(10_000).fill(0x22);
        let parents = CURRENT.load(Ordering::Acquire);
        // The lock is held across the fork, as it may be by another thread.
        // SAFETY: a leaked box.
        let held = unsafe { &*parents }.0.lock().unwrap();
        // SAFETY: the child calls only what allocates, maps and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            after_fork_in_child();
            let wiped = small.bytes(40).iter().chain(large.bytes(10_000)).all(|b| *b == 0);
            mem::drop((small, large));
            let fresh = (0..100).map(|n| {
                let mut region = Region::new(40).ok()?;
                let zero = region.bytes(40).iter().all(|b| *b == 0);
                region.bytes_mut(40).fill(n);
                zero.then_some(region)
            });
            let fresh: Option<Vec<_>> = fresh.collect();
            let distinct = fresh.is_some_and(|all| all.iter().enumerate().all(|(n, r)| r.bytes(40) == [n as u8; 40]));
            let anew = !ptr::eq(CURRENT.load(Ordering::Acquire), parents);
            // SAFETY: ends the child without running the harness's exit handlers.
            unsafe { libc::_exit(i32::from(!(wiped && distinct && anew))) };
        }
        mem::drop(held);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(small.bytes(40), [0x11; 40]);
    }

    #[test]
    fn threads_share_it() {
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for n in 0..2000usize {
                        let len = 1 + (n * 37) % 600;
                        let mut region = Region::new(len).unwrap();
                        assert!(region.bytes(len).iter().all(|b| *b == 0));
                        region.bytes_mut(len).fill(thread);
                        kept.push((region, len));
                        if n % 3 == 0 {
                            kept.swap_remove(n % kept.len());
                        }
                    }
                    assert!(kept.iter().all(|(r, len)| r.bytes(*len).iter().all(|b| *b == thread)));
                });
            }
        });
    }
}
