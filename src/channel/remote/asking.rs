//! A request and its answer: who is asked, who is asked next when one fails, and what is done when the answer
//! is not one.

use std::sync::PoisonError;
use std::time::Duration;

use super::auditing;
use super::connecting::handshake;
use super::connection::{Broken, Connection};
use super::fleet::{Fleet, unexpected};
use super::pool::{Place, Tried};
use super::telling;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::governance;
use crate::hsm::session::HsmId;
use crate::hsm::wire::{Answer, Request, RequestHeader, Room, decode_reply, encode_request};
use crate::hsm::{AuditFlush, AuditMode, Command, Record, Ticket};

/// How often one request may be sent to the same HSM because one of the two lagged behind.
pub(super) const REPEATS: usize = 16;
/// How often a login may be renewed for one request: the domain may change meanwhile.
const RENEWALS: usize = 3;
const PAUSE: Duration = Duration::from_millis(30);
/// How often one request may be told that others have committed meanwhile.
const NEWS: usize = 256;
/// How often all HSMs are asked once more that closed a connection, as they do when the domain goes on.
const ROUNDS: u32 = 3;
/// How long to wait for a connection while all are in use.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Any,
    /// The HSM that holds what is bound to one instance: approvals, exchanges.
    Home,
    /// The HSM that holds an operation.
    At(Place, HsmId),
}

/// A request and how it is to be made.
pub(super) struct Asking<'r> {
    pub(super) route: Route,
    /// The name of a login ([`Logins`]).
    pub(super) ticket: &'r Ticket,
    pub(super) request: Request<'r>,
    /// The records of the request, as the host has them.
    pub(super) records: &'r [&'r Record],
    /// Whether it is about a managed key, so that its use is recorded.
    pub(super) managed: bool,
    /// Whether it costs the HSM little.
    pub(super) quick: bool,
}

impl Asking<'_> {
    /// The HSM that refuses it for what it is.
    fn refused_by(&self) -> Option<HsmId> {
        match &self.request {
            // What is no command is for an HSM to say.
            Request::Call(Command::Execute { proposal, .. }) => governance::expelled(proposal).ok().flatten(),
            _ => None,
        }
    }

    /// Whether an HSM counts it if the PIN, or the enrolment code, is wrong.
    fn checks_pin(&self) -> bool {
        use Command::{CheckPin, Login, SetEnrolledPin, SetPin};
        let Request::Call(command) = &self.request else { return false };
        matches!(command, Login { .. } | CheckPin { .. } | SetPin { .. } | SetEnrolledPin { .. })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    Error(Error),
    /// A record of the request is not the newest any more; nothing was done.
    Changed,
    /// The HSM that [`Route::At`] names is gone, and what it held.
    Lost(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Error(error) | Failed::Lost(error) => error,
            Failed::Changed => {
                ErrorKind::FunctionFailed.with("another host changed the object meanwhile; nothing was done")
            }
        }
    }
}

/// What became of one request on one connection.
enum Met<T> {
    Done(T),
    Refused(Error),
    Changed,
}

/// What to do after a reply.
enum Next<T> {
    Callback(crate::hsm::wire::Callback),
    Behind,
    Stale(u64, u64),
    Met(Met<T>),
}

