//! How a connection with an HSM is made: the session of this process, which all HSMs take, and what goes
//! before a link.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::asking::REPEATS;
use super::connection::{Broken, Clear, Connection, Handshake};
use super::domain::Known;
use super::fleet::{Fleet, now};
use super::operation::Stream;
use super::pool::{Lease, Place};
use super::telling;
use crate::config::{self, Passphrase};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::Ticket;
use crate::hsm::session::{self, Code, HostKey, HsmId, Session};
use crate::hsm::wire::Request;

/// A session key is asked for so many seconds; the domain's limit may be less.
const LIFETIME: u64 = 3600;
/// An idle connection is looked at before it is used again after so long.
const IDLE: Duration = Duration::from_secs(1);
/// How long a step of a handshake may take, and the whole of it.
const HANDSHAKE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));
/// How long the others wait for one that negotiates a session.
const ALONE: Duration = Duration::from_millis(500);
/// How many operations are remembered that an HSM is still to be told the end of.
const ABANDONED: usize = 1024;

/// A place at an HSM, and a connection there.
pub(super) type Leased<'p> = (Lease<'p, Connection>, Connection);

/// The session of this process.
#[derive(Default)]
pub(super) struct Negotiated {
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

/// How long that of a request may take.
pub(super) fn handshake() -> Handshake {
    let (step, whole) = HANDSHAKE;
    Handshake::new(step, whole)
}

impl Fleet {
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

    /// Gives an HSM the domain before there is a link.
    fn bring(&self, clear: &mut Clear, known: &Known, version: u64) -> std::result::Result<session::Status, Broken> {
        let (after, entries) = self.domain.entries_after(known, version)?;
        let entries = entries.iter().map(Vec::as_slice).collect();
        let bring = session::Request::Bring { origin: &known.origin.bytes, newest: &known.token.bytes, after, entries };
        clear.tell(&bring.to_wire()?)
    }

    /// The session of this process: a new one is negotiated with this HSM if there is none, or not for
    /// long. While another thread does so it is waited for, but not for an HSM that is silent.
    fn session(&self, clear: &mut Clear, known: &Known, hsm: HsmId) -> std::result::Result<Arc<Session>, Broken> {
        let alone = ALONE.min(clear.left()?);
        let mut state = self.negotiating();
        let begun = Instant::now();
        loop {
            if let Some(session) = state.good(known) {
                return Ok(session);
            }
            let left = state.since.map_or(Duration::ZERO, |since| alone.saturating_sub(since.elapsed()));
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

    pub(super) fn drop_session(&self) {
        self.negotiating().kept = None;
    }

    /// When the session is over, seconds since 1970.
    pub(super) fn valid_until(&self) -> Option<u64> {
        self.negotiating().kept.as_ref().map(|kept| kept.session.valid_until())
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

    /// An operation's end that its HSM has not heard of, as far as is known.
    pub(super) fn abandon(&self, stream: Stream) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        if abandoned.len() >= ABANDONED {
            abandoned.pop_front();
        }
        abandoned.push_back(stream);
    }

    /// Ends what an HSM has not heard the end of, over a new connection: an old one was there before.
    pub(super) fn end_abandoned<'p>(
        &self,
        place: Place,
        (mut leased, used): (Leased<'p>, bool),
    ) -> std::result::Result<(Leased<'p>, bool), Broken> {
        if used {
            return Ok((leased, used));
        }
        let mut there: VecDeque<Stream> = {
            let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
            let (there, elsewhere) = abandoned.drain(..).partition(|stream| stream.place == place);
            *abandoned = elsewhere;
            there
        };
        let connection = &mut leased.1;
        let hsm = connection.hsm;
        // What another HSM there had is gone with it.
        there.retain(|stream| stream.hsm == hsm);
        while let Some(stream) = there.front() {
            let end = Request::End { stream: stream.id };
            if let Err(broken) = self.plain(connection, &telling::header(Ticket::public()), &end, self.config.timeout) {
                self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).extend(there);
                return Err(broken);
            }
            there.pop_front();
        }
        Ok((leased, used))
    }
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
