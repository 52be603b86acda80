//! The key agreement of an exchange (C(2e, 0s) of SP 800-56A r3, and ML-KEM-1024 in suite 2), and
//! what is done with its keys: sealing key records, committing to key material.
//!
//! Below, A is the Region that ships and B the one that receives.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha384;

use super::super::crypto::aws_lc::mlkem;
use super::super::crypto::{Entropy, SecretBytes};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::super::domain::cose::{self, Form, Header, Message};
use super::super::domain::keys::{Agreement, Kid, PrivateKey, PublicKey};
use super::super::domain::{DomainId, Hash, Keys, Kind, expand};
use super::message::{Offer, Shipment};
use super::{Party, refused, sha384};
use crate::error::{ErrorKind, Result};

/// An encapsulation key or a ciphertext of ML-KEM-1024.
pub(in crate::hsm) type KemBytes = mlkem::Public;

/// The suites, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::hsm) enum Suite {
    P384,
    P384MlKem1024,
}

impl Suite {
    pub(in crate::hsm) fn number(self) -> u64 {
        match self {
            Self::P384 => 1,
            Self::P384MlKem1024 => 2,
        }
    }

    /// The strongest of those that a state allows.
    pub(in crate::hsm) fn highest(allowed: &[u64]) -> Option<Self> {
        [Self::P384MlKem1024, Self::P384].into_iter().find(|suite| allowed.contains(&suite.number()))
    }

    pub(super) fn has_kem(self) -> bool {
        self == Self::P384MlKem1024
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        match d.uint()? {
            1 => Ok(Self::P384),
            2 => Ok(Self::P384MlKem1024),
            _ => Err(Malformed("an unknown suite")),
        }
    }
}

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
    rakb: PrivateKey,
    /// The seed of the ML-KEM pair.
    seed: Option<SecretBytes>,
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
        let rakb = PrivateKey::generate(entropy)?;
        let seed =
            suite.has_kem().then(|| SecretBytes::fill(mlkem::SEED_LEN, |seed| entropy.fill(seed))).transpose()?;
        Ok(Self { suite, rakb, seed })
    }

    /// What the offer says: RAKB's public half, and the encapsulation key of suite 2.
    pub(in crate::hsm) fn public(&self) -> Result<(PublicKey, Option<KemBytes>)> {
        let ek = self.seed.as_ref().map(|seed| mlkem::encapsulation_key(seed.expose())).transpose()?;
        Ok((self.rakb.public()?, ek))
    }

    /// The keys of the exchange that the shipment belongs to, whose signature was verified.
    pub(in crate::hsm) fn agree(self, exchange: &Exchange, shipment: &Shipment<'_>) -> Result<ExchangeKeys> {
        if shipment.suite != self.suite || exchange.suite != self.suite || shipment.offer_hash != exchange.offer_hash {
            return Err(refused("it answers another offer"));
        }
        let kem = match (&self.seed, &shipment.ct) {
            (Some(seed), Some(ct)) => Some(mlkem::decapsulate(seed.expose(), ct)?),
            (None, None) => None,
            _ => return Err(refused("it is of another suite than the offer")),
        };
        exchange.derive(&self.rakb, &shipment.raka, kem.as_ref(), (&shipment.raka, shipment.ct.as_ref()))
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
        let raka = PrivateKey::generate(entropy)?;
        let public = raka.public()?;
        let kem = match &offer.ek {
            Some(ek) => {
                let random = SecretBytes::fill(mlkem::SHARED_LEN, |random| entropy.fill(random))?;
                let encapsulated = mlkem::encapsulate(&**ek, random.expose());
                Some(encapsulated.ok_or_else(|| refused("the encapsulation key is not valid"))??)
            }
            None => None,
        };
        let (ct, kem) = kem.unzip();
        let keys = exchange.derive(&raka, &offer.rakb, kem.as_ref(), (&public, ct.as_ref()))?;
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
    fn derive(
        &self,
        own: &PrivateKey,
        peer: &PublicKey,
        kem: Option<&SecretBytes>,
        shipped: (&PublicKey, Option<&KemBytes>),
    ) -> Result<ExchangeKeys> {
        let mut ikm = SecretBytes::fill(48 + kem.map_or(0, SecretBytes::len), |_| Ok(()))?;
        let (ecdh, rest) = ikm.expose_mut().split_at_mut(48);
        ecdh.copy_from_slice(&*own.shared(peer)?);
        rest.copy_from_slice(kem.map_or(&[], SecretBytes::expose));
        self.expand(&ikm, self.transcript(shipped))
    }

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
        e.optional(ct, |e, ct| {
            e.bytes(&**ct);
        });
        sha384(&e.finish())
    }
}