impl Fleet {
    /// Makes a request of an HSM, of another if that one fails, and gives what `take` makes of the answer.
    /// `take` is not called for an error or for what is dealt with here.
    pub(super) fn ask<T>(
        &self,
        asking: &Asking<'_>,
        mut take: impl FnMut(Place, &HsmId, Answer<'_>) -> Result<T>,
    ) -> std::result::Result<T, Failed> {
        let mut tried = Tried::default();
        let mut renewals = 0;
        let mut lost: Option<Error> = None;
        let (mut rounds, mut closed) = (0, false);
        let (checks_pin, mut broke_off) = (asking.checks_pin(), false);
        let (mut refused_by, mut left_out) = (asking.refused_by(), None);
        loop {
            let at = match asking.route {
                Route::Any => None,
                Route::Home => self.home().filter(|home| !tried.has(*home)),
                Route::At(place, _) => Some(place),
            };
            let Some(lease) = self.pool.lease(at, tried, PATIENCE) else {
                if closed && rounds < ROUNDS && at.is_none() {
                    (rounds, closed, tried) = (rounds + 1, false, Tried::default());
                    std::thread::sleep(PAUSE * rounds);
                    continue;
                }
                // There is no other: it says itself that it does not.
                if let Some(place) = left_out.take() {
                    refused_by = None;
                    tried.remove(place);
                    continue;
                }
                return Err(match (asking.route, lost) {
                    (Route::At(..), lost) => Failed::Lost(lost.unwrap_or_else(|| self.nobody())),
                    _ => self.nobody().into(),
                });
            };
            let place = lease.place;
            // What cannot be sent twice is not sent to a connection that is closed already.
            let careful = checks_pin || matches!(asking.route, Route::At(..));
            let found = self.connection(lease, careful, handshake());
            let (connection, used) = match found.and_then(|found| self.end_abandoned(place, found)) {
                Ok(found) => found,
                Err(broken) => {
                    closed |= is_closed(&broken);
                    self.give_up(place, &broken);
                    tried.add(place);
                    lost = Some(self.broken(place, &broken));
                    continue;
                }
            };
            let (lease, connection) = connection;
            if let Route::At(_, hsm) = asking.route
                && connection.hsm != hsm
            {
                lease.keep(connection);
                let why = "the HSM that held the operation was restarted";
                return Err(Failed::Lost(ErrorKind::DeviceError.with(why)));
            }
            if refused_by == Some(connection.hsm) {
                lease.keep(connection);
                tried.add(place);
                left_out = Some(place);
                continue;
            }
            if asking.route == Route::Home {
                *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
            }
            let mut came_of_it = false;
            let shown = self.logins.shown(asking.ticket);
            match self.request(connection, place, asking, &mut came_of_it, &mut take) {
                Ok((mut connection, version, met)) => {
                    let hsm = connection.hsm;
                    connection.rest();
                    lease.keep(connection);
                    match met {
                        Met::Done(done) => return Ok(done),
                        Met::Changed => return Err(Failed::Changed),
                        Met::Refused(error)
                            if error.kind() == ErrorKind::UserNotLoggedIn
                                && renewals < RENEWALS
                                && !matches!(asking.request, Request::RenewTicket { .. }) =>
                        {
                            let Some(login) = self.logins.get(asking.ticket) else { return Err(error.into()) };
                            // Another thread may have renewed it while this request was under way.
                            let renewed = login.ticket != shown;
                            if !(renewed || login.may_be_old(version) && self.renew(&login, place, hsm)) {
                                return Err(error.into());
                            }
                            renewals += 1;
                        }
                        Met::Refused(error) => return Err(error.into()),
                    }
                }
                // It was not sent; the next connection is a new one.
                Err(Broken::Rotated) if !came_of_it => {}
                // It was closed while nobody used it: the HSM itself may be well. What changes an
                // operation is not sent twice.
                Err(broken) if used && is_closed(&broken) && !came_of_it && !careful => {
                    tracing::debug!(hsm = %self.address(place), why = %broken, "an idle connection was closed");
                    self.pool.forget_idle(place);
                }
                Err(broken) => {
                    closed |= is_closed(&broken);
                    self.give_up(place, &broken);
                    self.audits.lost(place);
                    let error = self.broken(place, &broken);
                    // Each HSM counts wrong PINs itself.
                    if came_of_it || (checks_pin && broke_off) {
                        return Err(error.into());
                    }
                    broke_off = true;
                    tried.add(place);
                    lost = Some(error);
                }
            }
        }
    }

    /// One request on one connection, until there is an answer to it. The version is that of the HSM.
    fn request<T>(
        &self,
        mut connection: Connection,
        place: Place,
        asking: &Asking<'_>,
        came_of_it: &mut bool,
        take: &mut impl FnMut(Place, &HsmId, Answer<'_>) -> Result<T>,
    ) -> std::result::Result<(Connection, u64, Met<T>), Broken> {
        if asking.managed
            && let Some(host) = self.audits.wanted(place, &connection.hsm)
        {
            let (after, refused) = self.begin_audit(connection, place, asking.ticket, &host)?;
            connection = after;
            if let Some(error) = refused {
                return Ok((connection, 0, Met::Refused(error)));
            }
        }
        let timeout = self.timeout(asking.quick);
        let (mut repeats, mut news) = (0, 0);
        // Up to where the store was read when the call began, and what this HSM said it had heard before the
        // records were read once more.
        let (mut stamp, mut heard) = (super::super::read_up_to().unwrap_or_else(|| self.store.stamp()), 0);
        loop {
            let known = self.domain.held();
            if !connection.is_under(known.as_ref().map(|known| &known.active_key)) {
                return Err(Broken::Rotated);
            }
            let (version, hash) =
                known.as_ref().map_or((0, [0; 48]), |known| (known.version(), *known.follower.hash()));
            let header = RequestHeader { version, hash, stamp, heard, ticket: self.logins.shown(asking.ticket) };
            // What is too long for a link is the caller's error.
            if let Err(error) = encode_request(&header, &asking.request, &mut connection.request) {
                return Ok((connection, version, Met::Refused(error)));
            }
            connection.send(timeout)?;
            let (held, answer) = loop {
                connection.receive()?;
                let (head, next) = {
                    let room = Room::new();
                    let (head, answer) = decode_reply(connection.message(), &room)?;
                    let may_lag = matches!(answer, Answer::Behind) || is_about_hsm(&asking.request);
                    check_state((version, &hash), (head.version, &head.hash), may_lag)?;
                    let next = match answer {
                        Answer::Callback(callback) => Next::Callback(callback),
                        Answer::Behind => Next::Behind,
                        Answer::Stale { stamp, heard } => Next::Stale(stamp, heard),
                        Answer::Error(error) => Next::Met(Met::Refused(error)),
                        answer => Next::Met(take(place, &connection.hsm, answer).map_or_else(Met::Refused, Met::Done)),
                    };
                    (head, next)
                };
                match next {
                    Next::Callback(callback) => {
                        *came_of_it = true;
                        connection = auditing::answer(connection, &*self.store, callback)?;
                    }
                    next => {
                        self.audits.heard(place, &connection.hsm, head.audit);
                        break (head.version, next);
                    }
                }
            };
            if held > version {
                self.catch_up();
            }
            match answer {
                Next::Stale(..) => news += 1,
                _ => repeats += 1,
            }
            match answer {
                Next::Met(met) => {
                    if held < version {
                        self.bring_linked(&mut connection, timeout, held)?;
                    }
                    return Ok((connection, held, met));
                }
                _ if repeats >= REPEATS || news >= NEWS => {
                    return Err(ErrorKind::DeviceError
                        .with("it and this host cannot agree on the newest state")
                        .into());
                }
                Next::Behind => self.bring_linked(&mut connection, timeout, held)?,
                Next::Stale(told, has_heard) => {
                    // Nothing is believed: the records are read anew, whatever the number.
                    self.store.hint(told);
                    // Which looks at the database.
                    self.store.counter();
                    stamp = self.store.stamp();
                    match self.has_newer(asking.records) {
                        Ok(false) => heard = has_heard,
                        Ok(true) => return Ok((connection, held, Met::Changed)),
                        Err(error) => return Ok((connection, held, Met::Refused(error))),
                    }
                }
                Next::Callback(_) => {}
            }
        }
    }

    /// Begins the HSM's chain of the audit log. An error only where nothing may go unrecorded.
    fn begin_audit(
        &self,
        connection: Connection,
        place: Place,
        ticket: &Ticket,
        host: &str,
    ) -> std::result::Result<(Connection, Option<Error>), Broken> {
        let asking = Asking {
            route: Route::Any,
            ticket,
            request: Request::Call(Command::BeginAudit { host, store: &*self.store }),
            records: &[],
            managed: false,
            quick: true,
        };
        let mut came_of_it = false;
        let (connection, _, met) = self.request(connection, place, &asking, &mut came_of_it, &mut |_, _, _| Ok(()))?;
        let refused = match met {
            // Nobody is logged in: the call itself is refused.
            Met::Refused(error) if error.kind() == ErrorKind::UserNotLoggedIn => None,
            Met::Refused(error) if self.audits.status().mode == AuditMode::Strict => {
                Some(ErrorKind::DeviceError.with(format!("refused, for the audit log cannot be written: {error}")))
            }
            Met::Refused(error) => {
                tracing::warn!(%error, hsm = %self.address(place), "the audit log cannot be written; its records wait");
                None
            }
            _ => None,
        };
        Ok((connection, refused))
    }

    fn has_newer(&self, records: &[&Record]) -> Result<bool> {
        for record in records {
            if self.newest(record)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The stored record in the place of one that is no longer the newest; None if it is.
    /// CKR_KEY_HANDLE_INVALID if it is gone.
    pub(super) fn newest(&self, record: &Record) -> Result<Option<Record>> {
        if record.is_transient() {
            return Ok(None);
        }
        match self.store.get(&record.object)? {
            Some(stored) if stored == *record => Ok(None),
            Some(stored) => Ok(Some(stored)),
            None => Err(ErrorKind::KeyHandleInvalid.with("another host deleted the object")),
        }
    }

    /// Brings the HSM at the other end of a link forward.
    fn bring_linked(
        &self,
        connection: &mut Connection,
        timeout: Duration,
        version: u64,
    ) -> std::result::Result<(), Broken> {
        let known = self.domain.known()?;
        let (after, entries) = self.domain.entries_after(&known, version)?;
        let request =
            Request::Bring { origin: &known.origin.bytes, newest: &known.token.bytes, after, entries: &entries };
        self.plain(connection, &telling::header(Ticket::public()), &request, timeout)
    }

    /// A request whose answer is of no interest but for an error.
    pub(super) fn plain(
        &self,
        connection: &mut Connection,
        header: &RequestHeader,
        request: &Request<'_>,
        timeout: Duration,
    ) -> std::result::Result<(), Broken> {
        encode_request(header, request, &mut connection.request)?;
        connection.send(timeout)?;
        connection.receive()?;
        let room = Room::new();
        match decode_reply(connection.message(), &room)? {
            (_, Answer::Error(error)) => Err(error.into()),
            (_, Answer::Callback(_)) => Err(unexpected().into()),
            _ => Ok(()),
        }
    }

    /// Has an HSM's records of the audit log stored.
    pub(super) fn flush_audit(&self, place: Place, flush: AuditFlush) -> Result<()> {
        let Some(id) = self.pool.standings().get(place).and_then(|standing| standing.id) else { return Ok(()) };
        let nobody = Ticket::public();
        let asking = Asking {
            route: Route::At(place, id),
            ticket: &nobody,
            request: Request::Call(Command::FlushAudit { flush, store: &*self.store }),
            records: &[],
            managed: false,
            quick: true,
        };
        match self.ask(&asking, |_, _, _| Ok(())) {
            // Its records went with it.
            Err(Failed::Lost(error)) => {
                tracing::warn!(hsm = %self.address(place), %error, "records of the audit log are lost with an HSM");
                self.audits.lost(place);
                Ok(())
            }
            asked => asked.map_err(Error::from),
        }
    }
}

/// Whether an HSM answers it in whatever state it is.
fn is_about_hsm(request: &Request<'_>) -> bool {
    matches!(request, Request::Ping | Request::Describe | Request::Announce { .. })
}

/// An HSM answers at no older state than it was asked with, and never with another of the same version.
pub(super) fn check_state(asked: (u64, &[u8; 48]), held: (u64, &[u8; 48]), may_lag: bool) -> Result<()> {
    if held.0 == asked.0 && held.1 != asked.1 && held.0 > 0 {
        tracing::error!(version = held.0, "ALARM: an HSM holds another domain state of the same version");
        return Err(ErrorKind::DeviceError.with("ALARM: it holds another domain state of the same version"));
    }
    match held.0 < asked.0 && !may_lag {
        true => Err(ErrorKind::DeviceError.with("it answered at an older domain state than it was asked with")),
        false => Ok(()),
    }
}

/// Whether there was too little time.
pub(super) fn is_late(broken: &Broken) -> bool {
    matches!(broken, Broken::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

/// Whether a connection was closed by the other end, in an orderly way or not.
fn is_closed(broken: &Broken) -> bool {
    use std::io::ErrorKind as Io;
    matches!(broken, Broken::Io(error) if matches!(
        error.kind(), Io::UnexpectedEof | Io::ConnectionReset | Io::BrokenPipe | Io::ConnectionAborted | Io::NotConnected
    ))
}
