//! The connections of a store: made when needed, up to a bound, and used by one call at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CONNECTIONS;
use super::connection::{Connection, Session, Sockets};
use super::failure::Failure;
use super::schema;
use super::url::Target;

/// How long a database that went away is waited for by those who come meanwhile. After that each call
/// tries once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(6);
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(200);

pub(super) struct Pool {
    pub(super) target: Target,
    pub(super) sockets: Arc<Sockets>,
    /// Whether the tables must be there.
    finished: bool,
    state: Mutex<State>,
    freed: Condvar,
    begin: Instant,
    /// When the database went away, in milliseconds after `begin`; 0 while it is there.
    away: AtomicU64,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    open: usize,
}

impl Pool {
    pub(super) fn new(target: Target, finished: bool) -> Self {
        Self {
            target,
            finished,
            sockets: Arc::new(Sockets::new()),
            state: Mutex::default(),
            freed: Condvar::new(),
            begin: Instant::now(),
            away: AtomicU64::new(0),
        }
    }

    /// Runs a task with a connection, once.
    pub(super) fn attempt<T>(
        &self,
        deadline: Instant,
        task: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let deadline = deadline.min(Instant::now() + ATTEMPT);
        let mut lease = self.lease(deadline)?;
        let done = match &mut lease.connection {
            Some(connection) => connection.run(deadline, task),
            None => Err(Failure::Lost("no connection".into())),
        };
        match &done {
            Err(failure) if failure.is_lost() => {
                lease.discard();
                if !matches!(failure, Failure::Late) {
                    // Those that wait in the pool are most likely of the same past.
                    self.close();
                }
                self.note_away();
            }
            _ => self.away.store(0, Ordering::Release),
        }
        done
    }

    fn note_away(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let _ = self.away.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Whether a call that could not reach the database should try again.
    pub(super) fn is_patient(&self) -> bool {
        let away = Duration::from_millis(self.away.load(Ordering::Acquire));
        self.begin.elapsed().saturating_sub(away) < PATIENCE
    }

    /// Runs a task that only reads, again where that may help.
    pub(super) fn read<T>(
        &self,
        deadline: Instant,
        task: impl AsyncFn(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut pause = Pause::default();
        loop {
            let failure = match self.attempt(deadline, &task) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let again = failure.is_conflict() || (failure.is_lost() && (pause.rounds == 0 || self.is_patient()));
            if !again || Instant::now() >= deadline {
                return Err(failure);
            }
            pause.wait();
        }
    }

    /// Closes the idle ones.
    pub(super) fn close(&self) {
        let idle = {
            let mut state = self.lock();
            let idle = std::mem::take(&mut state.idle);
            state.open -= idle.len();
            idle
        };
        self.freed.notify_all();
        idle.into_iter().for_each(Connection::close);
    }

    fn lease(&self, deadline: Instant) -> Result<Lease<'_>, Failure> {
        let mut state = self.lock();
        loop {
            while let Some(connection) = state.idle.pop() {
                if !connection.is_closed() {
                    return Ok(Lease { pool: self, connection: Some(connection) });
                }
                state.open -= 1;
            }
            if state.open < CONNECTIONS {
                state.open += 1;
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Lost("all connections were in use for too long".into()));
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let mut lease = Lease { pool: self, connection: None };
        let opened = Connection::open(&self.target, &self.sockets, deadline).and_then(|mut connection| {
            if self.finished {
                connection.run(deadline, schema::check)?;
            }
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                lease.connection = Some(connection);
                Ok(lease)
            }
            Err(failure) => {
                if failure.is_lost() {
                    self.note_away();
                }
                Err(failure)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The use of a connection, or of the place of one.
struct Lease<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
}

impl Lease<'_> {
    fn discard(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.connection.take() {
            Some(connection) if !connection.is_closed() => state.idle.push(connection),
            _ => state.open -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

/// The pauses between attempts: random, and longer on average each time, so that hosts that were in
/// each other's way do not meet again.
#[derive(Default)]
pub(super) struct Pause {
    rounds: u32,
}

impl Pause {
    pub(super) fn wait(&mut self) {
        let longest = SHORTEST.saturating_mul(2_u32.saturating_pow(self.rounds.min(16))).min(LONGEST);
        self.rounds += 1;
        let mut random = [0; 4];
        // Without randomness the pause is the longest.
        let part = getrandom::fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random));
        std::thread::sleep(longest.mul_f64(f64::from(part) / f64::from(u32::MAX)));
    }
}
