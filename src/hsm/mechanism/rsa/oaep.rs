//! OAEP encryption and key wrapping (PKCS#11 3.2 §6.1.8).

use std::sync::Arc;

use super::super::hashes;
use super::single_part::deliver;
use super::{Block, Checked, single_part, unwrapping, wrapping};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::rsa::RsaKey;
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, Oaep, Params};

/// The parameter, checked; the label is copied since the operation outlives the caller's.
pub(super) struct Settings<L> {
    hash: Hash,
    mgf: Hash,
    label: L,
}

impl<'a> Settings<&'a [u8]> {
    pub(super) fn new(params: &Oaep<'a>) -> Result<Self> {
        Ok(Self {
            hash: hashes::find(|names| names.digest, params.hash).ok_or(ErrorKind::MechanismParamInvalid)?,
            mgf: hashes::find(|names| names.mgf, params.mgf).ok_or(ErrorKind::MechanismParamInvalid)?,
            label: params.label,
        })
    }
}

impl<L: AsRef<[u8]>> Settings<L> {
    /// The longest plaintext under the key; CKR_KEY_SIZE_RANGE if there is none.
    fn max(&self, rsa: &RsaKey) -> Result<usize> {
        rsa.max_oaep(self.hash).ok_or_else(|| ErrorKind::KeySizeRange.into())
    }

    /// None if the input does not fit.
    pub(super) fn encrypt(&self, rsa: &RsaKey, input: &[u8], out: &mut [u8]) -> Result<Option<()>> {
        rsa.encrypt_oaep(self.hash, self.mgf, self.label.as_ref(), input, out)
    }

    /// None if the ciphertext is not valid.
    pub(super) fn decrypt(&self, rsa: &RsaKey, input: &[u8]) -> Result<Option<SecretBytes>> {
        rsa.decrypt_oaep(self.hash, self.mgf, self.label.as_ref(), input)
    }
}

fn settings<'a>(mechanism: &Mechanism<'a>) -> Result<Settings<&'a [u8]>> {
    match &mechanism.params {
        Params::Oaep(params) => Settings::new(params),
        _ => Err(ErrorKind::MechanismParamInvalid.into()),
    }
}

pub(super) fn cipher(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let Settings { hash, mgf, label } = settings(mechanism)?;
    let settings = Settings { hash, mgf, label: label.to_vec() };
    let key = Checked::new(key, function)?;
    let max = settings.max(key.rsa()?)?;
    Ok(match function {
        Function::Encrypt => single_part(Encrypt { key, settings, max }),
        _ => single_part(Decrypt { key, settings, max }),
    })
}

pub(super) fn wrap(mechanism: &Mechanism<'_>, key: &Arc<Key>, plain: &[u8]) -> Result<Vec<u8>> {
    let (settings, rsa) = (settings(mechanism)?, wrapping(key)?);
    let mut wrapped = vec![0; rsa.len()];
    settings.encrypt(rsa, plain, &mut wrapped)?.ok_or(ErrorKind::KeySizeRange)?;
    Ok(wrapped)
}

pub(super) fn unwrap(mechanism: &Mechanism<'_>, key: &Arc<Key>, wrapped: &[u8]) -> Result<SecretBytes> {
    let (settings, rsa) = (settings(mechanism)?, unwrapping(key)?);
    if wrapped.len() != rsa.len() {
        return Err(ErrorKind::WrappedKeyLenRange.into());
    }
    settings.decrypt(rsa, wrapped)?.ok_or_else(|| ErrorKind::WrappedKeyInvalid.into())
}

struct Encrypt {
    key: Checked,
    settings: Settings<Vec<u8>>,
    max: usize,
}

impl Block for Encrypt {
    fn input(&self) -> (usize, ErrorKind) {
        (self.max, ErrorKind::DataLenRange)
    }

    fn output_bound(&self) -> usize {
        self.key.rsa().map_or(0, RsaKey::len)
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.key.rsa()?;
        let Some(out) = output.get_mut(..rsa.len()) else { return Ok(Outcome::Needed(rsa.len())) };
        self.settings.encrypt(rsa, input, out)?.ok_or(ErrorKind::DataLenRange)?;
        Ok(Outcome::Written(rsa.len()))
    }
}

struct Decrypt {
    key: Checked,
    settings: Settings<Vec<u8>>,
    max: usize,
}

impl Block for Decrypt {
    fn input(&self) -> (usize, ErrorKind) {
        (self.key.rsa().map_or(0, RsaKey::len), ErrorKind::EncryptedDataLenRange)
    }

    fn output_bound(&self) -> usize {
        self.max
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.key.rsa()?;
        if input.len() != rsa.len() {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        }
        let plain = self.settings.decrypt(rsa, input)?.ok_or(ErrorKind::EncryptedDataInvalid)?;
        Ok(deliver(plain.expose(), output, plain.len()))
    }
}
