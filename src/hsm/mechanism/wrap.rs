//! Wrapping with a cipher: what the families' `WrapFns` share.

use std::sync::Arc;

use der::{Decode, Header, Reader, SliceReader};
use zeroize::Zeroizing;

use super::BeginFn;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::command::{Function, Outcome};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::key::Key;
use crate::hsm::params::Mechanism;

/// Encrypts a key's bytes in one call.
pub(super) fn wrap_with(begin: BeginFn, mechanism: &Mechanism<'_>, key: &Arc<Key>, plain: &[u8]) -> Result<Vec<u8>> {
    let wrapped = || -> Result<Vec<u8>> {
        let mut operation = begin(mechanism, Function::Encrypt, Arc::clone(key))?;
        let (Outcome::Needed(len) | Outcome::Written(len)) = operation.one_shot(plain, None)?;
        let mut wrapped = vec![0; len];
        match operation.one_shot(plain, Some(&mut wrapped))? {
            Outcome::Written(len) => wrapped.truncate(len),
            Outcome::Needed(_) => return Err(ErrorKind::GeneralError.into()),
        }
        Ok(wrapped)
    };
    wrapped().map_err(|error| match error.kind() {
        ErrorKind::KeySizeRange => ErrorKind::WrappingKeySizeRange.into(),
        ErrorKind::DataLenRange => ErrorKind::KeySizeRange.into(),
        _ => error,
    })
}

/// The same, of the bytes filled up with zeros to whole blocks of `block` bytes, at least `least`.
pub(super) fn wrap_zero_padded(
    begin: BeginFn,
    mechanism: &Mechanism<'_>,
    key: &Arc<Key>,
    plain: &[u8],
    block: usize,
    least: usize,
) -> Result<Vec<u8>> {
    let mut padded = Zeroizing::new(vec![0; plain.len().next_multiple_of(block).max(least)]);
    padded[..plain.len()].copy_from_slice(plain);
    wrap_with(begin, mechanism, key, &padded)
}

/// Decrypts a key's bytes in one call.
pub(super) fn unwrap_with(
    begin: BeginFn,
    mechanism: &Mechanism<'_>,
    key: &Arc<Key>,
    wrapped: &[u8],
) -> Result<SecretBytes> {
    let plain = || -> Result<SecretBytes> {
        let mut operation = begin(mechanism, Function::Decrypt, Arc::clone(key))?;
        let (Outcome::Needed(len) | Outcome::Written(len)) = operation.one_shot(wrapped, None)?;
        let mut plain = Zeroizing::new(vec![0; len]);
        match operation.one_shot(wrapped, Some(&mut plain))? {
            Outcome::Written(len) => SecretBytes::copy_of(plain.get(..len).unwrap_or_default()),
            Outcome::Needed(_) => Err(ErrorKind::GeneralError.into()),
        }
    };
    plain().map_err(unwrap_error)
}

/// One error for every reason that lies in the wrapped bytes, another for their length.
fn unwrap_error(error: Error) -> Error {
    match error.kind() {
        ErrorKind::KeySizeRange => ErrorKind::UnwrappingKeySizeRange.into(),
        ErrorKind::EncryptedDataLenRange | ErrorKind::DataLenRange => ErrorKind::WrappedKeyLenRange.into(),
        ErrorKind::EncryptedDataInvalid => ErrorKind::WrappedKeyInvalid.into(),
        _ => error,
    }
}

/// Cuts the zeros off that the wrapping side of a mechanism with [`super::Row::zero_pad`] added.
/// `want` is the template's CKA_VALUE_LEN, if it has one: it must be the length of a value that
/// would have been padded to this one, and what is cut must be zeros, or else the key could be
/// shortened by whoever unwraps it. CKR_WRAPPED_KEY_INVALID.
pub(in crate::hsm) fn unpad_zeros(zero_pad: usize, plain: SecretBytes, want: Option<u64>) -> Result<SecretBytes> {
    let Some(want) = want else { return Ok(plain) };
    let (value, padding) = usize::try_from(want)
        .ok()
        .and_then(|want| plain.expose().split_at_checked(want))
        .ok_or(ErrorKind::WrappedKeyInvalid)?;
    if padding.is_empty() {
        return Ok(plain);
    }
    // A key wrap pads one 8-byte block to the least that it takes, two.
    let least = if zero_pad == 8 { 16 } else { zero_pad };
    let expected = value.len().checked_next_multiple_of(zero_pad.max(1)).map(|len| len.max(least));
    let zeros = padding.iter().fold(0, |all, byte| all | byte) == 0;
    if value.is_empty() || expected != Some(plain.len()) || !zeros {
        return Err(ErrorKind::WrappedKeyInvalid.into());
    }
    SecretBytes::copy_of(value)
}

/// The same for a private key, whose encoding says how long it is.
pub(in crate::hsm) fn unpad_private_key(zero_pad: usize, plain: SecretBytes) -> Result<SecretBytes> {
    if zero_pad == 0 {
        return Ok(plain);
    }
    let len = encoded_len(plain.expose()).ok_or(ErrorKind::WrappedKeyInvalid)?;
    unpad_zeros(zero_pad, plain, Some(len))
}

/// The length of the DER value at the front of `bytes`, header included.
fn encoded_len(bytes: &[u8]) -> Option<u64> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    Some(u64::from(u32::from(header.length())) + u64::from(u32::from(reader.position())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpadded(zero_pad: usize, plain: &[u8], want: Option<u64>) -> Option<Vec<u8>> {
        let plain = SecretBytes::copy_of(plain).unwrap();
        unpad_zeros(zero_pad, plain, want).ok().map(|value| value.expose().to_vec())
    }

    #[test]
    fn only_what_padding_added_is_cut() {
        assert_eq!(unpadded(16, &[7; 32], None), Some(vec![7; 32]));
        assert_eq!(unpadded(16, &[7; 32], Some(32)), Some(vec![7; 32]));
        assert_eq!(unpadded(16, &[&[7; 24][..], &[0; 8]].concat(), Some(24)), Some(vec![7; 24]));
        assert_eq!(unpadded(8, &[&[7; 5][..], &[0; 11]].concat(), Some(5)), Some(vec![7; 5]));
        assert_eq!(unpadded(16, &[7; 32], Some(24)), None, "not zeros");
        assert_eq!(unpadded(16, &[&[7; 16][..], &[0; 16]].concat(), Some(16)), None, "a whole block");
        assert_eq!(unpadded(16, &[0; 16], Some(0)), None);
        assert_eq!(unpadded(16, &[7; 16], Some(17)), None);
        assert_eq!(unpadded(16, &[7; 16], Some(u64::MAX)), None);
        assert_eq!(unpadded(0, &[7, 0], Some(1)), None, "nothing is padded");
    }

    #[test]
    fn a_private_key_ends_where_its_encoding_says() {
        let encoded = [&[0x30, 0x82, 0x00, 0x0b][..], &[1; 11]].concat();
        let long = [&[0x30, 11][..], &[1; 11], &[0; 3]].concat();
        let cut = |bytes: &[u8]| unpad_private_key(8, SecretBytes::copy_of(bytes).unwrap()).map(|key| key.len()).ok();
        assert_eq!(cut(&encoded), None, "the length is not in its shortest form");
        assert_eq!(cut(&long), Some(13));
        assert_eq!(cut(&long[..13]), Some(13));
        assert_eq!(cut(&[]), None);
    }
}
