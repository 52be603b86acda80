//! The threads: workers that wait on the epoll set, and one keeper of deadlines that adds workers
//! when all of them are held up.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::poller::Woken;
use super::server::{LISTENERS, Shared};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often there is time to tidy up.
const TIDY: Duration = Duration::from_secs(10);
/// How often, while no worker waits, it is seen whether any of them gets on.
const WATCH: Duration = Duration::from_millis(1);
/// For how long after that.
const CALM: Duration = Duration::from_millis(50);
/// A worker more than there have to be ends after so long without work.
const SPARE: Duration = Duration::from_secs(10);
const STACK: usize = 2 << 20;

#[derive(Default)]
pub(super) struct Pool {
    total: AtomicUsize,
    idle: AtomicUsize,
    /// Events that workers took up.
    taken: AtomicU64,
    /// The keeper watches the workers closely.
    watching: AtomicBool,
    bell: (Mutex<bool>, Condvar),
}

impl Pool {
    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// Wakes the keeper.
    pub(super) fn ring(&self) {
        *self.bell.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.1.notify_one();
    }

    fn await_bell(&self, timeout: Duration) {
        let rung = self.bell.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.1.wait_timeout_while(rung, timeout, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// Fails if the system has no more threads.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
    for _ in 0..shared.limits.min_workers {
        add_worker(shared)?;
    }
    let keeping = Arc::clone(shared);
    thread::Builder::new().name("keeper".to_owned()).spawn(move || keep(&keeping))?;
    Ok(())
}

fn add_worker(shared: &Arc<Shared>) -> std::io::Result<()> {
    let working = Arc::clone(shared);
    shared.pool.total.fetch_add(1, Ordering::AcqRel);
    let spawned = thread::Builder::new().name("worker".to_owned()).stack_size(STACK).spawn(move || work(&working));
    if spawned.is_err() {
        shared.pool.total.fetch_sub(1, Ordering::AcqRel);
    }
    spawned.map(drop)
}

fn work(shared: &Arc<Shared>) {
    // A request would report the same.
    let _ = crate::hsm::prepare_thread();
    let pool = &shared.pool;
    loop {
        pool.idle.fetch_add(1, Ordering::Relaxed);
        let woken = shared.poller.wait(SPARE);
        let last = pool.idle.fetch_sub(1, Ordering::Relaxed) == 1;
        if last && !pool.watching.swap(true, Ordering::AcqRel) {
            pool.ring();
        }
        match woken {
            Ok(Woken::By(token)) => {
                pool.taken.fetch_add(1, Ordering::Relaxed);
                match token & LISTENERS {
                    0 => shared.serve(token),
                    _ => shared.accept(token),
                }
            }
            Ok(Woken::Nothing) if !shared.stopping() => {
                let enough = |total| (total > shared.limits.min_workers).then(|| total - 1);
                if pool.total.fetch_update(Ordering::AcqRel, Ordering::Acquire, enough).is_ok() {
                    return;
                }
            }
            Ok(Woken::Nothing) => {}
            Ok(Woken::ToStop) => break,
            Err(error) => {
                tracing::error!(%error, "a worker cannot wait for connections");
                thread::sleep(TICK);
            }
        }
    }
    pool.total.fetch_sub(1, Ordering::AcqRel);
}

fn keep(shared: &Arc<Shared>) {
    let pool = &shared.pool;
    let (mut taken, mut swept, mut tidied, mut busy) = (0, Instant::now(), Instant::now(), Instant::now());
    while !shared.stopped() {
        let watching = pool.watching.load(Ordering::Acquire);
        pool.await_bell(if watching { WATCH } else { TICK });
        if swept.elapsed() >= TICK {
            swept = Instant::now();
            shared.sweep();
        }
        if tidied.elapsed() >= TIDY {
            tidied = Instant::now();
            shared.service.tidy();
        }
        if !watching {
            busy = Instant::now();
            taken = pool.taken.load(Ordering::Relaxed);
            continue;
        }
        let now = pool.taken.load(Ordering::Relaxed);
        if pool.idle() > 0 {
            if busy.elapsed() > CALM {
                pool.watching.store(false, Ordering::Release);
            }
        } else {
            busy = Instant::now();
            // All are held up by what they do.
            if now == taken && pool.total() < shared.limits.workers && add_worker(shared).is_err() {
                shared.refused(format_args!("the system has no more threads"));
            }
        }
        taken = now;
    }
}
