//! Who is logged in, and the domain that the login opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::command::{DomainToken, PinCost, PinRecord, Reply, Role, Ticket};
use super::{Access, Hsm};
use crate::error::{ErrorKind, Result};

/// The login of this instance. Reads cost two atomic loads.
#[derive(Default)]
pub(super) struct Login {
    /// Numbers of the tickets in force; 0 is none.
    user: AtomicU64,
    so: AtomicU64,
    opened: RwLock<Option<Arc<Opened>>>,
}

pub(super) struct Opened {}
impl Opened {
    pub(super) fn index_key(&self) -> &super::domain::IndexKey {
        unreachable!("nothing opens the domain yet")
    }
    pub(super) fn sealer(&self) -> Result<Arc<super::domain::Sealer>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn sealer_for(&self, _: &super::domain::KeyId) -> Result<Arc<super::domain::Sealer>> {
        Err(ErrorKind::FunctionNotSupported.into())
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
        let opened = self.login.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.clone().ok_or_else(|| ErrorKind::UserNotLoggedIn.into())
    }
    pub(super) fn found(&self, _: &str, _: &str, _: &[u8], _: PinCost) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn adopt(&self, _: &DomainToken) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn log_in(&self, _: &[u8], _: &PinRecord, _: &DomainToken) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn log_out(&self) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn check_pin(&self, _: &Ticket, _: &[u8], _: &PinRecord) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn init_pin(
        &self,
        _: &Ticket,
        _: Role,
        _: &[u8],
        _: Option<&PinRecord>,
        _: &[PinRecord],
        _: PinCost,
    ) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
    pub(super) fn set_pin(
        &self,
        _: &[u8],
        _: &[u8],
        _: &PinRecord,
        _: &[PinRecord],
        _: &DomainToken,
        _: PinCost,
    ) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
}
