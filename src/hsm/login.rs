//! Who is logged in, and the domain that the login opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use super::command::{DomainToken, ObjectId, PinCost, PinRecord, Reply, Role, Ticket};
use super::domain::{self, Circumstances, Opened, PublicState, State};
use super::{Access, Hsm, random};
use crate::error::{ErrorKind, Result};

/// The login of this instance. Reads of who it is cost two atomic loads.
#[derive(Default)]
pub(super) struct Login {
    /// Numbers of the tickets in force; 0 is none.
    user: AtomicU64,
    so: AtomicU64,
    domain: RwLock<Held>,
}

/// The domain as this instance holds it.
#[derive(Default)]
struct Held {
    public: Option<Arc<PublicState>>,
    /// There while somebody is logged in.
    opened: Option<Arc<Opened>>,
}

impl Held {
    /// The state of a token, verified against the one held.
    fn take(&self, token: &DomainToken) -> Result<Arc<PublicState>> {
        match &self.public {
            Some(held) => held.adopt(token),
            None => PublicState::first_seen(token),
        }
    }
}

impl Hsm {
    /// What the ticket allows. One that was ended by a logout allows what nobody's does.
    pub(super) fn access(&self, ticket: &Ticket) -> Access {
        let Some(number) = ticket.0.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)) else {
            return Access::Public;
        };
        if number == 0 {
            Access::Public
        } else if number == self.login.user.load(Ordering::Acquire) {
            Access::User
        } else if number == self.login.so.load(Ordering::Acquire) {
            Access::So
        } else {
            Access::Public
        }
    }

    /// The open domain; CKR_USER_NOT_LOGGED_IN if nobody opened it.
    pub(super) fn opened(&self) -> Result<Arc<Opened>> {
        let held = self.login.domain.read().unwrap_or_else(PoisonError::into_inner);
        held.opened.clone().ok_or_else(|| ErrorKind::UserNotLoggedIn.into())
    }

    pub(super) fn found(&self, label: &str, serial: &str, so_pin: &[u8], cost: PinCost) -> Result<Reply> {
        let (_, domain, so_pin) = Opened::found(label, serial, so_pin, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Founded { domain, so_pin })
    }

    pub(super) fn adopt(&self, token: &DomainToken) -> Result<Reply> {
        let mut held = self.held();
        let public = held.take(token)?;
        if let Some(opened) = &held.opened {
            held.opened = Some(Arc::new(opened.advance(Arc::clone(&public))?));
        }
        let newer = held.public.as_ref().is_some_and(|old| old.hash() != public.hash());
        held.public = Some(public);
        drop(held);
        // What a newer state revokes, retires or trusts no more is looked at again.
        if newer {
            self.cache.clear();
        }
        Ok(Reply::Done)
    }

    /// Whether operators govern the domain, as far as this instance knows.
    pub(super) fn is_founded(&self) -> bool {
        self.with_public(|state| state.log_head.is_some()).unwrap_or_default()
    }

    /// CKA_TRUSTED of an object of a founded domain; None where its record says so itself.
    pub(super) fn operators_trust(&self, object: &ObjectId) -> Option<bool> {
        self.with_public(|state| state.log_head.map(|_| state.trusted_keys.contains(object))).flatten()
    }

    fn with_public<T>(&self, look: impl FnOnce(&State) -> T) -> Option<T> {
        let held = self.login.domain.read().unwrap_or_else(PoisonError::into_inner);
        held.public.as_ref().map(|public| look(public.state()))
    }

    /// Opens the domain with a PIN. The hash is computed under no lock.
    pub(super) fn log_in(&self, pin: &[u8], record: &PinRecord, token: &DomainToken) -> Result<Reply> {
        let public = self.held().take(token)?;
        let mut opened = Opened::with_pin(&public, record, pin)?;
        let number = random::array()?;
        let mut held = self.held();
        // Another thread may have brought the state forward meanwhile.
        match &held.public {
            Some(newer) if newer.state().version > public.state().version => {
                opened = opened.advance(Arc::clone(newer))?;
            }
            _ => held.public = Some(public),
        }
        held.opened = Some(Arc::new(opened));
        let (mine, other) = match record.role {
            Role::So => (&self.login.so, &self.login.user),
            Role::User | Role::Named(_) => (&self.login.user, &self.login.so),
        };
        other.store(0, Ordering::Release);
        mine.store(u64::from_ne_bytes(number), Ordering::Release);
        // What was read without verification is opened anew.
        self.cache.clear();
        Ok(Reply::LoggedIn(Ticket(Arc::from(number))))
    }

    /// Wipes what the login opened.
    pub(super) fn log_out(&self) -> Result<Reply> {
        let mut held = self.held();
        self.login.user.store(0, Ordering::Release);
        self.login.so.store(0, Ordering::Release);
        let opened = held.opened.take();
        self.cache.clear();
        drop(held);
        drop(opened);
        Ok(Reply::Done)
    }

    /// CKU_CONTEXT_SPECIFIC: the PIN of whoever is logged in, once more.
    pub(super) fn check_pin(&self, ticket: &Ticket, pin: &[u8], record: &PinRecord) -> Result<Reply> {
        if self.access(ticket) == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        let opened = self.opened()?;
        domain::check_pin(opened.public(), record, pin)?;
        Ok(Reply::Done)
    }

    /// The SO gives a role a PIN.
    pub(super) fn init_pin(&self, ticket: &Ticket, role: &Role, pin: &[u8], cost: PinCost) -> Result<Reply> {
        if self.access(ticket) != Access::So {
            return Err(ErrorKind::UserNotLoggedIn.with("the SO sets the PINs of others"));
        }
        let (_, change) = self.opened()?.change_pin(role, pin, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Changed(change))
    }

    /// The holder of a PIN changes it, logged in or not.
    pub(super) fn set_pin(
        &self,
        old: &[u8],
        new: &[u8],
        record: &PinRecord,
        token: &DomainToken,
        cost: PinCost,
    ) -> Result<Reply> {
        let public = self.held().take(token)?;
        let opened = Opened::with_pin(&public, record, old)?;
        let (_, change) = opened.change_pin(&record.role, new, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Changed(change))
    }

    fn held(&self) -> RwLockWriteGuard<'_, Held> {
        self.login.domain.write().unwrap_or_else(PoisonError::into_inner)
    }
}
