//! Who is logged in, and the domain that the login opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::command::{DomainToken, DomainView, Log, ObjectId, PinCost, PinRecord, Reply, Role, Ticket};
use super::domain::{self, Circumstances, Opened, PublicState, State};
use super::{Access, Hsm, random};
use crate::error::{ErrorKind, Result};

/// Who a view of an HSM belongs to. Reads of who it is cost two atomic loads.
#[derive(Default)]
pub(super) struct Login {
    /// Numbers of the tickets in force at an embedded HSM; 0 is none.
    user: AtomicU64,
    so: AtomicU64,
    /// Of a fleet's HSM: the one login that this is the view of.
    seat: Option<Seat>,
}

/// A login at an HSM of a fleet, whose ticket was verified.
pub(super) struct Seat {
    /// As the host shows it.
    pub(super) ticket: Ticket,
    pub(super) role: Role,
    pub(super) principal: Arc<str>,
}

impl Login {
    pub(super) fn seated(seat: Option<Seat>) -> Self {
        Self { seat, ..Self::default() }
    }
}

impl Hsm {
    /// What the ticket allows. One that was ended by a logout allows what nobody's does.
    pub(super) fn access(&self, ticket: &Ticket) -> Access {
        if let Some(seat) = &self.login.seat {
            return match &seat.role {
                _ if seat.ticket != *ticket => Access::Public,
                Role::So => Access::So,
                Role::User | Role::Named(_) => Access::User,
            };
        }
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

    /// Who is logged in.
    pub(super) fn logged_in(&self) -> Option<Arc<str>> {
        if self.core.is_member_of_fleet() {
            return self.login.seat.as_ref().map(|seat| Arc::clone(&seat.principal));
        }
        let held = self.core.held();
        held.opened.as_ref().and_then(|_| held.principal.clone())
    }

    /// The open domain; CKR_USER_NOT_LOGGED_IN if nobody opened it.
    pub(super) fn opened(&self) -> Result<Arc<Opened>> {
        self.core.opened()
    }

    /// Does something while nobody can log out; CKR_USER_NOT_LOGGED_IN if somebody has.
    pub(super) fn while_opened<T>(&self, act: impl FnOnce() -> T) -> Result<T> {
        let held = self.core.held();
        if held.opened.is_none() {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        Ok(act())
    }

    pub(super) fn found(&self, label: &str, serial: &str, so_pin: &[u8], cost: PinCost) -> Result<Reply> {
        let (_, domain, so_pin) = Opened::found(label, serial, so_pin, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Founded { domain, so_pin })
    }

    /// The state held.
    pub(super) fn public(&self) -> Result<Arc<PublicState>> {
        self.core.public()
    }

    /// Takes a newer state. The login goes on in it, unless the state took its holder's PIN away.
    pub(super) fn adopt(&self, token: &DomainToken, log: Log<'_>) -> Result<Reply> {
        let mut held = self.core.held_mut();
        let public = held.take(token, log)?;
        if held.public.as_ref().is_some_and(|before| before.hash() == public.hash()) {
            return Ok(Reply::Domain(DomainView::of(&public, false)));
        }
        let mut ended = None;
        if let Some(opened) = &held.opened {
            // A PIN that was ended and set anew since is another's.
            let since = log.since(opened.state().version);
            let stays = held.role.as_ref().filter(|role| !domain::ends_pin(since, role));
            let stays = stays.filter(|role| is_same_user(role, opened.state(), public.state()));
            let stays = stays.and_then(|role| public.state().user(role));
            match opened.advance(Arc::clone(&public)) {
                Ok(newer) if stays.is_some_and(|user| user.agreement.is_some()) => held.opened = Some(Arc::new(newer)),
                Ok(_) => ended = held.opened.take(),
                Err(error) => {
                    tracing::warn!(%error, "the login ends: this HSM cannot open the newer state");
                    ended = held.opened.take();
                }
            }
        }
        self.client.approvals.governed_by(&public.state().governance());
        let view = DomainView::of(&public, ended.is_some());
        held.public = Some(public);
        if ended.is_some() {
            self.forget_tickets();
            self.client.exchanges.forget();
        }
        // What was opened may be trusted no longer, or revoked.
        self.core.cache.clear();
        drop(held);
        drop(ended);
        Ok(Reply::Domain(view))
    }

    fn forget_tickets(&self) {
        self.login.user.store(0, Ordering::Release);
        self.login.so.store(0, Ordering::Release);
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
        self.core.held().public.as_ref().map(|public| look(public.state()))
    }

    /// Opens the domain with a PIN. The hash is computed under no lock.
    pub(super) fn log_in(&self, pin: &[u8], record: &PinRecord, token: &DomainToken, log: Log<'_>) -> Result<Reply> {
        let public = self.core.held_mut().take(token, log)?;
        let mut opened = Opened::with_pin(&public, record, pin)?;
        let number = random::array()?;
        let mut held = self.core.held_mut();
        // Another thread may have brought the state forward meanwhile.
        match &held.public {
            Some(newer) if newer.state().version > public.state().version => {
                let named = |state: &State| state.user(&record.role).map(|user| (user.generation, user.agreement));
                if named(newer.state()) != named(public.state()) {
                    return Err(ErrorKind::FunctionFailed.with("the PIN was changed meanwhile"));
                }
                opened = opened.advance(Arc::clone(newer))?;
            }
            _ => {
                self.client.approvals.governed_by(&public.state().governance());
                held.public = Some(public);
            }
        }
        held.opened = Some(Arc::new(opened));
        held.role = Some(record.role.clone());
        held.principal = Some(record.role.principal());
        let (mine, other) = match record.role {
            Role::So => (&self.login.so, &self.login.user),
            Role::User | Role::Named(_) => (&self.login.user, &self.login.so),
        };
        other.store(0, Ordering::Release);
        mine.store(u64::from_ne_bytes(number), Ordering::Release);
        // What was read without verification is opened anew.
        self.core.cache.clear();
        Ok(Reply::LoggedIn(Ticket(Arc::from(number))))
    }

    /// Wipes what the login opened.
    pub(super) fn log_out(&self) -> Result<Reply> {
        let mut held = self.core.held_mut();
        self.forget_tickets();
        let opened = held.opened.take();
        self.client.recorder.forget();
        self.client.exchanges.forget();
        self.core.cache.clear();
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
        let opened = self.opened()?;
        let state = opened.state();
        let enrolment = state.user(role).and_then(|user| user.enrolment.as_ref());
        if state.log_head.is_some() && enrolment.is_none_or(|enrolment| enrolment.code.is_some()) {
            let why = "the domain is governed by its operators: \"reset PIN\" or \"create user\" is a command";
            return Err(ErrorKind::TokenWriteProtected.with(why));
        }
        let (_, change) = opened.change_pin(role, pin, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Changed(change))
    }

    /// The holder of a PIN changes it, logged in or not.
    pub(super) fn set_pin(
        &self,
        (old, new): (&[u8], &[u8]),
        record: &PinRecord,
        (token, log): (&DomainToken, Log<'_>),
        cost: PinCost,
    ) -> Result<Reply> {
        let public = self.core.held_mut().take(token, log)?;
        let opened = Opened::with_pin(&public, record, old)?;
        let (_, change) = opened.change_pin(&record.role, new, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Changed(change))
    }
}

/// Whether a user of a later state is the one of an earlier, not another who was given the name of
/// one that was removed: a PIN is changed at most once in each version.
pub(super) fn is_same_user(role: &Role, earlier: &State, later: &State) -> bool {
    let generation = |state: &State| state.user(role).map(|user| user.generation);
    let changes = generation(later).zip(generation(earlier)).and_then(|(now, then)| now.checked_sub(then));
    changes.is_some_and(|changes| changes <= later.version.saturating_sub(earlier.version))
}
