//! The HSMs of a fleet: processes of their own, reached over authenticated links
//! (`docs/protocols.md`, "Sessions").

use std::sync::Arc;

use super::Channel;
use crate::config::Fleet;
use crate::error::{ErrorKind, Result};
use crate::hsm::{Command, Function, Mechanism, Operation, Record, Reply, Ticket};
use crate::store::Store;

/// One fleet, as one process uses it.
pub struct Remote {
    store: Arc<dyn Store>,
}

impl Remote {
    pub fn new(_config: &Fleet, store: Arc<dyn Store>) -> Result<Self> {
        Ok(Self { store })
    }
}

impl Channel for Remote {
    fn call(&self, _ticket: &Ticket, _command: Command<'_>) -> Result<Reply> {
        let _ = self.store.counter();
        Err(ErrorKind::DeviceError.into())
    }

    fn begin(
        &self,
        _ticket: &Ticket,
        _function: Function,
        _mechanism: &Mechanism<'_>,
        _key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        Err(ErrorKind::DeviceError.into())
    }

    fn digest_key(&self, _ticket: &Ticket, _digest: &mut dyn Operation, _key: &Record) -> Result<()> {
        Err(ErrorKind::DeviceError.into())
    }

    fn resume(&self, _ticket: &Ticket, _state: &[u8]) -> Result<Box<dyn Operation>> {
        Err(ErrorKind::DeviceError.into())
    }
}
