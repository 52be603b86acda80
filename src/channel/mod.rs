//! How the host reaches an HSM: one trait, an implementation in process and one over sockets.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::hsm::{AuditMode, AuditStatus, Command, Function, Mechanism, Operation, Params, Record, Reply, Ticket};

mod in_process;
#[cfg(feature = "fleet")]
mod remote;

pub use in_process::InProcess;
#[cfg(feature = "fleet")]
pub use remote::Remote;

thread_local! {
    static READ_UP_TO: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Notes that what this thread reads from now on of a token's store, it reads at this stamp
/// ([`crate::store::Store::stamp`]) or a later one.
pub fn reads_from(stamp: u64) {
    READ_UP_TO.set(Some(stamp));
}

/// What was noted last in this thread.
#[cfg(feature = "fleet")]
fn read_up_to() -> Option<u64> {
    READ_UP_TO.get()
}

/// A way to an HSM of one domain.
pub trait Channel: Send + Sync {
    /// Whether an HSM may have looked at the PIN of a login that failed so.
    fn looked_at_pin(&self, _error: &Error) -> bool {
        true
    }

    /// Whether an HSM is there, as far as is known: else whatever is asked fails.
    fn serves(&self) -> bool {
        true
    }

    /// Tells HSMs elsewhere what ended or went on with the calls before: chains of the audit log, logins,
    /// the domain. They may be slow: the caller holds no lock that other calls wait for.
    fn settle(&self) {}

    /// Sends a command in the name of the ticket's holder and waits for the reply.
    fn call(&self, ticket: &Ticket, command: Command<'_>) -> Result<Reply>;

    /// Begins a streaming operation. `key` is None for a digest.
    fn begin(
        &self,
        ticket: &Ticket,
        function: Function,
        mechanism: &Mechanism<'_>,
        key: Option<&Record>,
    ) -> Result<Box<dyn Operation>>;

    /// Begins an operation anew that is at rest ([`Operation::rest`]), for the same function,
    /// mechanism and record. False if only [`Self::begin`] can.
    fn restart(&self, _ticket: &Ticket, _operation: &mut dyn Operation, _params: &Params<'_>) -> Result<bool> {
        Ok(false)
    }

    /// Feeds a digest that this channel began with the value of a secret key (C_DigestKey).
    /// CKR_KEY_INDIGESTIBLE if it is not a secret key.
    fn digest_key(&self, ticket: &Ticket, digest: &mut dyn Operation, key: &Record) -> Result<()>;

    /// How it is with the audit log of the HSM's instance. Cheap: asked at each call on a managed key.
    fn audit(&self) -> AuditStatus {
        AuditStatus { mode: AuditMode::Off, ..AuditStatus::default() }
    }

    /// Whether the HSM has ended the login since this was asked last: it is to be asked for its PIN again.
    fn has_ended_login(&self) -> bool {
        false
    }

    /// Which HSM serves, and how: JSON.
    fn describe(&self) -> String {
        r#"{"Mode":"embedded"}"#.to_owned()
    }

    /// Continues a digest whose state was saved by [`Operation::save`].
    fn resume(&self, ticket: &Ticket, state: &[u8]) -> Result<Box<dyn Operation>>;
}
