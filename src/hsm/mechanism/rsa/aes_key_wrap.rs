//! CKM_RSA_AES_KEY_WRAP (PKCS#11 3.2 §6.1.21): a fresh AES key under OAEP, followed by the target
//! under that AES key with AES-KWP. Takes keys of any length.

use std::sync::Arc;

use super::oaep::Settings;
use super::{unwrapping, wrapping};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::aes::AesKey;
use crate::hsm::crypto::aws_lc::random;
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, Params};

pub(super) fn wrap(mechanism: &Mechanism<'_>, key: &Arc<Key>, plain: &[u8]) -> Result<Vec<u8>> {
    let ((aes_len, oaep), rsa) = (settings(mechanism)?, wrapping(key)?);
    let secret = random::secret(aes_len)?;
    // AES-KWP takes 1 to 2^32 - 1 bytes and adds a block of 8 after rounding up to 8.
    if plain.is_empty() || u32::try_from(plain.len()).is_err() {
        return Err(ErrorKind::KeySizeRange.into());
    }
    let mut wrapped = vec![0; rsa.len() + plain.len().next_multiple_of(8) + 8];
    let (head, tail) = wrapped.split_at_mut(rsa.len());
    oaep.encrypt(rsa, secret.expose(), head)?.ok_or(ErrorKind::WrappingKeySizeRange)?;
    AesKey::new(secret.expose())?.wrap_padded(plain, tail)?;
    Ok(wrapped)
}

pub(super) fn unwrap(mechanism: &Mechanism<'_>, key: &Arc<Key>, wrapped: &[u8]) -> Result<SecretBytes> {
    let ((aes_len, oaep), rsa) = (settings(mechanism)?, unwrapping(key)?);
    let (head, tail) = wrapped.split_at_checked(rsa.len()).ok_or(ErrorKind::WrappedKeyLenRange)?;
    if tail.len() < 16 || !tail.len().is_multiple_of(8) {
        return Err(ErrorKind::WrappedKeyLenRange.into());
    }
    let secret = oaep.decrypt(rsa, head)?.filter(|secret| secret.len() == aes_len);
    let aes = AesKey::new(secret.ok_or(ErrorKind::WrappedKeyInvalid)?.expose())?;
    let mut len = 0;
    let mut plain = SecretBytes::fill(tail.len() - 8, |out| {
        len = aes.unwrap_padded(tail, out).map_err(|_| ErrorKind::WrappedKeyInvalid)?;
        Ok(())
    })?;
    plain.truncate(len);
    Ok(plain)
}

/// Length of the AES key in bytes, and the settings of OAEP.
fn settings<'a>(mechanism: &Mechanism<'a>) -> Result<(usize, Settings<&'a [u8]>)> {
    match &mechanism.params {
        Params::RsaAesKeyWrap { aes_bits: bits @ (128 | 192 | 256), oaep } => {
            Ok((*bits as usize / 8, Settings::new(oaep)?))
        }
        _ => Err(ErrorKind::MechanismParamInvalid.into()),
    }
}
