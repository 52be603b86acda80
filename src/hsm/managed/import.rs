//! Import of key material: a wrapping key made here, an import token that carries its private half
//! sealed, and what is checked of the material that comes back (`docs/protocols.md`, "Import").

use std::sync::Arc;

use cryptoki_sys as ck;

use super::super::command::ObjectId;
use super::super::crypto::SecretBytes;
use super::super::domain::cbor::{Decoded, Decoder, Encoder};
use super::super::domain::{IndexKey, Kind, Sealer};
use super::super::key::Key;
use super::super::mechanism;
use super::super::params::{Mechanism, Oaep, Params};
use super::material;
use super::spec::Spec;
use crate::error::{ErrorKind, Result};

/// How long a wrapping key and its token are good for, in seconds.
pub(in crate::hsm) const VALIDITY: u64 = 24 * 60 * 60;

/// Tokens are no records that are written again: they have no generations.
const GENERATION: u64 = 0;

/// How material is wrapped for the way here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Algorithm {
    OaepSha1,
    OaepSha256,
    AesKeyWrapSha1,
    AesKeyWrapSha256,
}

impl Algorithm {
    pub(in crate::hsm) const ALL: &[Self] =
        &[Self::OaepSha1, Self::OaepSha256, Self::AesKeyWrapSha1, Self::AesKeyWrapSha256];

    /// The model system's name.
    pub(in crate::hsm) fn name(self) -> &'static str {
        match self {
            Self::OaepSha1 => "RSAES_OAEP_SHA_1",
            Self::OaepSha256 => "RSAES_OAEP_SHA_256",
            Self::AesKeyWrapSha1 => "RSA_AES_KEY_WRAP_SHA_1",
            Self::AesKeyWrapSha256 => "RSA_AES_KEY_WRAP_SHA_256",
        }
    }

    pub(in crate::hsm) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.name() == name)
    }

    /// The hash of MGF1 is that of OAEP; the AES key has 256 bits.
    fn mechanism(self) -> Mechanism<'static> {
        let (hash, mgf) = match self {
            Self::OaepSha1 | Self::AesKeyWrapSha1 => (ck::CKM_SHA_1, ck::CKG_MGF1_SHA1),
            Self::OaepSha256 | Self::AesKeyWrapSha256 => (ck::CKM_SHA256, ck::CKG_MGF1_SHA256),
        };
        let oaep = Oaep { hash, mgf, label: &[] };
        match self {
            Self::OaepSha1 | Self::OaepSha256 => Mechanism { kind: ck::CKM_RSA_PKCS_OAEP, params: Params::Oaep(oaep) },
            Self::AesKeyWrapSha1 | Self::AesKeyWrapSha256 => {
                Mechanism { kind: ck::CKM_RSA_AES_KEY_WRAP, params: Params::RsaAesKeyWrap { aes_bits: 256, oaep } }
            }
        }
    }
}

/// What the caller needs to wrap material for one key.
pub(in crate::hsm) struct Parameters {
    /// DER SubjectPublicKeyInfo of the wrapping key.
    pub(in crate::hsm) public_key: Vec<u8>,
    pub(in crate::hsm) token: Vec<u8>,
    /// Seconds since 1970.
    pub(in crate::hsm) expires: u64,
}

/// CKR_ARGUMENTS_BAD unless keys of the spec wrap material.
pub(in crate::hsm) fn check_wrapping(spec: &Spec) -> Result<()> {
    if spec.key_type == ck::CKK_RSA {
        Ok(())
    } else {
        Err(ErrorKind::ArgumentsBad.with("a wrapping key is RSA_2048, RSA_3072 or RSA_4096"))
    }
}

