//! Proof of possession: a party's statement of its keys, signed with the signing key it names.
//!
//! The signing key is the one that acts, so its holder vouches for the agreement key beside it. Who
//! names an agreement key that is not his gains nothing: he cannot open what is encrypted to it.

use super::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::cose::{self, ESP384, Form, Header, Message};
use super::keys::{PrivateKey, PublicKey};
use super::refusal::Refusal;
use super::seal::DomainId;
use super::state::{Member, Operator, text};
use crate::error::Result;

const CONTENT_TYPE: &str = "application/vnd.conclave.identity";

/// What the keys are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Party {
    Operator,
    Host,
    Hsm,
}

/// A party as it wants to be known in one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Identity {
    pub(in crate::hsm) party: Party,
    pub(in crate::hsm) id: [u8; 16],
    /// The person of an operator, the name of a host or HSM.
    pub(in crate::hsm) name: String,
    /// QOS, QHOS or QHSK.
    pub(in crate::hsm) signing: PublicKey,
    /// QOA or QHAK; a host has none.
    pub(in crate::hsm) agreement: Option<PublicKey>,
}

/// An identity with the message that proves it, which may or may not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Claim {
    pub(in crate::hsm) identity: Identity,
    message: Vec<u8>,
}

impl Identity {
    /// What the signing key signs.
    pub(in crate::hsm) fn to_sign(&self, domain: &DomainId) -> Vec<u8> {
        cose::authenticated(Form::Sign1, &self.header(), domain, &self.encode())
    }

    /// The claim with a signature over [`Self::to_sign`].
    pub(in crate::hsm) fn signed(self, signature: &[u8; 96]) -> Claim {
        let message = cose::encode(Form::Sign1, &self.header(), &self.encode(), signature);
        Claim { identity: self, message }
    }

    pub(in crate::hsm) fn sign(self, domain: &DomainId, key: &PrivateKey) -> Result<Claim> {
        let signature = key.sign(&self.to_sign(domain))?;
        Ok(self.signed(&signature))
    }

    fn header(&self) -> Vec<u8> {
        let kid = self.signing.kid();
        let mut header = Header::new(ESP384, CONTENT_TYPE);
        header.kid = Some(&kid);
        header.encode()
    }

    fn encode(&self) -> Vec<u8> {
        let party = match self.party {
            Party::Operator => 0,
            Party::Host => 1,
            Party::Hsm => 2,
        };
        let mut e = Encoder::new();
        e.array(5).uint(party).bytes(&self.id).text(&self.name);
        self.signing.encode(&mut e);
        e.optional(self.agreement, |e, key| key.encode(e));
        e.finish()
    }

    fn decode(input: &[u8]) -> Decoded<Self> {
        let mut d = Decoder::new(input);
        d.array_of(5)?;
        let party = match d.uint()? {
            0 => Party::Operator,
            1 => Party::Host,
            2 => Party::Hsm,
            _ => return Err(Malformed("an unknown party")),
        };
        let identity = Self {
            party,
            id: d.fixed()?,
            name: text(&mut d)?,
            signing: PublicKey::decode(&mut d)?,
            agreement: d.optional(PublicKey::decode)?,
        };
        d.end()?;
        if identity.agreement.is_some() == (party == Party::Host) {
            return Err(Malformed("a party has a key too many or too few"));
        }
        Ok(identity)
    }
}

impl Claim {
    pub(in crate::hsm) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Reads a claim; whether it proves anything is for [`Self::verify`] to say.
    pub(in crate::hsm) fn decode(message: &[u8]) -> Decoded<Self> {
        let parsed = Message::decode(Form::Sign1, message)?;
        let identity = Identity::decode(parsed.content)?;
        if parsed.protected != identity.header() {
            return Err(Malformed("the headers are not those of an identity"));
        }
        Ok(Self { identity, message: message.to_vec() })
    }

    /// The identity, if it is of this kind and its signing key signed it for this domain.
    pub(super) fn verify(&self, party: Party, domain: &DomainId) -> std::result::Result<&Identity, Refusal> {
        let parsed = Message::decode(Form::Sign1, &self.message)?;
        if self.identity.party == party && self.identity.signing.verify(&parsed.authenticated(domain), parsed.tag) {
            Ok(&self.identity)
        } else {
            Err(Refusal::NoPossession)
        }
    }

    /// The entry of an operator with these roles.
    pub(super) fn operator(&self, roles: Vec<String>) -> std::result::Result<Operator, Refusal> {
        let Identity { id, name, signing, .. } = &self.identity;
        Ok(Operator { id: *id, person: name.clone(), roles, signing: *signing, agreement: self.agreement()? })
    }

    /// The entry of an HSM.
    pub(super) fn member(&self) -> std::result::Result<Member, Refusal> {
        Ok(Member { id: self.identity.id, signing: self.identity.signing, agreement: self.agreement()? })
    }

    /// The agreement key of an operator or HSM.
    pub(super) fn agreement(&self) -> std::result::Result<PublicKey, Refusal> {
        self.identity.agreement.ok_or(Refusal::NoPossession)
    }
}
