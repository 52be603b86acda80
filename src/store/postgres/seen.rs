//! What is known of the commits of all hosts.
//!
//! A commit of any host has the next number. The highest number that is known here moves with one's own
//! commits, and when the database was looked at: because the last look is too long ago, or because
//! somebody said that there was a commit. With each look comes what was changed since the one before, so
//! that a commit elsewhere makes nobody read what it left alone.
//!
//! A number is known only after all that is known to have been changed up to it: whoever loads the
//! number first misses nothing. What is read after the number was loaded is at least as new as it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::hsm::ObjectId;

/// The counter's value while nothing is known: odd, and no other state's neighbour.
pub(super) const UNKNOWN: u64 = u64::MAX - 2;
/// How long one goes on with what is known when the database cannot be looked at.
const LAPSE: Duration = Duration::from_secs(10);
/// Objects are told apart by their ids, folded.
const BUCKETS: usize = 4096;
const NEVER: u64 = u64::MAX;

/// What a look at the database found.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// The number of the newest commit.
    pub(super) counter: u64,
    /// The newest that may have changed everything, that changed the token's own rows, and that changed
    /// what a search finds.
    pub(super) anything: u64,
    pub(super) meta: u64,
    pub(super) objects: u64,
    /// The objects that were changed since, by which commit; None if those are too many to tell.
    pub(super) changes: Option<Vec<(u64, ObjectId)>>,
}

pub(super) struct Seen {
    begin: Instant,
    recheck: Duration,
    known: AtomicU64,
    anything: AtomicU64,
    meta: AtomicU64,
    objects: AtomicU64,
    buckets: Box<[AtomicU64]>,
    /// The highest number that somebody told of.
    hinted: AtomicU64,
    /// When the last look that succeeded began; when the next is due; before when there is none. In
    /// nanoseconds after `begin`.
    looked: AtomicU64,
    next: AtomicU64,
    quiet: AtomicU64,
    looking: Mutex<()>,
    advancing: Mutex<()>,
    blind: AtomicBool,
}