/// A new wrapping key of an RSA spec, for the key whose record `object` is. CKR_ARGUMENTS_BAD for
/// another spec.
pub(in crate::hsm) fn parameters(
    sealer: &Sealer,
    object: &ObjectId,
    algorithm: Algorithm,
    wrapping: &Spec,
    now: u64,
) -> Result<Parameters> {
    check_wrapping(wrapping)?;
    let pair = material::generate_pair(wrapping)?;
    let expires = now.saturating_add(VALIDITY);
    let mut e = Encoder::secret();
    e.array(4).text(algorithm.name()).text(wrapping.name).uint(expires).bytes(pair.private.expose());
    let token = sealer.seal(Kind::Import, object, GENERATION, e.finish()?.expose())?;
    Ok(Parameters { public_key: pair.public, token, expires })
}

/// An opened import token.
pub(in crate::hsm) struct Token {
    algorithm: Algorithm,
    wrapping: Arc<Key>,
}

impl Token {
    /// Opens a token that was made for the same key. `sealer` is that of the domain key which the
    /// token names (`domain::key_id_of`). KMS_R_INVALID_IMPORT_TOKEN for what is not one for this key,
    /// KMS_R_EXPIRED_IMPORT_TOKEN.
    pub(in crate::hsm) fn open(sealer: &Sealer, object: &ObjectId, token: &[u8], now: u64) -> Result<Self> {
        let invalid = || ErrorKind::KmsInvalidImportToken;
        let body = sealer.open(Kind::Import, object, GENERATION, token).map_err(|_| invalid())?;
        let read = || -> Decoded<_> {
            let mut d = Decoder::new(body.expose());
            d.array_of(4)?;
            let read = (d.text()?, d.text()?, d.uint()?, d.bytes()?);
            d.end()?;
            Ok(read)
        };
        let (algorithm, wrapping, expires, private) = read().map_err(|_| invalid())?;
        if now >= expires {
            return Err(ErrorKind::KmsExpiredImportToken.into());
        }
        let algorithm = Algorithm::named(algorithm).ok_or_else(invalid)?;
        let private = SecretBytes::copy_of(private)?;
        let wrapping = Spec::named(wrapping).and_then(|spec| material::read(spec, private)).ok_or_else(invalid)?;
        Ok(Self { algorithm, wrapping: Arc::new(wrapping) })
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<SecretBytes> {
        let mechanism = self.algorithm.mechanism();
        let functions = mechanism::row(mechanism.kind)?.wrap.ok_or(ErrorKind::GeneralError)?;
        (functions.unwrap)(&mechanism, &self.wrapping, wrapped).map_err(|error| match error.kind() {
            ErrorKind::WrappedKeyInvalid | ErrorKind::WrappedKeyLenRange => {
                ErrorKind::KmsInvalidCiphertext.with("the material does not unwrap")
            }
            _ => error,
        })
    }
}

/// Material that a key may take.
pub(in crate::hsm) struct Imported {
    /// CKA_CLASS, CKA_KEY_TYPE and what follows from the value; the secrets.
    pub(in crate::hsm) key: Key,
    /// CKA_KMS_MATERIAL.
    pub(in crate::hsm) commitment: [u8; 32],
}

/// Unwraps material for the key whose record `object` is, and checks it against the key's spec.
/// Whether the key takes this material again is for `Managed::import_material` to say.
/// KMS_R_INVALID_CIPHERTEXT if it does not unwrap, for whatever reason; KMS_R_INCORRECT_KEY_MATERIAL
/// if what was wrapped does not fit the spec.
pub(in crate::hsm) fn import(
    token: &Token,
    wrapped: &[u8],
    spec: &Spec,
    object: &ObjectId,
    index: &IndexKey,
) -> Result<Imported> {
    let key = material::read(spec, token.unwrap(wrapped)?)
        .ok_or_else(|| ErrorKind::KmsIncorrectKeyMaterial.with("what was wrapped does not fit the key's spec"))?;
    // Of the one encoding, so that the same private key in another PKCS#8 is the same material.
    let commitment = index.material_commitment(object, material::encode(spec, &key)?.expose())?;
    Ok(Imported { key, commitment })
}

#[cfg(test)]
mod tests;
