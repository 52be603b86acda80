//! What several HSMs are told at once: commits, newer states of the domain, logouts. All are sent it
//! before any answer is waited for, and the wait is bounded for all together: one that hangs keeps
//! nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::asking::{check_state, is_late};
use super::auditing;
use super::connection::{Broken, Connection, Handshake};
use super::fleet::{Fleet, unexpected};
use super::pool::{Lease, Place, Tried};
use crate::error::Error;
use crate::hsm::wire::{Answer, Request, RequestHeader, Room, decode_reply, encode_request};
use crate::hsm::{AuditFlush, Command, Ticket};

/// How long HSMs have to take the news of a commit.
const ANNOUNCEMENT: Duration = Duration::from_millis(100);
/// How long one that did not take it is told of no other commit.
const DEAF: Duration = Duration::from_secs(1);
/// How long HSMs have to take what is no news of a commit.
const TELLING: Duration = Duration::from_secs(1);
/// What has come is read when the time is over.
const LEAST: Duration = Duration::from_millis(5);

/// How long it is still waited, for all HSMs together.
struct Patience(Duration);

impl Patience {
    fn spend<T>(&mut self, wait: impl FnOnce(Duration) -> T) -> T {
        let begun = Instant::now();
        let done = wait(self.0.max(LEAST));
        self.0 = self.0.saturating_sub(begun.elapsed());
        done
    }
}

/// What HSMs are to be told once the caller's locks are free.
#[derive(Default)]
pub(super) struct Errands {
    pending: Mutex<Pending>,
    /// Held while HSMs are told.
    telling: Mutex<()>,
}

#[derive(Default)]
struct Pending {
    /// The domain went on from this version.
    from: Option<u64>,
    /// The login's chains of the audit log are over.
    close: bool,
    ended: Vec<Ticket>,
}

impl Errands {
    pub(super) fn bring(&self, from: u64) {
        let mut pending = lock(&self.pending);
        pending.from = Some(pending.from.map_or(from, |earlier| earlier.min(from)));
    }

    pub(super) fn close(&self) {
        lock(&self.pending).close = true;
    }

    pub(super) fn log_out(&self, ticket: Ticket) {
        lock(&self.pending).ended.push(ticket);
    }

    fn is_empty(&self) -> bool {
        let pending = lock(&self.pending);
        pending.from.is_none() && !pending.close && pending.ended.is_empty()
    }

    /// Waits while another thread tells HSMs of them.
    fn wait(&self) {
        drop(lock(&self.telling));
    }
}

/// Until when each HSM is told of no commits.
pub(super) struct Deaf(Mutex<Vec<Option<Instant>>>);

impl Deaf {
    pub(super) fn new(hsms: usize) -> Self {
        Self(Mutex::new(vec![None; hsms]))
    }

    fn is(&self, place: Place) -> bool {
        lock(&self.0).get(place).is_some_and(|until| until.is_some_and(|until| Instant::now() < until))
    }

    fn add(&self, place: Place) {
        if let Some(until) = lock(&self.0).get_mut(place) {
            *until = Some(Instant::now() + DEAF);
        }
    }
}

impl Fleet {
    /// Tells the HSMs what the store has come to: also those that this process has not met, for others use
    /// them.
    pub(super) fn announce(&self, stamp: u64) {
        if self.domain.held().is_none() {
            return;
        }
        let mut places = self.pool.unfailing();
        places.retain(|place| !self.deaf.is(*place));
        let request = Request::Announce { stamp };
        self.tell(&places, &header(Ticket::public()), &request, ANNOUNCEMENT, |place, _| self.deaf.add(place));
    }

    /// Tells the HSMs what [`Errands`] there are. The caller holds no lock that others wait for.
    pub(super) fn settle(&self) {
        if self.errands.is_empty() {
            return;
        }
        let _one = lock(&self.errands.telling);
        let Pending { from, close, ended } = std::mem::take(&mut *lock(&self.errands.pending));
        if let Some(from) = from {
            self.bring_all(from);
        }
        // Who was silent is asked no more: it has failed.
        if close {
            let open = self.audits.places(true);
            let places = self.pool.reachable().into_iter().filter(|place| open.contains(place)).collect();
            self.tell_all(places, Ticket::public(), &|| {
                Request::Call(Command::FlushAudit { flush: AuditFlush::Closing, store: &*self.store })
            });
        }
        for ticket in ended {
            self.tell_all(self.pool.reachable(), ticket, &|| Request::Call(Command::Logout));
        }
    }

    /// As [`Self::settle`], and what another thread is telling is told then, too.
    pub(super) fn settle_all(&self) {
        self.settle();
        self.errands.wait();
    }

