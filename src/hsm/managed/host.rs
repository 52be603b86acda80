//! What a host may know of managed keys and envelopes: nothing of it is secret.

use super::attributes::{KeyState, Usage};
use super::context::Context;
use super::envelope::{self, Blob};
use super::metadata::Managed;
use crate::error::Result;
use crate::hsm::command::ObjectId;
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
