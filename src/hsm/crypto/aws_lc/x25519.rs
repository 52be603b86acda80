//! X25519 (RFC 7748).

use aws_lc_sys as sys;

use super::{clear_errors, failure};
use crate::error::Result;
use crate::hsm::crypto::SecretBytes;

/// Length of private and public keys and of the shared secret.
pub(in crate::hsm) const KEY_LEN: usize = 32;

/// A pair: the private key and the public one.
pub(in crate::hsm) fn generate() -> Result<(SecretBytes, [u8; KEY_LEN])> {
    let mut public = [0; KEY_LEN];
    let private = SecretBytes::fill(KEY_LEN, |out| {
        // SAFETY: both buffers have 32 bytes.
        unsafe { sys::X25519_keypair(public.as_mut_ptr(), out.as_mut_ptr()) };
        Ok(())
    })?;
    Ok((private, public))
}

/// The public key of a 32-byte private key.
pub(in crate::hsm) fn public_of(private: &[u8]) -> Result<[u8; KEY_LEN]> {
    if private.len() != KEY_LEN {
        return Err(failure());
    }
    let mut public = [0; KEY_LEN];
    // SAFETY: both buffers have 32 bytes.
    unsafe { sys::X25519_public_from_private(public.as_mut_ptr(), private.as_ptr()) };
    Ok(public)
}

/// The shared secret. None if the peer's key has a wrong length or is of small order, which gives
/// zero (RFC 7748 §6.1).
pub(in crate::hsm) fn agree(private: &[u8], peer: &[u8]) -> Option<Result<SecretBytes>> {
    if peer.len() != KEY_LEN {
        return None;
    }
    if private.len() != KEY_LEN {
        return Some(Err(failure()));
    }
    let mut agreed = false;
    let secret = SecretBytes::fill(KEY_LEN, |out| {
        // SAFETY: the three buffers have 32 bytes each.
        agreed = unsafe { sys::X25519(out.as_mut_ptr(), private.as_ptr(), peer.as_ptr()) == 1 };
        Ok(())
    });
    if !agreed {
        clear_errors();
        return None;
    }
    Some(secret)
}

/// Whether a public key can give a shared secret at all: small order does not depend on the
/// private key, so any shows it.
pub(in crate::hsm) fn valid_public(public: &[u8]) -> bool {
    agree(&[8; KEY_LEN], public).is_some()
}
