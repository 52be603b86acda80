//! Heads: how far a chain has come, signed by the HSM. A few hundred bytes, to be kept elsewhere.

use super::super::crypto::aws_lc::ec::{Curve, EcKey};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::super::domain::cose::{self, ESP384, Form, Header, Message};
use super::super::domain::keys::{Kid, PrivateKey, PublicKey};
use super::super::domain::{DomainId, Hash};
use super::{Instance, hash};
use crate::error::Result;

const CONTENT_TYPE: &str = "application/vnd.conclave.audit-head";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Head {
    pub(in crate::hsm) instance: Instance,
    /// Number of the newest record.
    pub(in crate::hsm) seq: u64,
    /// Hash of the newest row.
    pub(in crate::hsm) hash: Hash,
    pub(in crate::hsm) at: u64,
    /// Nothing follows.
    pub(in crate::hsm) closed: bool,
    pub(in crate::hsm) signer: Kid,
}

impl Head {
    /// The row, signed with the key that `signer` names.
    pub(super) fn sign(&self, domain: &DomainId, key: &PrivateKey) -> Result<Vec<u8>> {
        let (protected, payload) = (self.header(), self.payload());
        let signature = key.sign(&cose::authenticated(Form::Sign1, &protected, domain, &payload))?;
        Ok(cose::encode(Form::Sign1, &protected, &payload, &signature))
    }

    /// Reads a head; whether it is signed is for [`VerifyingKey::signed`] to say.
    pub(in crate::hsm) fn decode(row: &[u8]) -> Decoded<Self> {
        let message = Message::decode(Form::Sign1, row)?;
        let signer = message.header.kid.and_then(|kid| kid.try_into().ok());
        let mut d = Decoder::new(message.content);
        d.array_of(5)?;
        let head = Self {
            instance: d.fixed()?,
            seq: d.uint()?,
            hash: d.fixed()?,
            at: d.uint()?,
            closed: d.bool()?,
            signer: signer.ok_or(Malformed("a head names no signer"))?,
        };
        d.end()?;
        if message.protected != head.header() || message.tag.len() != 96 {
            return Err(Malformed("the headers are not those of a head"));
        }
        Ok(head)
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Header::new(ESP384, CONTENT_TYPE);
        header.kid = Some(&self.signer);
        header.encode()
    }

    fn payload(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(5).bytes(&self.instance).uint(self.seq).bytes(&self.hash).uint(self.at).bool(self.closed);
        e.finish()
    }
}

/// A member's public key, parsed once for many heads.
pub(super) struct VerifyingKey(EcKey);

impl VerifyingKey {
    pub(super) fn new(key: &PublicKey) -> Option<Self> {
        // The point ends the SubjectPublicKeyInfo.
        EcKey::from_point(Curve::P384, key.spki().last_chunk::<97>()?).map(Self)
    }

    /// Whether the row is a head that this key signed for the domain.
    pub(super) fn signed(&self, domain: &DomainId, row: &[u8]) -> bool {
        Message::decode(Form::Sign1, row).is_ok_and(|message| {
            let digest = hash(&message.authenticated(domain));
            message.tag.len() == 96 && self.0.verify(&digest, message.tag).unwrap_or(false)
        })
    }
}
