//! Connections to an HSM of a fleet: what comes before a session, and the requests of one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::Hsm;
use super::super::auditing::AuditStatus;
use super::super::command::{DomainKeyId, Log, PinRecord, Reply, Ticket};
use super::super::core::Guest;
use super::super::crypto::Wiped;
use super::super::domain::{Opened, OwnKeys};
use super::super::session::{self, Code, Link, Peer, Refused};
use super::super::wire::{self, Callbacks, Description, Party};
use super::{Member, Visit};
use crate::error::Result;

/// The answer to a clear frame, ready for the wire.
pub struct Clear {
    pub bytes: Vec<u8>,
    pub then: Then,
    /// Why the HSM refused, for its own log.
    pub refused: Option<Refused>,
}

/// What becomes of the connection then.
pub enum Then {
    Close,
    KeepOpen,
    /// Frames of the link follow.
    Linked(Box<Connection>, Box<Link>),
    /// Clear frames with requests follow.
    Admin(Box<Connection>),
}

/// A connection that is with somebody.
pub struct Connection {
    member: Arc<Member>,
    visit: Arc<Visit>,
    /// None for an operator's.
    peer: Option<Session>,
}

struct Session {
    peer: Peer,
    /// The domain key that its EKT is sealed under.
    key: DomainKeyId,
    /// The version of the state that it was last compared with.
    checked: u64,
    /// The process secret was shown.
    greeted: bool,
}

/// The answer to a request.
pub struct Answer {
    pub message: Wiped,
    /// Nothing more is answered on this connection. An empty message is not sent then.
    pub close: bool,
}

impl Member {
    /// Answers a frame that came before a session, or in place of one; `admin`: by an operators' socket.
    pub fn clear(self: &Arc<Self>, frame: &[u8], admin: bool) -> Clear {
        match self.answer_clear(frame, admin) {
            Ok((bytes, then)) => Clear { bytes, then, refused: None },
            Err(refused) => {
                let then = if refused.code.keeps_connection() { Then::KeepOpen } else { Then::Close };
                Clear { bytes: refused.to_wire(), then, refused: Some(refused) }
            }
        }
    }

    fn answer_clear(self: &Arc<Self>, frame: &[u8], admin: bool) -> std::result::Result<(Vec<u8>, Then), Refused> {
        let status = || Ok((session::Reply::Status(self.status()?).to_wire()?, Then::KeepOpen));
        match session::Request::decode(frame)? {
            session::Request::Status => status(),
            session::Request::Bring { origin, newest, after, entries } => {
                let entries: Vec<Vec<u8>> = entries.into_iter().map(<[u8]>::to_vec).collect();
                self.bring(origin, newest, Log { after, entries: &entries })?;
                status()
            }
            session::Request::Negotiate(message) => {
                let (opened, own) = self.serving()?;
                let bytes = session::answer(&opened, own, &self.seen, message, self.core.clock.now())?;
                Ok((bytes, Then::KeepOpen))
            }
            session::Request::Connect { ekt, qc } => {
                let (opened, own) = self.serving()?;
                let (bytes, link, peer) = session::accept(&opened, own, ekt, &qc, self.core.clock.now())?;
                let guest = Guest { host: peer.host, process: peer.process };
                let visit = self.guests.enter(&self.core, self.settings, guest, &peer.host_name)?;
                let (key, checked) = (*opened.sealer().key_id(), peer.state_version);
                let session = Session { peer, key, checked, greeted: false };
                Ok((bytes, Then::Linked(Box::new(Connection::new(self, visit, Some(session))), Box::new(link))))
            }
            session::Request::Admin if admin => {
                let visit = Arc::clone(&self.admin);
                Ok((session::Reply::Admin.to_wire()?, Then::Admin(Box::new(Connection::new(self, visit, None)))))
            }
            session::Request::Admin => Err(Refused::new(Code::Refused, "this is no operators' socket")),
        }
    }

    /// CKR_TOKEN_NOT_RECOGNIZED for what is no member.
    fn serving(&self) -> std::result::Result<(Arc<Opened>, &Arc<OwnKeys>), Refused> {
        let not_member = || Refused::new(Code::NotMember, "this HSM is not a member of a domain");
        Ok((self.core.opened().map_err(|_| not_member())?, self.own()?))
    }
}

