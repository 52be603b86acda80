//! Objects as a host holds them: sealed, with what the store may know of them.

use std::sync::Arc;

use super::super::value::{AttributeType, Attributes};
#[cfg(doc)]
use super::Command;

/// The permanent name of an object inside its token.
pub type ObjectId = [u8; 16];

/// A domain key's name, derived from the key: the kid of what is sealed under it.
pub type DomainKeyId = [u8; 16];

/// A sealed object as it leaves the HSM: opaque to the host, with its digest computed once.
#[derive(Clone, Eq)]
pub struct Sealed {
    bytes: Arc<[u8]>,
    digest: [u8; 32],
}

impl Sealed {
    pub fn new(bytes: Vec<u8>) -> Self {
        let digest = super::super::digest_of_record(&bytes);
        Self { bytes: bytes.into(), digest }
    }

    pub(in crate::hsm) fn copied(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), digest: super::super::digest_of_record(bytes) }
    }

    /// With a name of another kind in the digest's place, as unique as that.
    pub(in crate::hsm) fn named(bytes: Vec<u8>, name: [u8; 32]) -> Self {
        Self { bytes: bytes.into(), digest: name }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The domain key that it says it is sealed under. None for what is not sealed under one.
    pub fn domain_key(&self) -> Option<DomainKeyId> {
        super::super::domain::key_id_of(&self.bytes).ok()
    }

    /// SHA-256 of the bytes, or their name: the key of the HSM's cache of opened records.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.bytes.len())
    }
}

/// What the store indexes of an object. For a private object `label` and `id` are keyed hashes.
/// The HSM compares them with the sealed copies when it opens the record.
#[derive(Debug, Clone, Eq)]
pub struct Columns {
    /// CKO_*.
    pub class: u64,
    /// CKK_* of a key, CKC_* of a certificate.
    pub key_type: Option<u64>,
    pub private: bool,
    pub label: Option<Vec<u8>>,
    pub id: Option<Vec<u8>>,
    /// One of a managed key's objects.
    pub managed: bool,
    /// Of a managed key, but for the public half of a pair: when time next demands something of it,
    /// in seconds since 1970, or [`Self::NEVER`].
    pub due: Option<u64>,
    /// Other Regions are still to be told something of it: also of what is left of a deleted replica.
    pub replicating: bool,
}

impl Columns {
    /// The largest number that a store keeps.
    pub const NEVER: u64 = i64::MAX.cast_unsigned();
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        // libc's comparison of no bytes is slow where a pointer leads nowhere, as that of an empty Vec.
        let same = |a: &Option<Vec<u8>>, b: &Option<Vec<u8>>| match (a, b) {
            (Some(a), Some(b)) => a.len() == b.len() && (a.is_empty() || a == b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.class == other.class
            && self.key_type == other.key_type
            && self.private == other.private
            && self.managed == other.managed
            && self.due == other.due
            && self.replicating == other.replicating
            && same(&self.label, &other.label)
            && same(&self.id, &other.id)
    }
}

/// An object as the host and the store hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// CKA_UNIQUE_ID is this in hexadecimal.
    pub object: ObjectId,
    /// Starts at 1; +1 with each rewrite, which is a compare-and-set on it.
    pub generation: u64,
    pub columns: Columns,
    pub sealed: Sealed,
}

impl Record {
    /// Whether it is of a session object, which no store has.
    pub fn is_transient(&self) -> bool {
        // What the domain key seals begins with the head of a tag.
        matches!(self.sealed.as_bytes().first(), None | Some(0 | 1))
    }
}

/// What is to be committed of a change to managed keys: all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectChange {
    pub insert: Vec<Record>,
    /// Each in the place of the record with the generation before.
    pub replace: Vec<Record>,
    /// Object and generation of what is to go.
    pub delete: Vec<(ObjectId, u64)>,
    /// What goes whether or not it is there.
    pub purge: Vec<ObjectId>,
    /// The most managed keys that there may be then.
    pub limit: Option<u64>,
}

/// The objects of one managed key.
#[derive(Debug, Clone, Copy)]
pub struct KeyRecords<'a> {
    /// The secret key, or the private half of a pair.
    pub key: &'a Record,
    /// The public half of a pair, once there is one.
    pub public: Option<&'a Record>,
}

/// Where a new object lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Sealed under a key of this HSM instance's memory; gone with it.
    Session,
    /// Sealed under the domain key.
    Token,
}

/// Everything about an object that may be read: no key material.
#[derive(Debug, Clone)]
pub struct View {
    pub attributes: Attributes,
    /// Secret attributes the object has, and whether [`Command::Reveal`] would give them.
    pub secrets: Vec<(AttributeType, bool)>,
}
