//! HKDF (RFC 5869) and PBKDF2 (RFC 8018).

use aws_lc_sys as lc;

use super::super::SecretBytes;
use super::check;
use super::digest::Hash;
use crate::error::{ErrorKind, Result};

/// The extract step: a key of the hash's length. An empty salt is as good as none.
pub(in crate::hsm) fn hkdf_extract(hash: Hash, secret: &[u8], salt: &[u8]) -> Result<SecretBytes> {
    SecretBytes::fill(hash.len(), |out| {
        let mut len = 0;
        // SAFETY: `out` has the hash's length, which is what is written; pointers and lengths are
        // those of the slices.
        check(unsafe {
            lc::HKDF_extract(
                out.as_mut_ptr(),
                &mut len,
                hash.evp_md(),
                secret.as_ptr(),
                secret.len(),
                salt.as_ptr(),
                salt.len(),
            )
        })
    })
}

/// The expand step: `len` bytes, at most 255 times the hash's length, else CKR_KEY_SIZE_RANGE.
pub(in crate::hsm) fn hkdf_expand(hash: Hash, key: &[u8], info: &[u8], len: usize) -> Result<SecretBytes> {
    if len > 255 * hash.len() {
        return Err(ErrorKind::KeySizeRange.into());
    }
    SecretBytes::fill(len, |out| {
        // SAFETY: pointers and lengths are those of the slices.
        check(unsafe {
            lc::HKDF_expand(
                out.as_mut_ptr(),
                out.len(),
                hash.evp_md(),
                key.as_ptr(),
                key.len(),
                info.as_ptr(),
                info.len(),
            )
        })
    })
}

/// PBKDF2 with HMAC. `iterations` is not zero.
pub(in crate::hsm) fn pbkdf2(
    hash: Hash,
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    len: usize,
) -> Result<SecretBytes> {
    SecretBytes::fill(len, |out| {
        // SAFETY: pointers and lengths are those of the slices; the password's pointer is not
        // NULL even if it is empty.
        check(unsafe {
            lc::PKCS5_PBKDF2_HMAC(
                password.as_ptr().cast(),
                password.len(),
                salt.as_ptr(),
                salt.len(),
                iterations,
                hash.evp_md(),
                out.len(),
                out.as_mut_ptr(),
            )
        })
    })
}
