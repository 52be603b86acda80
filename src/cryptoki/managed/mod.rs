//! Managed keys as the host sees them: which records a command needs, what is committed of its
//! answer, and what time demands. What may be done is decided below the HSM boundary.

mod change;
mod due;
mod envelope;
mod held;
mod import;
mod operation;
mod query;
mod replicate;
mod request;
mod resolve;

use std::sync::Arc;
use std::time::SystemTime;

pub use due::DueReport;
pub use envelope::{DataKey, DataKeyPair};
pub use import::ImportParameters;
pub use query::KeyQuery;
pub use replicate::{Pending, longest_answer, longest_offer};

pub(super) use held::HeldKey;
pub(super) use operation::{begin as begin_envelope, rotate_if_due, wrapping_version};
pub(super) use resolve::References;

use super::login::{Credentials, Holder};
use super::token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{Command, Reply};

/// The prefix of an alias.
pub(super) const ALIAS: &str = "alias/";

/// The time, in seconds since 1970. The HSM has its own, which decides.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Credentials {
    /// CKR_USER_NOT_LOGGED_IN for nobody.
    fn require_login(&self) -> Result<()> {
        if self.holder.is_none() {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        Ok(())
    }

    /// CKR_USER_NOT_LOGGED_IN also for the SO, who uses no keys.
    fn require_user(&self) -> Result<()> {
        if !matches!(self.holder, Some(Holder::User(_))) {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        Ok(())
    }
}

impl Token {
    /// Sends a command about a managed key in the name of a login, with its audit record.
    fn ask(self: &Arc<Self>, login: &Credentials, command: Command<'_>) -> Result<Reply> {
        self.audited(true, || self.channel.call(&login.ticket, command))
    }
}

/// The HSM's answer is of another kind than the command's.
fn unexpected() -> Error {
    ErrorKind::GeneralError.with("the HSM answered a command about a managed key with something else")
}
