//! P-384 keys of the domain's parties: signatures with ESP384 and one-pass key agreement.

use p384::ecdsa::signature::{Signer, Verifier};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::{DecodePublicKey, EncodePublicKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoder, Encoder, Malformed, Sink};
use super::seal;
use crate::error::{ErrorKind, Result};

/// SHA-256 of a SubjectPublicKeyInfo: the name of a public key in a message.
pub(in crate::hsm) type Kid = [u8; 32];

/// A validated P-384 public key as DER SubjectPublicKeyInfo with an uncompressed point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::hsm) struct PublicKey([u8; 120]);

impl PublicKey {
    /// Full validation (SP 800-56A r3 §5.6.2.3.3; the cofactor is 1) of the one encoding allowed.
    pub(in crate::hsm) fn from_spki(spki: &[u8]) -> std::result::Result<Self, Malformed> {
        let malformed = Malformed("not a P-384 public key");
        let bytes: [u8; 120] = spki.try_into().map_err(|_| malformed)?;
        let key = p384::PublicKey::from_public_key_der(spki).map_err(|_| malformed)?;
        let again = key.to_public_key_der().map_err(|_| malformed)?;
        if again.as_bytes() == spki { Ok(Self(bytes)) } else { Err(malformed) }
    }

    pub(in crate::hsm) fn spki(&self) -> &[u8; 120] {
        &self.0
    }

    pub(in crate::hsm) fn kid(&self) -> Kid {
        Sha256::digest(self.0).into()
    }

    /// Verifies a raw `r ‖ s` signature with SHA-384.
    pub(in crate::hsm) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = VerifyingKey::from_public_key_der(&self.0);
        let signature = Signature::from_slice(signature);
        matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
    }

    pub(super) fn encode<S: Sink>(&self, e: &mut Encoder<S>) {
        e.bytes(&self.0);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> std::result::Result<Self, Malformed> {
        Self::from_spki(d.bytes()?)
    }

    /// The point, for arithmetic of the sharing.
    pub(super) fn point(&self) -> Result<p384::ProjectivePoint> {
        let key = p384::PublicKey::from_public_key_der(&self.0).map_err(|_| ErrorKind::GeneralError)?;
        Ok(key.to_projective())
    }

    pub(super) fn of(key: &p384::PublicKey) -> Result<Self> {
        let spki = key.to_public_key_der().map_err(|_| ErrorKind::GeneralError)?;
        Ok(Self(spki.as_bytes().try_into().map_err(|_| ErrorKind::GeneralError)?))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublicKey(")?;
        self.kid()[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// The private half of an agreement key, wherever it is held.
pub(in crate::hsm) trait Agreement {
    fn public(&self) -> Result<PublicKey>;
    /// ECDH: the x coordinate, 48 bytes.
    fn shared(&self, peer: &PublicKey) -> Result<Zeroizing<[u8; 48]>>;
}

/// A P-384 private scalar, 48 bytes big-endian, in secret memory.
pub(in crate::hsm) struct PrivateKey(SecretBytes);

impl PrivateKey {
    /// By testing candidates (FIPS 186-5 A.2.2).
    pub(in crate::hsm) fn generate(entropy: &mut Entropy) -> Result<Self> {
        loop {
            let candidate = SecretBytes::fill(48, |scalar| entropy.fill(scalar))?;
            if p384::SecretKey::from_slice(candidate.expose()).is_ok() {
                return Ok(Self(candidate));
            }
        }
    }

    pub(in crate::hsm) fn from_scalar(scalar: &[u8]) -> Result<Self> {
        let key = Self(SecretBytes::copy_of(scalar)?);
        key.parse().map(|_| key)
    }

    pub(in crate::hsm) fn scalar(&self) -> &[u8] {
        self.0.expose()
    }

    pub(in crate::hsm) fn public(&self) -> Result<PublicKey> {
        PublicKey::of(&self.parse()?.public_key())
    }

    /// A raw `r ‖ s` signature with SHA-384, the nonce by RFC 6979.
    pub(in crate::hsm) fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        let signature: Signature = SigningKey::from(self.parse()?).sign(message);
        Ok(signature.to_bytes().into())
    }

    /// ECDH and HKDF-SHA-384 with this info. The shared secret does not outlive the call.
    pub(super) fn agree<const N: usize>(&self, peer: &PublicKey, info: &[u8]) -> Result<Zeroizing<[u8; N]>> {
        agree(self, peer, info)
    }

    fn parse(&self) -> Result<p384::SecretKey> {
        // `from_slice` pads shorter input; a scalar has one length here.
        if self.0.len() != 48 {
            return Err(ErrorKind::DeviceError.with("a private key has a wrong length"));
        }
        p384::SecretKey::from_slice(self.0.expose())
            .map_err(|_| ErrorKind::DeviceError.with("a private key is not valid"))
    }
}

impl Agreement for PrivateKey {
    fn public(&self) -> Result<PublicKey> {
        Self::public(self)
    }

    fn shared(&self, peer: &PublicKey) -> Result<Zeroizing<[u8; 48]>> {
        let peer = p384::PublicKey::from_public_key_der(&peer.0).map_err(|_| ErrorKind::GeneralError)?;
        let shared = self.parse()?.diffie_hellman(&peer);
        Ok(Zeroizing::new((*shared.raw_secret_bytes()).into()))
    }
}

/// ECDH and HKDF-SHA-384 with this info.
pub(super) fn agree<const N: usize>(own: &dyn Agreement, peer: &PublicKey, info: &[u8]) -> Result<Zeroizing<[u8; N]>> {
    seal::expand(None, &*own.shared(peer)?, info)
}