impl Seen {
    pub(super) fn new(recheck: Duration) -> Self {
        Self {
            begin: Instant::now(),
            recheck,
            known: AtomicU64::new(0),
            anything: AtomicU64::new(0),
            meta: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            hinted: AtomicU64::new(0),
            looked: AtomicU64::new(NEVER),
            next: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            looking: Mutex::new(()),
            advancing: Mutex::new(()),
            blind: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }

    /// The number of the newest commit that is known.
    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// What the store's counter says.
    pub(super) fn counter(&self) -> u64 {
        let known = self.known();
        if self.has_lapsed(self.now()) { UNKNOWN } else { known * 2 }
    }

    fn has_lapsed(&self, now: u64) -> bool {
        let looked = self.looked.load(Ordering::Acquire);
        looked == NEVER || now.saturating_sub(looked) > nanoseconds(LAPSE)
    }

    /// The newest commits that changed the token's own rows and what a search finds; None while nothing
    /// is known.
    pub(super) fn meta(&self) -> Option<u64> {
        (!self.has_lapsed(self.now())).then(|| self.meta.load(Ordering::Acquire))
    }

    pub(super) fn objects(&self) -> Option<u64> {
        (!self.has_lapsed(self.now())).then(|| self.objects.load(Ordering::Acquire))
    }

    /// See `Store::is_unchanged`.
    pub(super) fn is_unchanged(&self, object: &ObjectId, since: u64) -> Option<u64> {
        let now = self.counter();
        if now % 2 == 1 || since % 2 == 1 || since > now {
            return None;
        }
        let older = |change: &AtomicU64| change.load(Ordering::Acquire) <= since / 2;
        (older(&self.anything) && self.bucket(object).is_some_and(older)).then_some(now)
    }

    fn bucket(&self, object: &ObjectId) -> Option<&AtomicU64> {
        let folded = object.as_chunks().0.iter().fold(0, |all, part| all ^ u16::from_le_bytes(*part));
        self.buckets.get(usize::from(folded) % BUCKETS)
    }

    /// Somebody tells of a commit.
    pub(super) fn hint(&self, counter: u64) {
        self.hinted.fetch_max(counter / 2, Ordering::AcqRel);
    }

    /// The right to look, if it is time to; nobody else looks meanwhile. `look` tells how it went.
    pub(super) fn is_due(&self) -> Option<MutexGuard<'_, ()>> {
        let due = || {
            let now = self.now();
            let told = self.hinted.load(Ordering::Acquire) > self.known();
            let quiet = now < self.quiet.load(Ordering::Acquire);
            let urgent = told || self.has_lapsed(now);
            (!quiet && (urgent || now >= self.next.load(Ordering::Acquire)), urgent)
        };
        let (true, urgent) = due() else { return None };
        let guard = match self.looking.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another looks, and what is known is new enough until then.
            Err(TryLockError::WouldBlock) if !urgent => return None,
            Err(TryLockError::WouldBlock) => lock(&self.looking),
        };
        due().0.then_some(guard)
    }

    /// Looks, with a function that is given the newest number known. Answers whether the database has
    /// gone back to an older state than was known.
    pub(super) fn look<E: std::fmt::Display>(
        &self,
        guard: MutexGuard<'_, ()>,
        look: impl FnOnce(u64) -> Result<Look, E>,
    ) -> bool {
        let begin = self.now();
        let hint = self.hinted.swap(0, Ordering::AcqRel);
        let from = self.known();
        self.next.store(begin.saturating_add(nanoseconds(self.recheck)), Ordering::Release);
        let found = look(from);
        drop(guard);
        match found {
            Ok(look) => {
                let back = look.counter < from;
                self.advance(begin, &look);
                back
            }
            Err(error) => {
                self.hinted.fetch_max(hint, Ordering::AcqRel);
                self.quiet.store(self.now().saturating_add(nanoseconds(self.recheck)), Ordering::Release);
                if !self.blind.swap(true, Ordering::AcqRel) {
                    let seconds = LAPSE.as_secs();
                    tracing::warn!(%error, "the database cannot be looked at; what is known is used for {seconds} s");
                }
                false
            }
        }
    }

    /// When something that ends in [`Self::advance`] begins.
    pub(super) fn begin(&self) -> u64 {
        self.now()
    }

    /// Takes in a look that began at `begin` and tells of all changes since a number that was known then.
    pub(super) fn advance(&self, begin: u64, look: &Look) {
        {
            let _in_turn = lock(&self.advancing);
            if look.counter > self.known() {
                match &look.changes {
                    Some(changes) => changes.iter().for_each(|(counter, object)| {
                        if let Some(bucket) = self.bucket(object) {
                            bucket.fetch_max(*counter, Ordering::AcqRel);
                        }
                    }),
                    None => drop(self.anything.fetch_max(look.counter, Ordering::AcqRel)),
                }
                self.anything.fetch_max(look.anything, Ordering::AcqRel);
                self.meta.fetch_max(look.meta, Ordering::AcqRel);
                self.objects.fetch_max(look.objects, Ordering::AcqRel);
                self.known.store(look.counter, Ordering::Release);
            }
            let looked = self.looked.load(Ordering::Acquire);
            if looked == NEVER || looked < begin {
                self.looked.store(begin, Ordering::Release);
                self.next.fetch_max(begin.saturating_add(nanoseconds(self.recheck)), Ordering::AcqRel);
            }
        }
        if self.blind.swap(false, Ordering::AcqRel) {
            tracing::info!("the database can be looked at again");
        }
    }

    /// Nothing is known until the next look: a commit may have been made of which the outcome is not known.
    pub(super) fn doubt(&self) {
        self.next.store(0, Ordering::Release);
        self.looked.store(NEVER, Ordering::Release);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(number: u8) -> ObjectId {
        let mut id = [7; 16];
        id[3] = number;
        id
    }

    fn look(counter: u64, anything: u64, changes: &[(u64, u8)]) -> Look {
        let changes = changes.iter().map(|(counter, number)| (*counter, object(*number))).collect();
        Look { counter, anything, meta: 0, objects: 0, changes: Some(changes) }
    }

    #[test]
    fn what_others_left_alone_is_unchanged() {
        let seen = Seen::new(Duration::from_secs(100));
        assert_eq!((seen.counter(), seen.is_unchanged(&object(1), 0)), (UNKNOWN, None));
        seen.advance(seen.begin(), &Look { counter: 5, anything: 5, ..Look::default() });
        assert_eq!((seen.counter(), seen.is_unchanged(&object(1), 10)), (10, Some(10)));
        seen.advance(seen.begin(), &look(7, 5, &[(6, 1), (7, 2)]));
        assert_eq!(seen.is_unchanged(&object(1), 10), None);
        assert_eq!((seen.is_unchanged(&object(1), 12), seen.is_unchanged(&object(2), 12)), (Some(14), None));
        assert_eq!((seen.is_unchanged(&object(3), 10), seen.is_unchanged(&object(3), 8)), (Some(14), None));
        assert_eq!((seen.is_unchanged(&object(3), 16), seen.is_unchanged(&object(3), UNKNOWN & !1)), (None, None));
        // A look that took long tells nothing new; too many changes are all.
        seen.advance(seen.begin(), &look(6, 5, &[(6, 1)]));
        assert_eq!(seen.counter(), 14);
        seen.advance(seen.begin(), &Look { changes: None, ..look(9, 5, &[]) });
        assert_eq!((seen.is_unchanged(&object(3), 14), seen.is_unchanged(&object(3), 18)), (None, Some(18)));
    }

    #[test]
    fn a_hint_makes_one_look_and_is_not_believed() {
        let seen = Seen::new(Duration::from_secs(100));
        let to = |counter| move |_| Ok::<_, String>(look(counter, 0, &[]));
        seen.look(seen.is_due().unwrap(), to(5));
        assert!(seen.is_due().is_none());
        seen.hint(10);
        assert!(seen.is_due().is_none(), "no news");
        seen.hint(1_000_000);
        assert_eq!(seen.counter(), 10);
        assert!(!seen.look(seen.is_due().unwrap(), to(5)));
        assert!(seen.is_due().is_none());
        assert_eq!(seen.counter(), 10);
        seen.hint(12);
        assert!(seen.look(seen.is_due().unwrap(), to(4)), "the database went back");
        seen.doubt();
        assert_eq!(seen.counter(), UNKNOWN);
        assert!(seen.is_due().is_some());
    }
}
