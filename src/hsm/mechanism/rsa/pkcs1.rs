//! PKCS #1 v1.5 (PKCS#11 3.2 §6.1.6): signatures over a given DigestInfo or a hash, recovery,
//! encryption and key wrapping.

use std::sync::Arc;

use cryptoki_sys as ck;
use subtle::ConstantTimeEq;

use super::super::hashes;
use super::super::signing::{check_len, collected, hashed, verdict};
use super::single_part::deliver;
use super::{Block, Checked, Scheme, implicit_rejection, single_part, unwrapping, wrapping};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::rsa::{Padding, RsaKey};
use crate::hsm::key::Key;
use crate::hsm::params::Mechanism;

/// Bytes that the padding takes.
const OVERHEAD: usize = 11;

/// CKM_RSA_PKCS: over the caller's DigestInfo.
pub(super) fn sign(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let key = Checked::new(key, function)?;
    let limit = key.rsa()?.len() - OVERHEAD;
    Ok(collected(function, limit, ErrorKind::DataLenRange, Given(key)))
}

/// CKM_SHA*_RSA_PKCS.
pub(super) fn sign_hashed(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let hash = hashes::find(|names| names.rsa_pkcs, mechanism.kind).ok_or(ErrorKind::MechanismInvalid)?;
    hashed(function, hash, OfHash { key: Checked::new(key, function)?, hash })
}

pub(super) fn recover(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let key = Checked::new(key, function)?;
    Ok(match function {
        Function::SignRecover => single_part(SignRecover(key)),
        _ => single_part(VerifyRecover(key)),
    })
}

pub(super) fn cipher(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let key = Checked::new(key, function)?;
    Ok(match function {
        Function::Encrypt => single_part(Encrypt(key)),
        _ => single_part(Decrypt(key)),
    })
}

pub(super) fn wrap(_: &Mechanism<'_>, key: &Arc<Key>, plain: &[u8]) -> Result<Vec<u8>> {
    let rsa = wrapping(key)?;
    let mut wrapped = vec![0; rsa.len()];
    rsa.encrypt(Padding::Pkcs1, plain, &mut wrapped)?.ok_or(ErrorKind::KeySizeRange)?;
    Ok(wrapped)
}

pub(super) fn unwrap(_: &Mechanism<'_>, key: &Arc<Key>, wrapped: &[u8]) -> Result<SecretBytes> {
    let rsa = unwrapping(key)?;
    if wrapped.len() != rsa.len() {
        return Err(ErrorKind::WrappedKeyLenRange.into());
    }
    decrypt(key, rsa, wrapped)?.ok_or_else(|| ErrorKind::WrappedKeyInvalid.into())
}

/// The plaintext, or a made-up one if the padding is wrong. None only for what everybody can see:
/// a ciphertext that is not below the modulus.
fn decrypt(key: &Key, rsa: &RsaKey, ciphertext: &[u8]) -> Result<Option<SecretBytes>> {
    let Some(block) = rsa.decrypt_raw(ciphertext)? else { return Ok(None) };
    implicit_rejection::unpad(block.expose(), key.secret(ck::CKA_PRIVATE_EXPONENT)?, ciphertext).map(Some)
}

struct Given(Checked);

impl Scheme for Given {
    fn signature_len(&self) -> usize {
        self.0.rsa().map_or(0, RsaKey::len)
    }

    fn sign(&self, input: &[u8], out: &mut [u8]) -> Result<()> {
        self.0.rsa()?.sign_raw(Padding::Pkcs1, input, out)?.ok_or_else(|| ErrorKind::DataLenRange.into())
    }

    fn verify(&self, input: &[u8], signature: &[u8]) -> Result<()> {
        let rsa = self.0.rsa()?;
        if input.len() > rsa.len() - OVERHEAD {
            return Err(ErrorKind::DataLenRange.into());
        }
        check_len(signature, rsa.len())?;
        let mut out = vec![0; rsa.len()];
        let recovered = rsa.recover(Padding::Pkcs1, signature, &mut out)?.and_then(|len| out.get(..len));
        verdict(recovered.is_some_and(|recovered| recovered.ct_eq(input).into()))
    }
}

struct OfHash {
    key: Checked,
    hash: Hash,
}

impl Scheme for OfHash {
    fn signature_len(&self) -> usize {
        self.key.rsa().map_or(0, RsaKey::len)
    }

    fn sign(&self, digest: &[u8], out: &mut [u8]) -> Result<()> {
        self.key.rsa()?.sign_pkcs1(self.hash, digest, out)
    }

    fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<()> {
        let rsa = self.key.rsa()?;
        check_len(signature, rsa.len())?;
        verdict(rsa.verify_pkcs1(self.hash, digest, signature))
    }
}

struct SignRecover(Checked);

impl Block for SignRecover {
    fn input(&self) -> (usize, ErrorKind) {
        (self.output_bound().saturating_sub(OVERHEAD), ErrorKind::DataLenRange)
    }

    fn output_bound(&self) -> usize {
        self.0.rsa().map_or(0, RsaKey::len)
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.0.rsa()?;
        let Some(out) = output.get_mut(..rsa.len()) else { return Ok(Outcome::Needed(rsa.len())) };
        rsa.sign_raw(Padding::Pkcs1, input, out)?.ok_or(ErrorKind::DataLenRange)?;
        Ok(Outcome::Written(rsa.len()))
    }
}

struct VerifyRecover(Checked);

impl Block for VerifyRecover {
    fn input(&self) -> (usize, ErrorKind) {
        (self.0.rsa().map_or(0, RsaKey::len), ErrorKind::SignatureLenRange)
    }

    fn output_bound(&self) -> usize {
        self.input().0.saturating_sub(OVERHEAD)
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.0.rsa()?;
        check_len(input, rsa.len())?;
        let mut out = vec![0; rsa.len()];
        let len = rsa.recover(Padding::Pkcs1, input, &mut out)?.ok_or(ErrorKind::SignatureInvalid)?;
        Ok(deliver(out.get(..len).unwrap_or_default(), output, len))
    }
}

struct Encrypt(Checked);

impl Block for Encrypt {
    fn input(&self) -> (usize, ErrorKind) {
        (self.output_bound().saturating_sub(OVERHEAD), ErrorKind::DataLenRange)
    }

    fn output_bound(&self) -> usize {
        self.0.rsa().map_or(0, RsaKey::len)
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.0.rsa()?;
        let Some(out) = output.get_mut(..rsa.len()) else { return Ok(Outcome::Needed(rsa.len())) };
        rsa.encrypt(Padding::Pkcs1, input, out)?.ok_or(ErrorKind::DataLenRange)?;
        Ok(Outcome::Written(rsa.len()))
    }
}

struct Decrypt(Checked);

impl Block for Decrypt {
    fn input(&self) -> (usize, ErrorKind) {
        (self.0.rsa().map_or(0, RsaKey::len), ErrorKind::EncryptedDataLenRange)
    }

    fn output_bound(&self) -> usize {
        self.input().0.saturating_sub(OVERHEAD)
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.0.rsa()?;
        if input.len() != rsa.len() {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        }
        let plain = decrypt(&self.0.0, rsa, input)?.ok_or(ErrorKind::EncryptedDataInvalid)?;
        // A made-up plaintext has a made-up length, the same at each attempt, so that a buffer
        // found too small tells no more than the plaintext itself; the bound tells nothing.
        Ok(deliver(plain.expose(), output, self.output_bound()))
    }
}
