//! The ephemeral agreement of sessions and replication: C(2e, 0s) of SP 800-56A r3 on P-384, and
//! beside it ML-KEM-1024 in suite 2. One side begins with [`Ephemeral`], the other one answers with
//! [`answer`]; both get the same input keying material.

use super::crypto::aws_lc::mlkem;
use super::crypto::{Entropy, SecretBytes};
use super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink};
use super::domain::keys::{Agreement, PrivateKey, PublicKey};
use crate::error::Result;

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

    fn has_kem(self) -> bool {
        self == Self::P384MlKem1024
    }

    pub(in crate::hsm) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        match d.uint()? {
            1 => Ok(Self::P384),
            2 => Ok(Self::P384MlKem1024),
            _ => Err(Malformed("an unknown suite")),
        }
    }

    /// What suite 2 has beside a public key: there in that suite, null in the other.
    pub(in crate::hsm) fn decode_kem(self, d: &mut Decoder<'_>) -> Decoded<Option<KemBytes>> {
        let bytes = d.optional(Decoder::fixed)?.map(Box::new);
        if bytes.is_some() == self.has_kem() { Ok(bytes) } else { Err(Malformed("a part of another suite")) }
    }
}

pub(in crate::hsm) fn encode_kem<S: Sink>(e: &mut Encoder<S>, bytes: Option<&KemBytes>) {
    e.optional(bytes, |e, bytes| {
        e.bytes(&**bytes);
    });
}

/// The private half of the side that begins: used once, by value.
pub(in crate::hsm) struct Ephemeral {
    key: PrivateKey,
    /// The seed of the ML-KEM pair.
    seed: Option<SecretBytes>,
}

/// What the answering side sends, and what both sides then have.
pub(in crate::hsm) struct Answered {
    pub(in crate::hsm) public: PublicKey,
    /// The ciphertext of suite 2.
    pub(in crate::hsm) ct: Option<KemBytes>,
    /// Input keying material: the ECDH's x coordinate, followed by suite 2's shared secret.
    pub(in crate::hsm) shared: SecretBytes,
}

impl Ephemeral {
    pub(in crate::hsm) fn generate(suite: Suite, entropy: &mut Entropy) -> Result<Self> {
        let key = PrivateKey::generate(entropy)?;
        let seed =
            suite.has_kem().then(|| SecretBytes::fill(mlkem::SEED_LEN, |seed| entropy.fill(seed))).transpose()?;
        Ok(Self { key, seed })
    }

    /// The public key, and the encapsulation key of suite 2.
    pub(in crate::hsm) fn public(&self) -> Result<(PublicKey, Option<KemBytes>)> {
        let ek = self.seed.as_ref().map(|seed| mlkem::encapsulation_key(seed.expose())).transpose()?;
        Ok((self.key.public()?, ek))
    }

    /// The input keying material. None if the answer is of another suite.
    pub(in crate::hsm) fn agree(self, peer: &PublicKey, ct: Option<&KemBytes>) -> Result<Option<SecretBytes>> {
        let kem = match (&self.seed, ct) {
            (Some(seed), Some(ct)) => Some(mlkem::decapsulate(seed.expose(), ct)?),
            (None, None) => None,
            _ => return Ok(None),
        };
        joined(&self.key, peer, kem.as_ref()).map(Some)
    }
}

/// The other side's part. Its private key and the parts of the secret end with this call. None if
/// the encapsulation key is not valid.
pub(in crate::hsm) fn answer(
    peer: &PublicKey,
    ek: Option<&KemBytes>,
    entropy: &mut Entropy,
) -> Result<Option<Answered>> {
    let key = PrivateKey::generate(entropy)?;
    let public = key.public()?;
    let kem = match ek {
        Some(ek) => {
            let random = SecretBytes::fill(mlkem::SHARED_LEN, |random| entropy.fill(random))?;
            let Some(encapsulated) = mlkem::encapsulate(&**ek, random.expose()) else { return Ok(None) };
            Some(encapsulated?)
        }
        None => None,
    };
    let (ct, kem) = kem.unzip();
    let shared = joined(&key, peer, kem.as_ref())?;
    Ok(Some(Answered { public, ct, shared }))
}

fn joined(own: &PrivateKey, peer: &PublicKey, kem: Option<&SecretBytes>) -> Result<SecretBytes> {
    let mut joined = SecretBytes::fill(48 + kem.map_or(0, SecretBytes::len), |_| Ok(()))?;
    let (ecdh, rest) = joined.expose_mut().split_at_mut(48);
    ecdh.copy_from_slice(&*own.shared(peer)?);
    rest.copy_from_slice(kem.map_or(&[], SecretBytes::expose));
    Ok(joined)
}
