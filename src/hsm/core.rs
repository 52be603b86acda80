//! What an HSM holds: its domain, with what it opened under it, and what it keeps for one process that
//! uses it. The embedded HSM has one of each; an HSM of a fleet keeps the first for all hosts, the
//! second for each of their processes.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::approvals::Approvals;
use super::auditing::{AuditMode, Recorder};
use super::cache::Cache;
use super::command::{DomainKeyId, DomainToken, Log, Role};
use super::domain::{Circumstances, Opened, OwnKeys, PublicState};
use super::member::Pins;
use super::permit::{Clock, Expiries};
use super::quota::Quota;
use super::replicating::Exchanges;
use super::transient::Transient;
use crate::error::{ErrorKind, Result};

/// What the opened token objects of an HSM of a fleet may take in memory, in bytes.
const CACHED: usize = 128 << 20;

/// The domain as an HSM holds it.
#[derive(Default)]
pub(super) struct Held {
    pub(super) public: Option<Arc<PublicState>>,
    /// There while the domain is open: in an embedded HSM while somebody is logged in, in a fleet's
    /// while it is a member.
    pub(super) opened: Option<Arc<Opened>>,
    /// Who is logged in to an embedded HSM.
    pub(super) role: Option<Role>,
    /// The role's name as a principal.
    pub(super) principal: Option<Arc<str>>,
}

impl Held {
    /// The state of a token, verified against the one held.
    pub(super) fn take(&self, token: &DomainToken, log: Log<'_>) -> Result<Arc<PublicState>> {
        let now = Circumstances::of_system().now;
        match &self.public {
            Some(held) => held.adopt_logged(token, log.since(held.state().version), now),
            None => PublicState::first_seen(token),
        }
    }
}

/// What all who use an HSM share.
#[derive(Default)]
pub(super) struct Core {
    domain: RwLock<Held>,
    /// Opened token objects; in an embedded HSM session objects too.
    pub(super) cache: Cache,
    pub(super) clock: Clock,
    /// Of an HSM of a fleet, for its figures.
    pub(super) expiries: Expiries,
    /// An HSM of a fleet, with its own keys.
    pub(super) own: Option<Arc<OwnKeys>>,
    /// Of an HSM of a fleet, for people.
    pub(super) name: String,
    /// Of a fleet.
    pub(super) pins: Pins,
    /// Domain keys that an HSM which was expelled knew, or may have known.
    exposed: RwLock<HashSet<DomainKeyId>>,
}

impl Core {
    pub(super) fn of_member(own: Arc<OwnKeys>, name: &str) -> Self {
        let cache = Cache::within(Quota::new(CACHED));
        Self { own: Some(own), name: name.to_owned(), cache, ..Self::default() }
    }

    pub(super) fn is_member_of_fleet(&self) -> bool {
        self.own.is_some()
    }

    pub(super) fn is_exposed(&self, key: &DomainKeyId) -> bool {
        self.exposed.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    pub(super) fn expose(&self, keys: impl Iterator<Item = DomainKeyId>) {
        self.exposed.write().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }

    pub(super) fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.domain.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held_mut(&self) -> RwLockWriteGuard<'_, Held> {
        self.domain.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open domain; CKR_USER_NOT_LOGGED_IN if nobody opened it.
    pub(super) fn opened(&self) -> Result<Arc<Opened>> {
        self.held().opened.clone().ok_or_else(|| ErrorKind::UserNotLoggedIn.into())
    }

    /// The state held.
    pub(super) fn public(&self) -> Result<Arc<PublicState>> {
        self.held().public.clone().ok_or_else(|| ErrorKind::TokenNotRecognized.with("the HSM holds no domain yet"))
    }
}

/// Which process uses an HSM of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Guest {
    /// The host's id in the domain.
    pub(super) host: [u8; 16],
    /// SHA-256 of the process's secret.
    pub(super) process: [u8; 32],
}

/// What an HSM keeps for one process that uses it; gone with the HSM.
pub(super) struct Client {
    /// None in an embedded HSM.
    pub(super) guest: Option<Guest>,
    /// A guest's host, as the domain's state names it.
    pub(super) host: String,
    /// Seals the session objects of an embedded HSM.
    pub(super) transient: Transient,
    pub(super) recorder: Arc<Recorder>,
    pub(super) approvals: Arc<Approvals>,
    pub(super) exchanges: Exchanges,
    /// A guest's opened session objects, which nobody else may open.
    pub(super) cache: Cache,
}

impl Client {
    /// `cache` is for a guest's session objects.
    pub(super) fn new(guest: Option<Guest>, host: &str, audit: AuditMode, cache: Cache) -> Result<Self> {
        Ok(Self {
            guest,
            host: host.to_owned(),
            transient: Transient::new()?,
            recorder: Arc::new(Recorder::new(audit)),
            approvals: Arc::new(Approvals::new()?),
            exchanges: Exchanges::default(),
            cache,
        })
    }
}
