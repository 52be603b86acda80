//! RSA without padding (CKM_RSA_X_509, PKCS#11 3.2 §6.1.12). Input is an integer, padded with
//! zeros on the left; output is as long as the modulus.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::super::signing::{check_len, collected, verdict};
use super::single_part::deliver;
use super::{Block, Checked, Scheme, SecretBytes, single_part};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::aws_lc::rsa::{Padding, RsaKey};
use crate::hsm::key::Key;
use crate::hsm::params::Mechanism;

pub(super) fn sign(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let key = Checked::new(key, function)?;
    let limit = key.rsa()?.len();
    Ok(collected(function, limit, ErrorKind::DataLenRange, Raw { key, function }))
}

pub(super) fn recover(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    Ok(single_part(Raw { key: Checked::new(key, function)?, function }))
}

pub(super) fn cipher(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    Ok(single_part(Raw { key: Checked::new(key, function)?, function }))
}

struct Raw {
    key: Checked,
    function: Function,
}

impl Raw {
    fn len(&self) -> usize {
        self.key.rsa().map_or(0, RsaKey::len)
    }

    /// The input as long as the modulus.
    fn padded(&self, input: &[u8]) -> Result<SecretBytes> {
        let padding = self.len().checked_sub(input.len()).ok_or(ErrorKind::DataLenRange)?;
        SecretBytes::fill(self.len(), |out| {
            out[padding..].copy_from_slice(input);
            Ok(())
        })
    }
}

impl Scheme for Raw {
    fn signature_len(&self) -> usize {
        self.len()
    }

    fn sign(&self, input: &[u8], out: &mut [u8]) -> Result<()> {
        let padded = self.padded(input)?;
        self.key.rsa()?.sign_raw(Padding::None, padded.expose(), out)?.ok_or_else(|| ErrorKind::DataInvalid.into())
    }

    fn verify(&self, input: &[u8], signature: &[u8]) -> Result<()> {
        let rsa = self.key.rsa()?;
        let padded = self.padded(input)?;
        check_len(signature, rsa.len())?;
        let mut recovered = vec![0; rsa.len()];
        let valid = rsa.recover(Padding::None, signature, &mut recovered)?.is_some();
        verdict(valid && recovered.ct_eq(padded.expose()).into())
    }
}

impl Block for Raw {
    fn input(&self) -> (usize, ErrorKind) {
        let too_long = match self.function {
            Function::Decrypt => ErrorKind::EncryptedDataLenRange,
            Function::VerifyRecover => ErrorKind::SignatureLenRange,
            _ => ErrorKind::DataLenRange,
        };
        (self.len(), too_long)
    }

    fn output_bound(&self) -> usize {
        self.len()
    }

    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome> {
        let rsa = self.key.rsa()?;
        let Some(out) = output.get_mut(..rsa.len()) else { return Ok(Outcome::Needed(rsa.len())) };
        match self.function {
            Function::Encrypt => {
                let padded = self.padded(input)?;
                rsa.encrypt(Padding::None, padded.expose(), out)?.ok_or(ErrorKind::DataInvalid)?;
            }
            Function::Decrypt => {
                if input.len() != rsa.len() {
                    return Err(ErrorKind::EncryptedDataLenRange.into());
                }
                let plain = rsa.decrypt_raw(input)?.ok_or(ErrorKind::EncryptedDataInvalid)?;
                return Ok(deliver(plain.expose(), out, rsa.len()));
            }
            Function::VerifyRecover => {
                check_len(input, rsa.len())?;
                rsa.recover(Padding::None, input, out)?.ok_or(ErrorKind::SignatureInvalid)?;
            }
            _ => self.sign(input, out)?,
        }
        Ok(Outcome::Written(rsa.len()))
    }
}
