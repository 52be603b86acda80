//! ML-KEM-1024 (FIPS 203).
//!
//! A private key is kept as its seed `d ‖ z` (FIPS 203 §3.3), which is short enough for secret
//! memory; the expanded key lives in an AWS-LC object, which cleanses it, for one call.

use std::ptr::{self, NonNull};

use aws_lc_sys as sys;

use super::{check, clear_errors, failure};
use crate::error::Result;
use crate::hsm::crypto::SecretBytes;

/// Length of the seed of a key pair.
pub(in crate::hsm) const SEED_LEN: usize = 64;
/// Length of an encapsulation key and of a ciphertext.
pub(in crate::hsm) const PUBLIC_LEN: usize = 1568;
/// Length of a shared secret, and of the randomness of an encapsulation.
pub(in crate::hsm) const SHARED_LEN: usize = 32;

/// An encapsulation key, or a ciphertext.
pub(in crate::hsm) type Public = Box<[u8; PUBLIC_LEN]>;

/// The encapsulation key of the pair of a 64-byte seed.
pub(in crate::hsm) fn encapsulation_key(seed: &[u8]) -> Result<Public> {
    let pair = Key::of_seed(seed)?;
    let mut public = Box::new([0; PUBLIC_LEN]);
    let mut len = public.len();
    // SAFETY: the key is valid; `public` is writable for `len` bytes.
    check(unsafe { sys::EVP_PKEY_get_raw_public_key(pair.0.as_ptr(), public.as_mut_ptr(), &raw mut len) })?;
    if len == PUBLIC_LEN { Ok(public) } else { Err(failure()) }
}

/// Ciphertext and shared secret for a peer's encapsulation key, out of 32 random bytes that are
/// used once. None if the key fails the check of FIPS 203 §7.2.
pub(in crate::hsm) fn encapsulate(public: &[u8], random: &[u8]) -> Option<Result<(Public, SecretBytes)>> {
    if random.len() != SHARED_LEN {
        return Some(Err(failure()));
    }
    let key = Key::of_public(public)?;
    let context = match Context::of_key(&key) {
        Ok(context) => context,
        Err(error) => return Some(Err(error)),
    };
    let mut ciphertext = Box::new([0; PUBLIC_LEN]);
    let mut accepted = false;
    let shared = SecretBytes::fill(SHARED_LEN, |shared| {
        let (mut ciphertext_len, mut shared_len, mut random_len) = (PUBLIC_LEN, shared.len(), random.len());
        // SAFETY: the context is valid and of a key; each buffer has the length that goes with it.
        let status = unsafe {
            sys::EVP_PKEY_encapsulate_deterministic(
                context.0.as_ptr(),
                ciphertext.as_mut_ptr(),
                &raw mut ciphertext_len,
                shared.as_mut_ptr(),
                &raw mut shared_len,
                random.as_ptr(),
                &raw mut random_len,
            )
        };
        accepted = status == 1 && ciphertext_len == PUBLIC_LEN && shared_len == SHARED_LEN;
        Ok(())
    });
    if !accepted && shared.is_ok() {
        clear_errors();
        return None;
    }
    Some(shared.map(|shared| (ciphertext, shared)))
}

/// The shared secret of a ciphertext for the pair of a 64-byte seed. A ciphertext that was not made
/// for it gives another secret (FIPS 203 §6.3), not an error.
pub(in crate::hsm) fn decapsulate(seed: &[u8], ciphertext: &[u8; PUBLIC_LEN]) -> Result<SecretBytes> {
    let pair = Key::of_seed(seed)?;
    let context = Context::of_key(&pair)?;
    SecretBytes::fill(SHARED_LEN, |shared| {
        let mut len = shared.len();
        // SAFETY: the context is valid and of a private key; each buffer has the length that goes
        // with it.
        let status = unsafe {
            sys::EVP_PKEY_decapsulate(
                context.0.as_ptr(),
                shared.as_mut_ptr(),
                &raw mut len,
                ciphertext.as_ptr(),
                ciphertext.len(),
            )
        };
        check(status)?;
        if len == SHARED_LEN { Ok(()) } else { Err(failure()) }
    })
}

struct Key(NonNull<sys::EVP_PKEY>);

impl Key {
    fn of_seed(seed: &[u8]) -> Result<Self> {
        if seed.len() != SEED_LEN {
            return Err(failure());
        }
        // SAFETY: takes any number and a NULL engine; NULL is turned into an error.
        let context = unsafe { sys::EVP_PKEY_CTX_new_id(sys::EVP_PKEY_KEM, ptr::null_mut()) };
        let context = Context(NonNull::new(context).ok_or_else(failure)?);
        let mut key = ptr::null_mut();
        let mut len = seed.len();
        // SAFETY: the context is valid; `seed` has `len` bytes; `key` takes a new object.
        unsafe {
            check(sys::EVP_PKEY_CTX_kem_set_params(context.0.as_ptr(), sys::NID_MLKEM1024))?;
            check(sys::EVP_PKEY_keygen_init(context.0.as_ptr()))?;
            check(sys::EVP_PKEY_keygen_deterministic(context.0.as_ptr(), &raw mut key, seed.as_ptr(), &raw mut len))?;
        }
        NonNull::new(key).map(Self).ok_or_else(failure)
    }

    fn of_public(public: &[u8]) -> Option<Self> {
        if public.len() != PUBLIC_LEN {
            return None;
        }
        // SAFETY: pointer and length are of one slice; NULL is turned into None.
        let key = unsafe { sys::EVP_PKEY_kem_new_raw_public_key(sys::NID_MLKEM1024, public.as_ptr(), public.len()) };
        let key = NonNull::new(key).map(Self);
        if key.is_none() {
            clear_errors();
        }
        key
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: self owns the key, and nothing uses it after this.
        unsafe { sys::EVP_PKEY_free(self.0.as_ptr()) }
    }
}

struct Context(NonNull<sys::EVP_PKEY_CTX>);

impl Context {
    fn of_key(key: &Key) -> Result<Self> {
        // SAFETY: the key is valid, and the context takes a reference of its own; the engine is NULL.
        let context = unsafe { sys::EVP_PKEY_CTX_new(key.0.as_ptr(), ptr::null_mut()) };
        NonNull::new(context).map(Self).ok_or_else(failure)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: self owns the context, and nothing uses it after this.
        unsafe { sys::EVP_PKEY_CTX_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree() {
        let seed = [7; SEED_LEN];
        let public = encapsulation_key(&seed).unwrap();
        let (ciphertext, shared) = encapsulate(&*public, &[9; SHARED_LEN]).unwrap().unwrap();
        assert_eq!(decapsulate(&seed, &ciphertext).unwrap().expose(), shared.expose());
        let mut other = ciphertext.clone();
        other[0] ^= 1;
        assert_ne!(decapsulate(&seed, &other).unwrap().expose(), shared.expose());
        // Coefficients of q and more are no encapsulation key.
        let mut malformed = public.clone();
        malformed[..3].fill(0xff);
        assert!(encapsulate(&*malformed, &[9; SHARED_LEN]).is_none());
        assert!(encapsulate(&public[1..], &[9; SHARED_LEN]).is_none());
    }
}
