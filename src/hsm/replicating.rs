//! The commands of the exchange with other Regions.

use super::Hsm;
use super::command::{MessageView, Replicate, Reply, Ticket};
use super::replication::message;
use crate::error::{ErrorKind, Result};

impl Hsm {
    /// [`Command::Replicate`](super::Command::Replicate).
    pub(super) fn replicate(&self, _ticket: &Ticket, _step: Replicate<'_>) -> Result<Reply> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
}

/// What anybody can read of a message. KMS_R_REPLICATION_REFUSED for what is none.
pub fn replication_message(message: &[u8]) -> Result<MessageView> {
    message::peek(message)
}
