//! The key agreement of an exchange (C(2e, 0s) of SP 800-56A r3, and ML-KEM-1024 in suite 2), and
//! what is done with its keys: sealing key records, committing to key material.
//!
//! Below, A is the Region that ships and B the one that receives.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha384;

use super::super::crypto::{Entropy, SecretBytes};
use super::super::domain::cbor::Encoder;
use super::super::domain::cose::{self, Form, Header, Message};
use super::super::domain::keys::{Kid, PublicKey};
use super::super::domain::{DomainId, Hash, Keys, Kind, expand};
use super::super::ephemeral::{self, Answered, Ephemeral, encode_kem};
pub(in crate::hsm) use super::super::ephemeral::{KemBytes, Suite};
use super::message::{Offer, Shipment};
use super::{Party, refused, sha384};
use crate::error::{ErrorKind, Result};

/// What both sides of an exchange know and its keys are bound to.
#[derive(Debug, Clone)]
pub(in crate::hsm) struct Exchange {
    pub(in crate::hsm) suite: Suite,
    pub(in crate::hsm) a: Party,
    pub(in crate::hsm) b: Party,
    /// The RSK that signs the shipment.
    pub(in crate::hsm) a_kid: Kid,
    /// The RSK that signed the offer.
    pub(in crate::hsm) b_kid: Kid,
    /// Of the whole offer.
    pub(in crate::hsm) offer_hash: Hash,
}

/// B's private half: used once, by value.
pub(in crate::hsm) struct OfferSecrets {
    suite: Suite,
    rakb: Ephemeral,
}

/// The keys of one exchange.
pub(in crate::hsm) struct ExchangeKeys {
    rwk: SecretBytes,
    commitment: CommitmentKey,
    transcript: Hash,
    sender: DomainId,
}

/// CK: tells that who holds it has the material.
pub(in crate::hsm) struct CommitmentKey(SecretBytes);

/// Where a record is in its shipment.
#[derive(Debug, Clone, Copy)]
pub(in crate::hsm) struct Place<'a> {
    /// From 0.
    pub(in crate::hsm) index: usize,
    pub(in crate::hsm) count: usize,
    pub(in crate::hsm) key_id: &'a str,
}

impl OfferSecrets {
    pub(in crate::hsm) fn generate(suite: Suite, entropy: &mut Entropy) -> Result<Self> {
        Ok(Self { suite, rakb: Ephemeral::generate(suite, entropy)? })
    }

    /// What the offer says: RAKB's public half, and the encapsulation key of suite 2.
    pub(in crate::hsm) fn public(&self) -> Result<(PublicKey, Option<KemBytes>)> {
        self.rakb.public()
    }

    /// The keys of the exchange that the shipment belongs to, whose signature was verified.
    pub(in crate::hsm) fn agree(self, exchange: &Exchange, shipment: &Shipment<'_>) -> Result<ExchangeKeys> {
        if shipment.suite != self.suite || exchange.suite != self.suite || shipment.offer_hash != exchange.offer_hash {
            return Err(refused("it answers another offer"));
        }
        let agreed = self.rakb.agree(&shipment.raka, shipment.ct.as_ref())?;
        let agreed = agreed.ok_or_else(|| refused("it is of another suite than the offer"))?;
        exchange.expand(&agreed, exchange.transcript((&shipment.raka, shipment.ct.as_ref())))
    }
}

impl ExchangeKeys {
    /// A's side: RAKA, what the shipment says of it (its public half, the ciphertext of suite 2),
    /// and the keys. RAKA and the shared secrets end with this call.
    pub(in crate::hsm) fn answer(
        exchange: &Exchange,
        offer: &Offer,
        entropy: &mut Entropy,
    ) -> Result<(PublicKey, Option<KemBytes>, Self)> {
        if offer.suite != exchange.suite {
            return Err(ErrorKind::GeneralError.with("the suite is not the offer's"));
        }
        let answered = ephemeral::answer(&offer.rakb, offer.ek.as_ref(), entropy)?;
        let Answered { public, ct, shared } = answered.ok_or_else(|| refused("the encapsulation key is not valid"))?;
        let keys = exchange.expand(&shared, exchange.transcript((&public, ct.as_ref())))?;
        Ok((public, ct, keys))
    }

