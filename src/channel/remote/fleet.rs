//! What all calls of a process share: who is asked, how a connection is made, and what is done when the
//! answer is not one.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::auditing::{self, Audits};
use super::connection::{Broken, Clear, Connection, Handshake};
use super::domain::{Domain, Known, Step};
use super::logins::{Login, Logins};
use super::operation::Stream;
use super::pool::{Lease, Place, Pool, Tried};
use super::telling::{self, Deaf, Errands};
use crate::config::{self, Passphrase};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::governance;
use crate::hsm::session::{self, Code, HostKey, HsmId, Process, Session};
use crate::hsm::wire::{Answer, Request, RequestHeader, Room, decode_reply, encode_request};
use crate::hsm::{AuditFlush, AuditMode, Command, Record, Reply, Ticket};
use crate::store::Store;

/// A session key is asked for so many seconds; the domain's limit may be less.
const LIFETIME: u64 = 3600;
/// An idle connection is looked at before it is used again after so long.
const IDLE: Duration = Duration::from_secs(1);
/// How long a step of a handshake may take, and the whole of it.
const HANDSHAKE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// How long the others wait for one that negotiates a session.
const ALONE: Duration = Duration::from_millis(500);
/// How often one request may be sent to the same HSM because one of the two lagged behind.
const REPEATS: usize = 16;
/// How often a login may be renewed for one request: the domain may change meanwhile.
const RENEWALS: usize = 3;
const PAUSE: Duration = Duration::from_millis(30);
/// How often one request may be told that others have committed meanwhile.
const NEWS: usize = 256;
/// How often all HSMs are asked once more that closed a connection, as they do when the domain goes on.
const ROUNDS: u32 = 3;
/// How long to wait for a connection while all are in use.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many operations are remembered that an HSM is still to be told the end of.
const ABANDONED: usize = 1024;

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

    /// Whether an HSM counts it if the PIN is wrong.
    fn checks_pin(&self) -> bool {
        use Command::{CheckPin, Login, SetPin};
        matches!(self.request, Request::Call(Login { .. } | CheckPin { .. } | SetPin { .. }))
    }
}

/// A place at an HSM, and a connection there.
pub(super) type Leased<'p> = (Lease<'p, Connection>, Connection);

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

/// A fleet, as one process uses it.
pub(super) struct Fleet {
    pub(super) config: config::Fleet,
    pub(super) store: Arc<dyn Store>,
    pub(super) domain: Domain,
    pub(super) logins: Logins,
    pub(super) audits: Audits,
    pub(super) pool: Pool<Connection>,
    process: Process,
    /// Read when first needed.
    host_key: Mutex<Option<Arc<HostKey>>>,
    session: Mutex<Negotiated>,
    negotiated: Condvar,
    home: Mutex<Option<Place>>,
    pub(super) errands: Errands,
    pub(super) deaf: Deaf,
    abandoned: Mutex<VecDeque<Stream>>,
    /// The login was ended by the domain, or can be renewed no more.
    pub(super) login_ended: AtomicBool,
}

/// The session of this process.
#[derive(Default)]
struct Negotiated {
    kept: Option<Kept>,
    /// Since when somebody negotiates another.
    since: Option<Instant>,
}

struct Kept {
    session: Arc<Session>,
    /// Seconds.
    lifetime: u64,
}

impl Negotiated {
    /// What is there, if it is good for a while.
    fn good(&self, known: &Known) -> Option<Arc<Session>> {
        let Kept { session, lifetime } = self.kept.as_ref()?;
        let good = session.is_current(&known.follower) && session.valid_until() > now().saturating_add(lifetime / 4);
        good.then(|| Arc::clone(session))
    }
}

/// What became of one request on one connection.
enum Met<T> {
    Done(T),
    Refused(Error),
    Changed,
}

