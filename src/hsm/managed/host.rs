//! What a host may know of managed keys and envelopes: nothing of it is secret.

use cryptoki_sys as ck;

use super::CKO_KMS_DELETED_REPLICA;
use super::attributes::{CKA_KMS_REPLICATION, CKA_KMS_VERSION, KeyState, Usage};
use super::context::Context;
use super::envelope::{self, Blob};
use super::metadata::Managed;
use super::replication::{Outstanding, Replication};
use crate::error::Result;
use crate::hsm::command::{MessageKind, ObjectId};
use crate::hsm::value::Attributes;

/// What an envelope says it was made under. Nothing of it has been authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeName {
    /// The key's own record, whatever the version.
    pub object: ObjectId,
    /// Of the material, from 1.
    pub version: u64,
}

/// CKR_ENCRYPTED_DATA_INVALID for what is no envelope.
pub fn envelope_name(blob: &[u8]) -> Result<EnvelopeName> {
    Blob::parse(blob).map(|blob| EnvelopeName { object: blob.object, version: blob.version })
}

/// CKR_ARGUMENTS_BAD for what is no encryption context.
pub fn check_context(context: &[u8]) -> Result<()> {
    Context::given(context).map(drop)
}

/// The same of a wrapped key. CKR_ENCRYPTED_DATA_INVALID for what is none.
pub fn wrapped_key_name(wrapped: &[u8]) -> Result<EnvelopeName> {
    Blob::parse_wrapped(wrapped).map(|blob| EnvelopeName { object: blob.object, version: blob.version })
}

/// The length of an envelope under a version of a key. CKR_DATA_LEN_RANGE for more than 4096 bytes.
pub fn encrypted_len(version: u64, plaintext_len: usize) -> Result<usize> {
    envelope::sealed_len(version, plaintext_len)
}

/// The length of what is in an envelope. CKR_ENCRYPTED_DATA_INVALID for what is no envelope.
pub fn decrypted_len(blob: &[u8]) -> Result<usize> {
    Blob::parse(blob).map(|blob| blob.plaintext_len())
}

/// The model system's name of a value of CKA_KMS_STATE.
pub fn state_name(code: u64) -> Option<&'static str> {
    KeyState::from_code(code).map(KeyState::name)
}

/// The same of the state of a managed key at a time, in seconds since 1970.
pub fn state_at(key: &Attributes, now: u64) -> Option<&'static str> {
    Managed::read(key).ok().map(|managed| managed.state_at(now).name())
}

/// The model system's name of a value of CKA_KMS_USAGE.
pub fn usage_name(code: u64) -> Option<&'static str> {
    Usage::from_code(code).map(Usage::name)
}

/// The newest version of a managed key's material that is here; one above the active version is pending.
pub fn newest_version(key: &Attributes) -> u64 {
    let active = key.ulong(CKA_KMS_VERSION).unwrap_or(1);
    replication(key).map_or(active, |replication| replication.newest.max(active))
}

/// What other Regions are still to be told of a managed key, or of what is left of a deleted replica:
/// the names of the Regions, and the messages that tell them.
pub fn outstanding_messages(key: &Attributes) -> Vec<(String, MessageKind)> {
    let Some(replication) = replication(key) else { return Vec::new() };
    let outstanding = match key.ulong(ck::CKA_CLASS) {
        Some(CKO_KMS_DELETED_REPLICA) => replication.outstanding_of_deleted(),
        _ => Managed::read(key).map(|managed| managed.outstanding()).unwrap_or_default(),
    };
    let message = |what| match what {
        Outstanding::Ship => MessageKind::Request,
        Outstanding::Activate => MessageKind::Activate,
        Outstanding::Handover => MessageKind::Handover,
        Outstanding::Deleted => MessageKind::Deleted,
    };
    outstanding.into_iter().map(|(party, what)| (party.region, message(what))).collect()
}

/// None also for what cannot be read.
fn replication(key: &Attributes) -> Option<Replication> {
    key.bytes(CKA_KMS_REPLICATION).and_then(|encoded| Replication::decode(encoded).ok())
}
