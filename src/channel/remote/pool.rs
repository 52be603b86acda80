//! Which HSM gets the next request: the connections that are there, which HSMs are left alone for a
//! while, and a bound for each.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::hsm::session::HsmId;

/// How long an HSM that failed is left alone: doubling from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An HSM's number in the configuration.
pub(super) type Place = usize;

/// HSMs that a request has been to, by their places: there are at most 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, place: Place) {
        self.0 |= 1 << place;
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.0 &= !(1 << place);
    }

    pub(super) fn has(self, place: Place) -> bool {
        self.0 & (1 << place) != 0
    }
}

/// Connections of type `C`, which the pool knows nothing of.
pub(super) struct Pool<C> {
    state: Mutex<State<C>>,
    freed: Condvar,
    /// Per HSM.
    bound: usize,
}

struct State<C> {
    hsms: Vec<Hsm<C>>,
    /// Where the next look begins, so that equals take turns.
    turn: usize,
    /// Connections of an older one are closed when they come back.
    generation: u64,
    /// Who waits for a place.
    waiting: usize,
}

/// An HSM as the pool sees it.
struct Hsm<C> {
    idle: Vec<C>,
    busy: usize,
    /// Since it failed, and how long it is left alone for that.
    failed: Option<(Instant, Duration)>,
    /// Why it failed.
    trouble: Option<String>,
    /// Who answered there last.
    id: Option<HsmId>,
}

/// A place at an HSM, with a connection that is idle or the right to make one.
pub(super) struct Lease<'p, C> {
    pool: &'p Pool<C>,
    pub(super) place: Place,
    pub(super) idle: Option<C>,
    pub(super) generation: u64,
}

/// How things are with an HSM.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) id: Option<HsmId>,
    pub(super) connections: usize,
    /// Why it is left alone; None if it is not.
    pub(super) trouble: Option<String>,
}

