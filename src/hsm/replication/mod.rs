//! Replication of multi-Region keys: the messages that Regions send each other, and the key
//! agreement under which key material travels (`docs/protocols.md`, "Replication").
//!
//! Nothing here has state or decides what a Region may have; it makes and reads what crosses
//! between two HSMs that a carrier connects which is trusted with nothing.

pub(in crate::hsm) mod agreement;
pub(in crate::hsm) mod message;
pub(in crate::hsm) mod record;

use sha2::{Digest, Sha384};

use super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink};
use super::domain::{DomainId, Hash};
use crate::error::{Error, ErrorKind};

/// A Region as the messages name it: its name, and the domain that it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::hsm) struct Party {
    pub(in crate::hsm) region: String,
    pub(in crate::hsm) domain: DomainId,
}

impl Party {
    pub(in crate::hsm) fn encode<S: Sink>(&self, e: &mut Encoder<S>) {
        e.array(2).text(&self.region).bytes(&self.domain);
    }

    pub(in crate::hsm) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(2)?;
        let region = d.text()?;
        if region.is_empty() || region.len() > 255 {
            return Err(Malformed("the name of a Region has a wrong length"));
        }
        Ok(Self { region: region.to_owned(), domain: d.fixed()? })
    }
}

/// What tells one replica of a key from another that the same Region had before.
pub(in crate::hsm) type Incarnation = [u8; 16];

/// SHA-384, the hash of messages and of key material.
pub(in crate::hsm) fn sha384(bytes: &[u8]) -> Hash {
    Sha384::digest(bytes).into()
}

/// The error of a message that is not taken. The reason is for the own side only.
pub(in crate::hsm) fn refused(why: impl std::fmt::Display) -> Error {
    ErrorKind::KmsReplicationRefused.with(why.to_string())
}

#[cfg(test)]
mod tests;