impl Connection {
    fn new(member: &Arc<Member>, visit: Arc<Visit>, peer: Option<Session>) -> Self {
        visit.connections.fetch_add(1, Ordering::Relaxed);
        Self { member: Arc::clone(member), visit, peer }
    }

    /// The host's id and name; None for an operator's connection.
    pub fn host(&self) -> Option<([u8; 16], &str)> {
        self.peer.as_ref().map(|session| (session.peer.host, session.peer.host_name.as_str()))
    }

    /// The end of its session, in seconds since 1970.
    pub fn valid_until(&self) -> Option<u64> {
        self.peer.as_ref().map(|session| session.peer.valid_until)
    }

    /// Executes one request; the first of a session is the process secret.
    pub fn request(&mut self, message: &[u8], callbacks: &mut dyn Callbacks) -> Answer {
        let closed = || Answer { message: Wiped::default(), close: true };
        if let Some(session) = &mut self.peer {
            if !session.greeted {
                let shown: [u8; 32] = Sha256::digest(message).into();
                if !bool::from(shown.ct_eq(&session.peer.process)) {
                    tracing::warn!(host = session.peer.host_name, "a connection was refused: not that process");
                    return closed();
                }
                session.greeted = true;
                return Answer { message: Wiped::zeros(1), close: false };
            }
            if let Err(refused) = self.member.check(session) {
                tracing::info!(host = session.peer.host_name, why = %refused, "a connection is over");
                return closed();
            }
        }
        let serving = Serving { member: &self.member, visit: &self.visit, peer: self.peer.as_ref().map(|s| &s.peer) };
        let mut out = Wiped::default();
        match wire::serve_request(&serving, &self.visit.streams, message, callbacks, &mut out) {
            Ok(()) => Answer { message: out, close: false },
            Err(error) => {
                tracing::info!(%error, "a connection is closed: its request was not understood, or broke off");
                closed()
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.visit.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Member {
    /// Whether a session still counts. Its parties are compared with the state when that has moved.
    fn check(&self, session: &mut Session) -> std::result::Result<(), Refused> {
        let now = self.core.clock.now();
        let held = self.core.held();
        let Some(opened) = &held.opened else {
            return Err(Refused::new(Code::NotMember, "this HSM is not a member of the domain"));
        };
        if session.checked != opened.state().version {
            if session.key != *opened.sealer().key_id() {
                return Err(Refused::new(Code::Expired, "the session is under an older domain key"));
            }
            session.peer.check(opened.state(), now)?;
            session.checked = opened.state().version;
        }
        if session.peer.valid_until <= now {
            return Err(Refused::new(Code::Expired, "the session is over"));
        }
        Ok(())
    }
}

/// The HSM as one connection's requests see it.
pub(super) struct Serving<'a> {
    member: &'a Member,
    visit: &'a Visit,
    peer: Option<&'a Peer>,
}

impl Party for Serving<'_> {
    fn view(&self, ticket: &Ticket) -> Result<Arc<Hsm>> {
        self.visit.view(&self.member.core, self.member.settings, ticket)
    }

    fn held(&self) -> (u64, [u8; 48]) {
        let held = self.member.core.held();
        held.public.as_ref().map_or((0, [0; 48]), |public| (public.state().version, *public.hash()))
    }

    fn told(&self) -> (u64, u64) {
        let told = self.member.told();
        (told.stamp, told.heard)
    }

    fn announced(&self, stamp: u64) {
        self.member.announced(stamp);
    }

    fn audit(&self) -> AuditStatus {
        self.visit.client.recorder.status()
    }

    fn logged_in(&self, ticket: &Ticket) {
        self.visit.log_in(&self.member.core, self.member.settings, ticket);
    }

    fn logged_out(&self, ticket: &Ticket) {
        self.visit.log_out(ticket);
    }

    fn bring(&self, origin: &[u8], newest: &[u8], log: Log<'_>) -> Result<Reply> {
        self.member.bring(origin, newest, log).map(Reply::Domain)
    }

    fn renew(&self, ticket: &Ticket, record: &PinRecord) -> Result<Ticket> {
        let own = self.member.own()?;
        self.visit.renew(&self.member.core, (self.member.settings, own), ticket, record)
    }

    fn describe(&self) -> Description {
        let (version, _) = self.held();
        Description {
            hsm: self.member.id().unwrap_or_default(),
            name: self.member.core.name.clone(),
            version,
            valid_until: self.peer.map_or(u64::MAX, |peer| peer.valid_until),
        }
    }
}