impl Fleet {
    pub(super) fn new(config: &config::Fleet, store: Arc<dyn Store>) -> Result<Self> {
        let hsms = config.hsms.len();
        Ok(Self {
            domain: Domain::new(Arc::clone(&store), config.trusted()?, config.host_key.as_deref()),
            store,
            logins: Logins::default(),
            audits: Audits::new(hsms),
            pool: Pool::new(hsms, config.pool),
            process: Process::new()?,
            host_key: Mutex::default(),
            session: Mutex::default(),
            negotiated: Condvar::new(),
            home: Mutex::default(),
            errands: Errands::default(),
            deaf: Deaf::new(hsms),
            abandoned: Mutex::default(),
            login_ended: AtomicBool::new(false),
            config: config.clone(),
        })
    }

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
            let (step, whole) = HANDSHAKE;
            let found = self.connection(lease, careful, Handshake::new(step, whole));
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
                Ok((connection, version, met)) => {
                    let hsm = connection.hsm;
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

    /// An idle connection that is still good, or a new one; and whether it is an idle one.
    pub(super) fn connection<'p>(
        &'p self,
        mut lease: Lease<'p, Connection>,
        careful: bool,
        bound: Handshake,
    ) -> std::result::Result<(Leased<'p>, bool), Broken> {
        let now = now();
        while let Some(connection) = lease.idle.take() {
            let good = connection.generation == lease.generation
                // The clocks of two machines differ a little.
                && connection.valid_until > now.saturating_add(2)
                && (!careful && connection.rested.elapsed() < IDLE || !connection.is_stale());
            if good {
                return Ok(((lease, connection), true));
            }
            lease.next_idle();
        }
        let mut connection = self.connect(lease.place, bound)?;
        connection.generation = lease.generation;
        if self.pool.answered(lease.place, connection.hsm) {
            tracing::warn!(hsm = %self.address(lease.place), "an HSM of the fleet is used again");
        }
        Ok(((lease, connection), false))
    }

    /// A new connection with a member.
    fn connect(&self, place: Place, bound: Handshake) -> std::result::Result<Connection, Broken> {
        let address = self.config.hsms.get(place).ok_or_else(|| Error::from(ErrorKind::GeneralError))?;
        let mut clear = Clear::connect(address, bound)?;
        let mut status = clear.status()?;
        if matches!(address, config::Address::Admin(_)) {
            self.domain.trust_also(status.hash);
            return clear.admin(status.hsm);
        }
        let mut known = self.domain.known()?;
        if status.domain.is_some_and(|domain| domain != *known.follower.domain()) {
            return Err(ErrorKind::DeviceError.with("it is of another domain").into());
        }
        if status.version > known.version() {
            self.catch_up();
            known = self.domain.known()?;
        }
        for _ in 0..REPEATS {
            // An HSM refuses one that is not without a word.
            known.follower.host(&self.host_key()?.kid())?;
            if status.version < known.version() || !status.member {
                status = self.bring(&mut clear, &known, status.version)?;
            }
            let hsm = status.hsm;
            if !status.member || !known.members.contains(&hsm) {
                let id = crate::text::hex(&hsm);
                let why = format!("HSM {id} is not a member of the domain; its operators admit it with `admit HSM`");
                return Err(ErrorKind::DeviceError.with(why).into());
            }
            let reached = self.session(&mut clear, &known, hsm).and_then(|session| {
                let (connecting, wire) = session.connect(&known.follower, &hsm)?;
                let reply = clear.ask(&wire)?;
                // A refusal leaves the connection as it is.
                session::Reply::decode(&reply)?;
                Ok((session, connecting, reply))
            });
            match reached {
                Ok((session, connecting, reply)) => {
                    return clear.link(connecting, &reply, (&session, &self.process, &known.follower), hsm);
                }
                Err(Broken::Refused(Code::Expired)) => self.drop_session(),
                Err(Broken::Outdated) => {
                    self.catch_up();
                    known = self.domain.known()?;
                }
                Err(Broken::Refused(Code::NotMember | Code::Behind)) => status.member = false,
                // It may be that the host is in the domain no more, and has not heard of it.
                Err(broken @ Broken::Refused(Code::Refused)) => {
                    self.catch_up();
                    self.domain.known()?.follower.host(&self.host_key()?.kid())?;
                    return Err(broken);
                }
                Err(broken) => return Err(broken),
            }
        }
        Err(ErrorKind::DeviceError.with("it would not agree on a session").into())
    }

    /// The session of this process: a new one is negotiated with this HSM if there is none, or not for
    /// long. While another thread does so it is waited for, but not for an HSM that is silent.
    fn session(&self, clear: &mut Clear, known: &Known, hsm: HsmId) -> std::result::Result<Arc<Session>, Broken> {
        let mut state = self.negotiating();
        let begun = Instant::now();
        loop {
            if let Some(session) = state.good(known) {
                return Ok(session);
            }
            let left = state.since.map_or(Duration::ZERO, |since| ALONE.saturating_sub(since.elapsed()));
            if left.is_zero() {
                break;
            }
            state = self.negotiated.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.since = Some(begun);
        drop(state);
        let negotiated = self.negotiate(clear, known, hsm);
        let mut state = self.negotiating();
        if state.since == Some(begun) {
            state.since = None;
        }
        self.negotiated.notify_all();
        let session = Arc::new(negotiated?);
        // The first one is kept: others are connected with it.
        if let Some(session) = state.good(known) {
            return Ok(session);
        }
        let lifetime = session.valid_until().saturating_sub(now());
        state.kept = Some(Kept { session: Arc::clone(&session), lifetime });
        Ok(session)
    }

    fn negotiate(&self, clear: &mut Clear, known: &Known, hsm: HsmId) -> std::result::Result<Session, Broken> {
        let host_key = self.host_key()?;
        let (negotiation, wire) = session::negotiate(&host_key, &self.process, &known.follower, &hsm, LIFETIME)?;
        let reply = clear.ask(&wire)?;
        Ok(negotiation.finish(&known.follower, &reply)?)
    }

    fn negotiating(&self) -> MutexGuard<'_, Negotiated> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_session(&self) {
        self.negotiating().kept = None;
    }

