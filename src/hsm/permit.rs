//! The one gate that every use of a managed key goes through, and the record of what went through it.
//!
//! A command about a managed key opens its record, asks [`Hsm::permit`], does what was asked, and
//! tells [`Hsm::record`] how it ended; also a refusal is recorded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::audit;
use super::domain::Circumstances;
use super::managed::{Action, CKA_KMS_KEY_ID, CKA_KMS_VALID_TO, Context, Refused, is_managed, policy, states};
use super::value::Attributes;
use super::{Access, Hsm, Reply};
use crate::error::{ErrorKind, Result};

/// The time, which never goes back inside an instance.
#[derive(Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// Seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        let now = Circumstances::of_system().now;
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Goes on by so many days.
    #[cfg(test)]
    pub(super) fn pass_days(&self, days: u64) {
        self.0.store(self.now() + days * 86_400, Ordering::Relaxed);
    }
}

/// When imported key material ends that was used lately, by key id.
#[derive(Default)]
pub(super) struct Expiries(Mutex<HashMap<Vec<u8>, u64>>);

impl Expiries {
    /// More keys than these are not watched.
    const MOST: usize = 4096;

    fn saw(&self, key: &Attributes) {
        let Some(end) = key.ulong(CKA_KMS_VALID_TO).filter(|end| *end != 0) else { return };
        let id = key.bytes(CKA_KMS_KEY_ID).unwrap_or_default();
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ends.get_mut(id) {
            *known = end;
        } else if ends.len() < Self::MOST {
            ends.insert(id.to_vec(), end);
        }
    }

    /// The soonest that is still to come, in seconds since 1970.
    pub(super) fn soonest(&self, now: u64) -> Option<u64> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|_, end| *end > now);
        ends.values().min().copied()
    }
}

/// What is recorded of a call, besides who made it and how it ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recorded<'a> {
    pub(super) action: audit::Action,
    /// The managed key; None where there is none, as of a creation that was refused.
    pub(super) key: Option<&'a Attributes>,
    /// What else the call was about: an alias, a grant, a user, the id of another key.
    pub(super) target: Option<&'a str>,
    pub(super) context: Option<&'a Context<'a>>,
}

impl<'a> Recorded<'a> {
    pub(super) fn of(action: audit::Action, key: &'a Attributes) -> Self {
        Self { action, key: Some(key), target: None, context: None }
    }
}

impl Hsm {
    pub(super) fn now(&self) -> u64 {
        self.core.clock.now()
    }

    /// Who is logged in: "so", "user" or "user:NAME". CKR_USER_NOT_LOGGED_IN for nobody.
    pub(super) fn principal(&self) -> Result<Arc<str>> {
        self.logged_in().ok_or_else(|| ErrorKind::UserNotLoggedIn.into())
    }

    /// Whether an action with a key is allowed now: by the key's state and usage, then by its policy.
    /// An ordinary key has neither.
    pub(super) fn permit(
        &self,
        access: Access,
        key: &Attributes,
        action: Action,
        context: Option<&Context<'_>>,
    ) -> std::result::Result<(), Refused> {
        if !is_managed(key) {
            return Ok(());
        }
        if self.core.is_member_of_fleet() {
            self.core.expiries.saw(key);
        }
        states::check(key, action, self.now())?;
        let principal = match access {
            Access::Public => None,
            Access::User | Access::So => self.logged_in(),
        };
        policy::authorise(key, principal.as_deref().unwrap_or_default(), action, context)
    }

    /// The outcome, once it is recorded: a success that cannot be recorded is none.
    pub(super) fn recorded<T>(&self, what: &Recorded<'_>, outcome: Result<T>) -> Result<T> {
        let recorded = self.record(what, &outcome);
        outcome.and_then(|done| recorded.map(|()| done))
    }

    /// The same for a command with a key that may be under dual control: one that waits for an approval
    /// has not ended.
    pub(super) fn recorded_reply(&self, what: &Recorded<'_>, outcome: Result<Reply>) -> Result<Reply> {
        if matches!(outcome, Ok(Reply::ApprovalWanted(_))) { outcome } else { self.recorded(what, outcome) }
    }

    /// Records a call about a managed key in the name of whoever is logged in.
    pub(super) fn record<T>(&self, what: &Recorded<'_>, outcome: &Result<T>) -> Result<()> {
        if what.key.is_some_and(|key| !is_managed(key)) {
            return Ok(());
        }
        let principal = self.logged_in();
        self.client.recorder.record(principal.as_deref().unwrap_or_default(), what, outcome)
    }
}
