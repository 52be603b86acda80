//! The exchange of multi-Region keys with other Regions: each step is bytes in, bytes out, and any
//! carrier will do. What is told of a step was committed before.

use super::super::{Module, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::MessageKind;

/// What a Region is still to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub region: String,
    /// Request, activate, deleted or handover.
    pub kind: MessageKind,
    /// Key ids.
    pub keys: Vec<String>,
}

impl Module {
    /// What other Regions, or this one of them, are still to be told of keys: at most `most` ids in each
    /// item. Needs a user's login, as all of these do.
    pub fn pending_replication(
        &self,
        _session: SessionHandle,
        _region: Option<&str>,
        _most: usize,
    ) -> Result<Vec<Pending>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// The message that tells a Region what is pending of these keys; those of which nothing of the kind
    /// is pending are left out. KMS_R_NOT_FOUND if none is left.
    pub fn tell_replicas(
        &self,
        _session: SessionHandle,
        _kind: MessageKind,
        _region: &str,
        _keys: &[String],
    ) -> Result<Vec<u8>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// An offer to a Region for keys that it is to ship. Its private part stays in this process.
    pub fn offer_replicas(&self, _session: SessionHandle, _region: &str, _keys: &[String]) -> Result<Vec<u8>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// The shipment that answers an offer. Err(length) inside, and the offer is not used up, if it has
    /// more bytes than `room`.
    pub fn ship_replicas(
        &self,
        _session: SessionHandle,
        _offer: &[u8],
        _room: usize,
    ) -> Result<std::result::Result<Vec<u8>, usize>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// Takes the keys of a shipment, all or none. Answers the ids of the keys.
    pub fn accept_replicas(&self, _session: SessionHandle, _shipment: &[u8]) -> Result<Vec<String>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// Reads the accepted keys back and makes the receipt.
    pub fn confirm_replicas(&self, _session: SessionHandle, _shipment: &[u8]) -> Result<Vec<u8>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// Takes any message of another Region, does what it asks for, and answers what is to be sent back.
    /// KMS_R_REPLICATION_REFUSED for what is refused; any other error is this Region's own, and the
    /// message may be taken again.
    pub fn receive_replication(&self, _session: SessionHandle, _message: &[u8]) -> Result<Option<Vec<u8>>> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
}
