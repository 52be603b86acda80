//! The HSM boundary. Key material exists in the clear below this module only, and its private
//! submodules are the only place that can name a type which holds it.

mod attribute;
mod command;
mod crypto;
mod domain;
mod draft;
mod key;
mod mechanism;
mod params;
mod separation;
mod value;

pub use command::{
    Columns, Command, DomainToken, Function, IndexColumn, ObjectId, Operation, Outcome, PinChange, PinCost, PinRecord,
    Place, Record, Reply, Role, Sealed, Ticket, View,
};
pub use mechanism::{MechanismInfo, mechanism_info, mechanisms};
pub use params::{HkdfSalt, Mechanism, MechanismType, Oaep, ParamShape, Params, PrfData, Pss, Secret};
pub use value::{AttributeType, Attributes, Raw, Template, Value};

use crate::error::{ErrorKind, Result};

/// An HSM instance. See `core.rs` for the command set.
pub struct Hsm {}

impl Hsm {
    pub fn call(&self, _ticket: &Ticket, _command: Command<'_>) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    pub fn begin(
        &self,
        _ticket: &Ticket,
        _function: Function,
        _mechanism: &Mechanism<'_>,
        _key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// C_DigestKey: opens the key and feeds its value to `digest`.
    pub fn digest_key(&self, _ticket: &Ticket, _digest: &mut dyn Operation, _key: &Record) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    pub fn resume(&self, _ticket: &Ticket, _state: &[u8]) -> Result<Box<dyn Operation>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
}

/// To be called first in a forked child (pthread_atfork): it forgets its parent's secret memory,
/// which reads as zeros there, and begins its own. Async-signal-safe.
pub fn after_fork_in_child() {
    crypto::after_fork_in_child();
}

fn digest_of_record(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}
