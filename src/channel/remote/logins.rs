//! Who is logged in, and the ticket that says so at the moment. The ticket that a login began with is its
//! name above this module; what HSMs are shown is the newest that one of them gave for it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::hsm::{Role, Ticket};

/// After this long a ticket that was refused may have been too old; before, the refusal stands.
const FRESH: Duration = Duration::from_secs(1);

/// A login of this process.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) role: Role,
    /// What HSMs are shown.
    pub(super) ticket: Ticket,
    /// When it was given, and by an HSM with which version of the domain.
    given: SystemTime,
    version: u64,
    name: Ticket,
}

#[derive(Default)]
pub(super) struct Logins(RwLock<Vec<Arc<Login>>>);

impl Logins {
    /// A login that an HSM has just granted.
    pub(super) fn begin(&self, role: Role, ticket: &Ticket, version: u64) {
        let login = Login { role, ticket: ticket.clone(), given: SystemTime::now(), version, name: ticket.clone() };
        self.write().push(Arc::new(login));
    }

    /// The login of that name; None for nobody's, and for one that has ended.
    pub(super) fn get(&self, name: &Ticket) -> Option<Arc<Login>> {
        if name.is_public() {
            return None;
        }
        self.read().iter().find(|login| login.name == *name).cloned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// What HSMs are to be shown in the place of a name.
    pub(super) fn shown(&self, name: &Ticket) -> Ticket {
        self.get(name).map_or_else(|| name.clone(), |login| login.ticket.clone())
    }

    /// A new ticket in the place of `login`'s.
    pub(super) fn renew(&self, login: &Login, ticket: Ticket, version: u64) {
        let renewed = Login { ticket, given: SystemTime::now(), version, ..login.clone() };
        if let Some(place) = self.write().iter_mut().find(|held| held.name == renewed.name) {
            *place = Arc::new(renewed);
        }
    }

    /// Ends all logins; they are what was.
    pub(super) fn end_all(&self) -> Vec<Arc<Login>> {
        std::mem::take(&mut *self.write())
    }

    /// Ends those that are not to stay. Whether there were any.
    pub(super) fn retain(&self, stays: impl Fn(&Login) -> bool) -> bool {
        let mut logins = self.write();
        let before = logins.len();
        logins.retain(|login| stays(login));
        logins.len() != before
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Login>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Login>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Login {
    /// Whether a refusal by an HSM with this version of the domain may be for the ticket's age alone.
    pub(super) fn may_be_old(&self, version: u64) -> bool {
        // A ticket ages by the clock, which a machine that slept finds advanced.
        version != self.version || self.given.elapsed().map_or(true, |age| age >= FRESH)
    }
}