impl<C> Pool<C> {
    pub(super) fn new(hsms: usize, bound: usize) -> Self {
        let hsms = (0..hsms).map(|_| Hsm { idle: Vec::new(), busy: 0, failed: None, trouble: None, id: None });
        Self {
            state: Mutex::new(State { hsms: hsms.collect(), turn: 0, generation: 0, waiting: 0 }),
            freed: Condvar::new(),
            bound,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place at the HSM with the least to do that was not tried yet; `at` asks for one HSM. Waits
    /// while all are at their bound. None if there is nobody left to try, or after `patience`.
    ///
    /// HSMs that failed lately come last, the one that has been left alone longest first: a request
    /// fails only after everybody was asked.
    pub(super) fn lease(&self, at: Option<Place>, tried: Tried, patience: Duration) -> Option<Lease<'_, C>> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let count = state.hsms.len();
            let (turn, bound) = (state.turn, self.bound);
            let wanted = |place: &Place| !tried.has(*place) && at.is_none_or(|at| at == *place);
            let mut any = false;
            let best = (0..count)
                .map(|step| (turn + step) % count)
                .filter(wanted)
                .inspect(|_| any = true)
                .filter_map(|place| {
                    let hsm = state.hsms.get(place)?;
                    let left_alone = hsm.failed.and_then(|(since, pause)| (since + pause).checked_duration_since(now));
                    (hsm.busy < bound).then_some((left_alone.unwrap_or_default(), hsm.busy, place))
                })
                // The first of equals.
                .min_by_key(|(left_alone, busy, _)| (*left_alone, *busy));
            if let Some((_, _, place)) = best {
                state.turn = (place + 1) % count;
                let generation = state.generation;
                let hsm = state.hsms.get_mut(place)?;
                hsm.busy += 1;
                let idle = hsm.idle.pop();
                return Some(Lease { pool: self, place, idle, generation });
            }
            let left = deadline.saturating_duration_since(now);
            if !any || left.is_zero() {
                return None;
            }
            state.waiting += 1;
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// The HSM failed and is left alone for a while, and what is idle there is closed.
    pub(super) fn failed(&self, place: Place, why: String) {
        let mut state = self.lock();
        let Some(hsm) = state.hsms.get_mut(place) else { return };
        let now = Instant::now();
        let pause = match hsm.failed {
            // Others failed with it.
            Some((since, pause)) if now < since + pause => pause,
            Some((_, pause)) => (pause * 2).min(BACKOFF.1),
            None => BACKOFF.0,
        };
        hsm.failed = Some((now, pause));
        hsm.trouble = Some(why);
        let closed = std::mem::take(&mut hsm.idle);
        drop(state);
        drop(closed);
    }

    /// The HSM is there and answers. Whether it had failed before.
    pub(super) fn answered(&self, place: Place, id: HsmId) -> bool {
        let mut state = self.lock();
        let Some(hsm) = state.hsms.get_mut(place) else { return false };
        (hsm.trouble, hsm.id) = (None, Some(id));
        hsm.failed.take().is_some()
    }

    /// The HSM has closed what was idle, it seems.
    pub(super) fn forget_idle(&self, place: Place) {
        let closed = self.lock().hsms.get_mut(place).map(|hsm| std::mem::take(&mut hsm.idle));
        drop(closed);
    }

    /// No connection that is there now is used for another request.
    pub(super) fn renew(&self) {
        let mut state = self.lock();
        state.generation += 1;
        let closed: Vec<C> = state.hsms.iter_mut().flat_map(|hsm| std::mem::take(&mut hsm.idle)).collect();
        drop(state);
        drop(closed);
    }

    /// Whether the HSM has not failed lately.
    pub(super) fn is_well(&self, place: Place) -> bool {
        self.lock().hsms.get(place).is_some_and(|hsm| hsm.failed.is_none())
    }

    /// The HSMs that answered, and have not failed since.
    pub(super) fn reachable(&self) -> Vec<Place> {
        self.which(|hsm| hsm.failed.is_none() && hsm.id.is_some())
    }

    /// The HSMs that have not failed since they answered, or were not asked yet.
    pub(super) fn unfailing(&self) -> Vec<Place> {
        self.which(|hsm| hsm.failed.is_none())
    }

    fn which(&self, wanted: impl Fn(&Hsm<C>) -> bool) -> Vec<Place> {
        let state = self.lock();
        state.hsms.iter().enumerate().filter(|(_, hsm)| wanted(hsm)).map(|(place, _)| place).collect()
    }

    pub(super) fn standings(&self) -> Vec<Standing> {
        let standing = |hsm: &Hsm<C>| Standing {
            id: hsm.id,
            connections: hsm.idle.len() + hsm.busy,
            trouble: hsm.trouble.clone(),
        };
        self.lock().hsms.iter().map(standing).collect()
    }
}

impl<C> Lease<'_, C> {
    /// Another idle connection of the HSM, in the place of one that is good no more.
    pub(super) fn next_idle(&mut self) {
        let next = self.pool.lock().hsms.get_mut(self.place).and_then(|hsm| hsm.idle.pop());
        self.idle = next;
    }

    /// Puts a connection back that is good for another request.
    pub(super) fn keep(mut self, connection: C) {
        self.idle = Some(connection);
    }
}

impl<C> Drop for Lease<'_, C> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let current = state.generation == self.generation;
        let mut closed = None;
        if let Some(hsm) = state.hsms.get_mut(self.place) {
            hsm.busy -= 1;
            match self.idle.take() {
                Some(connection) if current => hsm.idle.push(connection),
                idle => closed = idle,
            }
        }
        let waiting = state.waiting > 0;
        drop(state);
        drop(closed);
        if waiting {
            // For another HSM than this, perhaps.
            self.pool.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn place(pool: &Pool<u32>) -> Place {
        pool.lease(None, Tried::default(), SHORT).unwrap().place
    }

    #[test]
    fn the_least_busy_is_asked_and_equals_take_turns() {
        let pool: Pool<u32> = Pool::new(3, 2);
        assert_eq!([place(&pool), place(&pool), place(&pool), place(&pool)], [0, 1, 2, 0]);
        let held: Vec<_> = (0..6).map(|_| pool.lease(None, Tried::default(), SHORT).unwrap()).collect();
        let mut places: Vec<_> = held.iter().map(|lease| lease.place).collect();
        places.sort_unstable();
        assert_eq!(places, [0, 0, 1, 1, 2, 2]);
        assert!(pool.lease(None, Tried::default(), SHORT).is_none(), "all are at their bound");
        let waits = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.lease(None, Tried::default(), Duration::from_secs(10)).is_some());
            drop(held);
            waiting.join().unwrap()
        });
        assert!(waits);
        let mut tried = Tried::default();
        (0..3).for_each(|place| tried.add(place));
        assert!(pool.lease(None, tried, Duration::from_secs(10)).is_none(), "nobody is left to try");
    }

    #[test]
    fn one_that_failed_comes_last_until_it_answers() {
        let pool: Pool<u32> = Pool::new(2, 4);
        pool.lease(Some(0), Tried::default(), SHORT).unwrap().keep(7);
        pool.failed(0, "it is gone".to_owned());
        assert_eq!(pool.standings()[0].connections, 0, "what was idle is closed");
        assert_eq!([place(&pool), place(&pool)], [1, 1]);
        let mut tried = Tried::default();
        tried.add(1);
        assert_eq!(pool.lease(None, tried, SHORT).unwrap().place, 0, "but it is tried before a request fails");
        assert_eq!(pool.standings()[0].trouble.as_deref(), Some("it is gone"));
        std::thread::sleep(BACKOFF.0);
        pool.answered(1, [1; 16]);
        assert!((0..2).any(|_| place(&pool) == 0), "after the pause it is one of all");
        pool.failed(0, String::new());
        std::thread::sleep(BACKOFF.0);
        assert_eq!([place(&pool), place(&pool)], [1, 1], "the pause is twice as long now");
        pool.answered(0, [0; 16]);
        assert_eq!(pool.reachable(), [0, 1]);

        let pool: Pool<u32> = Pool::new(3, 4);
        pool.answered(1, [1; 16]);
        pool.failed(2, String::new());
        assert_eq!((pool.reachable(), pool.unfailing()), (vec![1], vec![0, 1]), "nobody has asked the first");
    }

    #[test]
    fn connections_of_an_older_generation_are_closed() {
        let pool: Pool<u32> = Pool::new(1, 2);
        let lease = pool.lease(None, Tried::default(), SHORT).unwrap();
        pool.lease(None, Tried::default(), SHORT).unwrap().keep(1);
        pool.renew();
        lease.keep(2);
        assert!(pool.lease(None, Tried::default(), SHORT).unwrap().idle.is_none());
    }
}