    /// When the session is over, seconds since 1970.
    pub(super) fn valid_until(&self) -> Option<u64> {
        self.negotiating().kept.as_ref().map(|kept| kept.session.valid_until())
    }

    /// An operation's end that its HSM has not heard of, as far as is known.
    pub(super) fn abandon(&self, stream: Stream) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        if abandoned.len() >= ABANDONED {
            abandoned.pop_front();
        }
        abandoned.push_back(stream);
    }

    /// Ends what an HSM has not heard the end of, over a new connection: an old one was there before.
    fn end_abandoned<'p>(
        &self,
        place: Place,
        (mut leased, used): (Leased<'p>, bool),
    ) -> std::result::Result<(Leased<'p>, bool), Broken> {
        if used {
            return Ok((leased, used));
        }
        let there: VecDeque<Stream> = {
            let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
            let (there, elsewhere) = abandoned.drain(..).partition(|stream| stream.place == place);
            *abandoned = elsewhere;
            there
        };
        let connection = &mut leased.1;
        let hsm = connection.hsm;
        // What another HSM there had is gone with it.
        for stream in there.iter().filter(|stream| stream.hsm == hsm) {
            let end = Request::End { stream: stream.id };
            self.plain(connection, &telling::header(Ticket::public()), &end, self.config.timeout)?;
        }
        Ok((leased, used))
    }

    fn host_key(&self) -> Result<Arc<HostKey>> {
        let mut held = self.host_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*held {
            return Ok(Arc::clone(key));
        }
        let path = self.config.host_key.as_deref().ok_or_else(|| ErrorKind::GeneralError.with("no host_key"))?;
        let key = Arc::new(read_host_key(path, self.config.host_key_passphrase.as_ref())?);
        *held = Some(Arc::clone(&key));
        Ok(key)
    }

    /// Gives an HSM the domain before there is a link.
    fn bring(&self, clear: &mut Clear, known: &Known, version: u64) -> std::result::Result<session::Status, Broken> {
        let (after, entries) = self.domain.entries_after(known, version)?;
        let entries = entries.iter().map(Vec::as_slice).collect();
        let bring = session::Request::Bring { origin: &known.origin.bytes, newest: &known.token.bytes, after, entries };
        clear.tell(&bring.to_wire()?)
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
                    connection.rest();
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

    /// Whether a store's commits are announced: all processes of one machine see those of its own at once.
    pub(super) fn hears_of_commits(&self) -> bool {
        matches!(self.config.database, config::Database::Postgres(_))
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
    fn plain(
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

    /// A new ticket for a login: from the HSM that refused the old one, or from any other that knows it.
    fn renew(&self, login: &Login, place: Place, hsm: HsmId) -> bool {
        let record = match self.store.meta() {
            Ok(meta) => meta.pin(&login.role).map(|pin| pin.record.clone()),
            Err(error) => {
                tracing::warn!(%error, "the login cannot be renewed");
                return false;
            }
        };
        let Some(record) = record else {
            self.end_login(login);
            return false;
        };
        let mut places = self.pool.reachable();
        places.retain(|other| *other != place);
        places.insert(0, place);
        let ids = self.pool.standings();
        let mut refused = 0;
        for other in places {
            let id = if other == place { Some(hsm) } else { ids.get(other).and_then(|standing| standing.id) };
            let Some(id) = id else { continue };
            let asking = Asking {
                route: Route::At(other, id),
                ticket: &login.ticket,
                request: Request::RenewTicket { record: &record },
                records: &[],
                managed: false,
                quick: true,
            };
            let version = self.domain.held().map_or(0, |known| known.version());
            let renewed = self.ask(&asking, |_, _, answer| match answer {
                Answer::Reply(Reply::LoggedIn(ticket)) => Ok(ticket),
                _ => Err(unexpected()),
            });
            match renewed {
                Ok(ticket) => {
                    self.logins.renew(login, ticket, version);
                    return true;
                }
                Err(failed) => {
                    let error = Error::from(failed);
                    refused += usize::from(error.kind() == ErrorKind::UserNotLoggedIn);
                    tracing::debug!(%error, "a login was not renewed");
                }
            }
        }
        // One that could not be asked says nothing: it may be the one that knows the login.
        if refused == self.config.hsms.len() {
            self.end_login(login);
        }
        false
    }

    fn end_login(&self, login: &Login) {
        tracing::warn!(role = %login.role.principal(), "the login ends: no HSM renews it");
        if self.logins.retain(|other| other.ticket != login.ticket) {
            self.login_ended.store(true, Ordering::Release);
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

    /// Takes what the store has of the domain, if that is newer. What fails is for the next call.
    pub(super) fn catch_up(&self) {
        match self.domain.catch_up() {
            Ok(step) => self.stepped(&step),
            Err(error) => tracing::warn!(%error, "the domain's newest state was not taken"),
        }
    }

    /// What a newer state means for what was agreed in the older one.
    pub(super) fn stepped(&self, step: &Step) {
        let Some(before) = &step.before else { return };
        let now = &step.now;
        if before.version() == now.version() {
            return;
        }
        let gone = before.members.iter().any(|member| !now.members.contains(member));
        if gone || before.active_key != now.active_key {
            self.drop_session();
            self.pool.renew();
        }
        let stays = |login: &Login| before.follower.keeps_login(&now.follower, &step.entries, &login.role);
        if self.logins.retain(stays) {
            self.login_ended.store(true, Ordering::Release);
        }
    }

    pub(super) fn home(&self) -> Option<Place> {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timeout(&self, quick: bool) -> Duration {
        if quick { self.config.timeout } else { self.config.timeout * 6 }
    }

    pub(super) fn give_up(&self, place: Place, broken: &Broken) {
        match self.pool.is_well(place) {
            true => {
                tracing::warn!(hsm = %self.address(place), why = %broken, "an HSM of the fleet is not used for now")
            }
            false => {
                tracing::debug!(hsm = %self.address(place), why = %broken, "an HSM of the fleet is still not used")
            }
        }
        self.pool.failed(place, broken.to_string());
    }

    pub(super) fn address(&self, place: Place) -> String {
        self.config.hsms.get(place).map(ToString::to_string).unwrap_or_default()
    }

    fn broken(&self, place: Place, broken: &Broken) -> Error {
        ErrorKind::DeviceError.with(format!("{}: {broken}", self.address(place)))
    }

    /// No HSM is there, and why.
    fn nobody(&self) -> Error {
        let troubles: Vec<_> = (self.pool.standings().into_iter().enumerate())
            .map(|(place, standing)| {
                let why = standing.trouble.unwrap_or_else(|| "all its connections are in use".to_owned());
                format!("{}: {why}", self.address(place))
            })
            .collect();
        let region = &self.config.region;
        ErrorKind::DeviceError.with(format!("no HSM of the fleet {region} serves this host: {}", troubles.join("; ")))
    }
}

/// What to do after a reply.
enum Next<T> {
    Callback(crate::hsm::wire::Callback),
    Behind,
    Stale(u64, u64),
    Met(Met<T>),
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

/// Whether a connection was closed by the other end, in an orderly way or not.
fn is_closed(broken: &Broken) -> bool {
    use std::io::ErrorKind as Io;
    matches!(broken, Broken::Io(error) if matches!(
        error.kind(), Io::UnexpectedEof | Io::ConnectionReset | Io::BrokenPipe | Io::ConnectionAborted | Io::NotConnected
    ))
}

fn read_host_key(path: &Path, passphrase: Option<&Passphrase>) -> Result<HostKey> {
    let about =
        |what: &dyn std::fmt::Display| ErrorKind::DeviceError.with(format!("host key {}: {what}", path.display()));
    let pem = read_own(path)?;
    let passphrase = passphrase.map(|from| match from {
        Passphrase::File(path) => read_own(path),
        Passphrase::Env(name) => match std::env::var(name) {
            Ok(value) => Ok(Zeroizing::new(value.into_bytes())),
            Err(_) => Err(about(&format!("the environment has no variable {name} with its passphrase"))),
        },
    });
    let passphrase = passphrase.transpose()?;
    let line = passphrase.as_ref().map(|text| text.split(|byte| *byte == b'\n').next().unwrap_or_default());
    HostKey::from_pem(&pem, line).map_err(|error| about(&error))
}

/// Reads a file that only its user can read.
fn read_own(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    use std::os::unix::fs::MetadataExt;
    let about = |what: &str| ErrorKind::DeviceError.with(format!("host key {}: {what}", path.display()));
    let mode = std::fs::metadata(path).map_err(|error| about(&error.to_string()))?.mode();
    if mode & 0o077 != 0 {
        return Err(about(&format!("has mode {:03o}: others can read it; run chmod 600 on it", mode & 0o777)));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|error| about(&error.to_string()))
}

pub(super) fn unexpected() -> Error {
    ErrorKind::DeviceError.with("the HSM answered with another kind of answer")
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