    /// Brings the HSMs that are there to the newest state: also those that this process has not met.
    fn bring_all(&self, from: u64) {
        let Some(known) = self.domain.held() else { return };
        let (after, entries) = match self.domain.entries_after(&known, from) {
            Ok(entries) => entries,
            Err(error) => return tracing::debug!(%error, "HSMs are brought forward when they are asked next"),
        };
        let (origin, newest) = (&known.origin.bytes[..], &known.token.bytes[..]);
        let bring = || Request::Bring { origin, newest, after, entries: &entries };
        self.tell_all(self.pool.unfailing(), Ticket::public(), &bring);
    }

    fn tell_all<'r>(&self, places: Vec<Place>, ticket: Ticket, request: &dyn Fn() -> Request<'r>) {
        self.tell(&places, &header(ticket), &request(), TELLING, |place, broken| self.give_up(place, broken));
    }

    /// Makes a request of these HSMs. What fails is for the next one to find; `silent` gets who did not
    /// answer.
    fn tell(
        &self,
        places: &[Place],
        header: &RequestHeader,
        request: &Request<'_>,
        patience: Duration,
        silent: impl Fn(Place, &Broken),
    ) {
        let mut patience = Patience(patience);
        let not_told = |place: Place, broken: &Broken| {
            tracing::debug!(hsm = %self.address(place), why = %broken, "an HSM was not told");
        };
        let (mut told, mut later) = (Vec::new(), Vec::new());
        for &place in places {
            match self.pool.lease(Some(place), Tried::default(), Duration::ZERO) {
                Some(lease) if lease.idle.is_some() => {
                    match patience.spend(|left| self.send(lease, header, request, left)) {
                        Ok(sent) => told.push(sent),
                        Err(broken) => not_told(place, &broken),
                    }
                }
                lease => later.push((place, lease)),
            }
        }
        // A connection that has to be made, or waited for: one HSM does not use up the others' time.
        let mut others = u32::try_from(later.len()).unwrap_or(u32::MAX);
        for (place, lease) in later {
            let share = (patience.0 / others.max(1)).max(LEAST);
            others = others.saturating_sub(1);
            let lease = lease.or_else(|| patience.spend(|_| self.pool.lease(Some(place), Tried::default(), share)));
            let Some(lease) = lease else {
                tracing::debug!(hsm = %self.address(place), "an HSM was not told: its connections are in use");
                continue;
            };
            match patience.spend(|_| self.send(lease, header, request, share)) {
                Ok(sent) => told.push(sent),
                Err(Broken::Rotated) => {}
                // So little time says nothing of an HSM.
                Err(broken) if is_late(&broken) => {
                    not_told(place, &broken);
                    self.deaf.add(place);
                }
                Err(broken) => {
                    not_told(place, &broken);
                    self.pool.failed(place, broken.to_string());
                }
            }
        }
        for (lease, connection) in told {
            let place = lease.place;
            match self.answered(connection, place, &mut patience) {
                Ok((mut connection, refused)) => {
                    connection.rest();
                    lease.keep(connection);
                    if let Some(error) = refused {
                        tracing::debug!(hsm = %self.address(place), %error, "an HSM refused what it was told");
                    }
                }
                Err(broken) => {
                    not_told(place, &broken);
                    silent(place, &broken);
                }
            }
        }
    }

    fn send<'p>(
        &'p self,
        lease: Lease<'p, Connection>,
        header: &RequestHeader,
        request: &Request<'_>,
        left: Duration,
    ) -> Result<(Lease<'p, Connection>, Connection), Broken> {
        let ((lease, mut connection), _) = self.connection(lease, true, Handshake::new(left, left))?;
        if !connection.is_under(self.domain.held().map(|known| known.active_key).as_ref()) {
            return Err(Broken::Rotated);
        }
        encode_request(header, request, &mut connection.request)?;
        connection.send(left)?;
        Ok((lease, connection))
    }

    /// Waits for the answer to what was sent, and does what the HSM asks for in between. The error is one
    /// that it answered.
    fn answered(
        &self,
        mut connection: Connection,
        place: Place,
        patience: &mut Patience,
    ) -> Result<(Connection, Option<Error>), Broken> {
        loop {
            patience.spend(|left| {
                connection.wait_for(left)?;
                connection.receive()
            })?;
            let (head, next) = {
                let room = Room::new();
                let (head, answer) = decode_reply(connection.message(), &room)?;
                let next = match answer {
                    Answer::Callback(callback) => Err(callback),
                    Answer::Error(error) => Ok(Some(error)),
                    Answer::Behind | Answer::Stale { .. } => Ok(Some(unexpected())),
                    _ => Ok(None),
                };
                (head, next)
            };
            check_state((0, &[0; 48]), (head.version, &head.hash), true)?;
            match next {
                Err(callback) => connection = auditing::answer(connection, &*self.store, callback)?,
                Ok(refused) => {
                    self.audits.heard(place, &connection.hsm, head.audit);
                    return Ok((connection, refused));
                }
            }
        }
    }
}

/// Of a request that says the same in any state of the domain and of the store.
pub(super) fn header(ticket: Ticket) -> RequestHeader {
    RequestHeader { version: 0, hash: [0; 48], stamp: u64::MAX, heard: 0, ticket }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
