//! Messages 1 and 2 of a negotiation: COSE_Sign1, the domain id as external AAD.

use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::super::domain::cose::{self, ESP384, Form, Header};
use super::super::domain::keys::{Kid, PrivateKey, PublicKey};
use super::super::domain::{DomainId, Hash};
use super::super::ephemeral::{KemBytes, Suite, encode_kem};
use super::HsmId;
use crate::error::Result;

/// A session key, encrypted.
pub(super) type Esk = [u8; 48];

/// What one of the two messages says.
pub(super) trait Body<'a>: Sized {
    const CONTENT_TYPE: &'static str;
    fn encode(&self) -> Vec<u8>;
    fn decode(d: &mut Decoder<'a>) -> Decoded<Self>;

    /// The signed message; `kid` is the key's, which takes a while to compute.
    fn sign(&self, key: &PrivateKey, kid: &Kid, domain: &DomainId) -> Result<Vec<u8>> {
        let content = self.encode();
        let protected = header(Self::CONTENT_TYPE, kid).encode();
        let signature = key.sign(&cose::authenticated(Form::Sign1, &protected, domain, &content))?;
        Ok(cose::encode(Form::Sign1, &protected, &content, &signature))
    }
}

/// Message 1, by a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionRequest {
    pub(super) suite: Suite,
    pub(super) host: [u8; 16],
    /// Whom it is meant for.
    pub(super) hsm: HsmId,
    /// SHA-256 of the process secret.
    pub(super) process: [u8; 32],
    pub(super) nonce: [u8; 16],
    /// Seconds that are wanted.
    pub(super) lifetime: u64,
    /// Seconds since 1970.
    pub(super) not_after: u64,
    /// Of the host's copy of the state.
    pub(super) version: u64,
    pub(super) q1: PublicKey,
    /// The encapsulation key of suite 2.
    pub(super) ek: Option<KemBytes>,
}

/// Message 2, by the HSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionReply<'a> {
    /// Of message 1, all its bytes.
    pub(super) request: Hash,
    pub(super) hsm: HsmId,
    pub(super) host: [u8; 16],
    /// Of the HSM's state.
    pub(super) version: u64,
    pub(super) state: Hash,
    /// Seconds since 1970.
    pub(super) valid_from: u64,
    pub(super) valid_until: u64,
    pub(super) q2: PublicKey,
    /// The ciphertext of suite 2.
    pub(super) ct: Option<KemBytes>,
    pub(super) esk: Esk,
    pub(super) ekt: &'a [u8],
}

/// A message whose signature is not verified yet.
pub(super) struct Signed<'a> {
    message: cose::Message<'a>,
    /// Who is said to have signed.
    pub(super) kid: Kid,
}

impl<'a> Signed<'a> {
    /// A message with the headers of this kind.
    pub(super) fn decode<B: Body<'a>>(bytes: &'a [u8]) -> Decoded<Self> {
        let message = cose::Message::decode(Form::Sign1, bytes)?;
        let kid: Option<Kid> = message.header.kid.and_then(|kid| kid.try_into().ok());
        let kid = kid.ok_or(Malformed("no signer is named"))?;
        if message.header != header(B::CONTENT_TYPE, &kid) || message.tag.len() != 96 {
            return Err(Malformed("the headers are not those of this message"));
        }
        Ok(Self { message, kid })
    }

    /// What is signed, and the signature.
    #[cfg(test)]
    pub(super) fn covered(&self, domain: &DomainId) -> (Vec<u8>, &'a [u8]) {
        (self.message.authenticated(domain), self.message.tag)
    }

    /// What it says, if this key signed it in this domain.
    pub(super) fn verify<B: Body<'a>>(&self, key: &PublicKey, domain: &DomainId) -> Decoded<B> {
        if !key.verify(&self.message.authenticated(domain), self.message.tag) {
            return Err(Malformed("the signature does not verify"));
        }
        let mut d = Decoder::new(self.message.content);
        let body = B::decode(&mut d)?;
        d.end()?;
        Ok(body)
    }
}

fn header<'a>(content_type: &'a str, kid: &'a Kid) -> Header<'a> {
    Header { kid: Some(kid), ..Header::new(ESP384, content_type) }
}

impl Body<'_> for SessionRequest {
    const CONTENT_TYPE: &'static str = "application/vnd.conclave.session.request";

    fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(10).uint(self.suite.number()).bytes(&self.host).bytes(&self.hsm).bytes(&self.process);
        e.bytes(&self.nonce).uint(self.lifetime).uint(self.not_after).uint(self.version).bytes(self.q1.spki());
        encode_kem(&mut e, self.ek.as_ref());
        e.finish()
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(10)?;
        let suite = Suite::decode(d)?;
        Ok(Self {
            suite,
            host: d.fixed()?,
            hsm: d.fixed()?,
            process: d.fixed()?,
            nonce: d.fixed()?,
            lifetime: d.uint()?,
            not_after: d.uint()?,
            version: d.uint()?,
            q1: PublicKey::from_spki(d.bytes()?)?,
            ek: suite.decode_kem(d)?,
        })
    }
}

impl<'a> Body<'a> for SessionReply<'a> {
    const CONTENT_TYPE: &'static str = "application/vnd.conclave.session.reply";

    fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(11).bytes(&self.request).bytes(&self.hsm).bytes(&self.host).uint(self.version).bytes(&self.state);
        e.uint(self.valid_from).uint(self.valid_until).bytes(self.q2.spki());
        encode_kem(&mut e, self.ct.as_ref());
        e.bytes(&self.esk).bytes(self.ekt);
        e.finish()
    }

    fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.array_of(11)?;
        Ok(Self {
            request: d.fixed()?,
            hsm: d.fixed()?,
            host: d.fixed()?,
            version: d.uint()?,
            state: d.fixed()?,
            valid_from: d.uint()?,
            valid_until: d.uint()?,
            q2: PublicKey::from_spki(d.bytes()?)?,
            ct: d.optional(Decoder::fixed)?.map(Box::new),
            esk: d.fixed()?,
            ekt: d.bytes()?,
        })
    }
}
