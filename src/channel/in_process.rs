//! The embedded HSM: a function call away, with no copy of the payload.

use super::Channel;
use crate::error::Result;
use crate::hsm::{AuditStatus, Command, Function, Hsm, Mechanism, Operation, Params, Record, Reply, Ticket};

/// Owns the HSM instance of one token in this process.
pub struct InProcess {
    hsm: Hsm,
}

impl InProcess {
    pub fn new(hsm: Hsm) -> Self {
        Self { hsm }
    }
}

impl Channel for InProcess {
    fn call(&self, ticket: &Ticket, command: Command<'_>) -> Result<Reply> {
        self.hsm.call(ticket, command)
    }

    fn begin(
        &self,
        ticket: &Ticket,
        function: Function,
        mechanism: &Mechanism<'_>,
        key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        self.hsm.begin(ticket, function, mechanism, key)
    }

    fn restart(&self, ticket: &Ticket, operation: &mut dyn Operation, params: &Params<'_>) -> Result<bool> {
        self.hsm.restart(ticket, operation, params)
    }

    fn digest_key(&self, ticket: &Ticket, digest: &mut dyn Operation, key: &Record) -> Result<()> {
        self.hsm.digest_key(ticket, digest, key)
    }

    fn audit(&self) -> AuditStatus {
        self.hsm.audit_status()
    }

    fn resume(&self, ticket: &Ticket, state: &[u8]) -> Result<Box<dyn Operation>> {
        self.hsm.resume(ticket, state)
    }
}