    /// A key record, sealed for its place in the shipment.
    pub(in crate::hsm) fn seal(&self, place: Place<'_>, record: &[u8]) -> Result<Vec<u8>> {
        self.seal_salted(place, record, Entropy::System.array()?)
    }

    pub(super) fn seal_salted(&self, place: Place<'_>, record: &[u8], salt: [u8; 32]) -> Result<Vec<u8>> {
        let keys = Keys::derive(self.rwk.expose(), &salt, Kind::Replica, &self.sender)?;
        let mut header = Header::new(cose::A256GCM, Kind::Replica.sealed_type());
        header.salt = Some(salt);
        keys.seal(header, &self.aad(place), record)
    }

    /// Opens what [`Self::seal`] made for the same place; anything else is refused.
    pub(in crate::hsm) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<SecretBytes> {
        let message = Message::decode(Form::Encrypt0, sealed).map_err(|malformed| refused(malformed.0))?;
        let header = &message.header;
        let (Some(salt), None, None) = (&header.salt, header.parameters, header.kid) else {
            return Err(refused("the headers are not those of a sealed key"));
        };
        if header.content_type != Kind::Replica.sealed_type() {
            return Err(refused("a key is sealed as another kind"));
        }
        let keys = Keys::derive(self.rwk.expose(), salt, Kind::Replica, &self.sender)?;
        let opened = keys.open(&message, &self.aad(place))?;
        opened.ok_or_else(|| refused(format_args!("the key {} does not verify", place.key_id)))
    }

    pub(in crate::hsm) fn commitment_key(&self) -> &CommitmentKey {
        &self.commitment
    }

    /// RWK, CK and the transcript's hash.
    #[cfg(test)]
    pub(super) fn for_tests(&self) -> (&[u8], &[u8], &Hash) {
        (self.rwk.expose(), self.commitment.0.expose(), &self.transcript)
    }

    fn aad(&self, place: Place<'_>) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(4).bytes(&self.transcript).uint(place.index as u64).uint(place.count as u64).text(place.key_id);
        e.finish()
    }
}

impl CommitmentKey {
    /// HMAC-SHA-384 over `[key-id, object, [* [version, SHA-384(material)]]]`, the versions shipped.
    pub(in crate::hsm) fn commit(&self, key_id: &str, object: &[u8; 16], versions: &[(u64, Hash)]) -> Result<Hash> {
        let mut e = Encoder::new();
        e.array(3).text(key_id).bytes(object).list(versions, |e, (version, digest)| {
            e.array(2).uint(*version).bytes(digest);
        });
        let mut mac =
            <Hmac<Sha384> as KeyInit>::new_from_slice(self.0.expose()).map_err(|_| ErrorKind::GeneralError)?;
        mac.update(&e.finish());
        Ok(mac.finalize().into_bytes().into())
    }
}

impl Exchange {
    fn expand(&self, ikm: &SecretBytes, transcript: Hash) -> Result<ExchangeKeys> {
        let mut info = Encoder::new();
        info.array(4).text("conclave/1").text("replication").uint(self.suite.number()).bytes(&transcript);
        let keys = expand::<64>(None, ikm.expose(), &info.finish())?;
        let (rwk, commitment) = keys.split_at(32);
        Ok(ExchangeKeys {
            rwk: SecretBytes::copy_of(rwk)?,
            commitment: CommitmentKey(SecretBytes::copy_of(commitment)?),
            transcript,
            sender: self.a.domain,
        })
    }

    /// SHA-384 of `[suite, A, B, A's kid, B's kid, hash of the offer, RAKA, ciphertext / null]`.
    fn transcript(&self, (raka, ct): (&PublicKey, Option<&KemBytes>)) -> Hash {
        let mut e = Encoder::new();
        e.array(8).uint(self.suite.number());
        self.a.encode(&mut e);
        self.b.encode(&mut e);
        e.bytes(&self.a_kid).bytes(&self.b_kid).bytes(&self.offer_hash).bytes(raka.spki());
        encode_kem(&mut e, ct);
        sha384(&e.finish())
    }
}
