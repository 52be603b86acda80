//! Keys in their standard encodings: SubjectPublicKeyInfo and PKCS#8 PrivateKeyInfo.

use std::ptr::{self, NonNull};

use aws_lc_sys as sys;

use super::bignum::Bn;
use super::ec::{Curve, EcKey};
use super::rsa::{RsaKey, RsaParts};
use super::{ed25519, failure, x25519};
use crate::error::Result;
use crate::hsm::crypto::SecretBytes;

/// An EVP_PKEY.
pub(super) struct Pkey(NonNull<sys::EVP_PKEY>);

// SAFETY: an EVP_PKEY is not changed after it was made, and AWS-LC lets many threads use one.
unsafe impl Send for Pkey {}
// SAFETY: as above.
unsafe impl Sync for Pkey {}

/// What a PKCS#8 PrivateKeyInfo held. Public parts are computed from the private ones.
pub(in crate::hsm) enum PrivateKeyInfo {
    Rsa(Box<RsaParts>),
    Ec(Curve, SecretBytes),
    Ed25519(SecretBytes),
    X25519(SecretBytes),
}

impl PrivateKeyInfo {
    /// Strict DER with nothing after it. None if malformed or of another algorithm or curve.
    pub(in crate::hsm) fn parse(der: &[u8]) -> Option<Self> {
        let pkey = Pkey::parse(der)?;
        // SAFETY: the EVP_PKEY is valid.
        match unsafe { sys::EVP_PKEY_id(pkey.0.as_ptr()) } {
            sys::EVP_PKEY_RSA => {
                // SAFETY: an EVP_PKEY of this kind holds an RSA, which lives as long.
                let parts = unsafe { RsaParts::copy_of(sys::EVP_PKEY_get0_RSA(pkey.0.as_ptr())) };
                parts.ok().map(|parts| Self::Rsa(Box::new(parts)))
            }
            sys::EVP_PKEY_EC => {
                // SAFETY: an EVP_PKEY of this kind holds an EC_KEY, which lives as long.
                let (curve, scalar) = unsafe { EcKey::scalar_of(sys::EVP_PKEY_get0_EC_KEY(pkey.0.as_ptr())) }?;
                Some(Self::Ec(curve, scalar))
            }
            sys::EVP_PKEY_ED25519 => pkey.raw_private(ed25519::SEED_LEN).ok().map(Self::Ed25519),
            sys::EVP_PKEY_X25519 => pkey.raw_private(x25519::KEY_LEN).ok().map(Self::X25519),
            _ => None,
        }
    }
}

/// PKCS#8 of an RSA key with its primes.
pub(in crate::hsm) fn rsa_private(key: &RsaKey) -> Result<SecretBytes> {
    key.pkey().marshal_private()
}

/// SubjectPublicKeyInfo of an RSA key or pair.
pub(in crate::hsm) fn rsa_public(key: &RsaKey) -> Result<Vec<u8>> {
    key.pkey().marshal_public()
}

/// PKCS#8 of a pair, with ECPrivateKey (RFC 5915) that holds the public key as well.
pub(in crate::hsm) fn ec_private(pair: &EcKey) -> Result<SecretBytes> {
    Pkey::from_ec(pair)?.marshal_private()
}

/// SubjectPublicKeyInfo of a public key or pair.
pub(in crate::hsm) fn ec_public(key: &EcKey) -> Result<Vec<u8>> {
    Pkey::from_ec(key)?.marshal_public()
}

/// The algorithms of RFC 8410 that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Rfc8410 {
    Ed25519,
    X25519,
}

impl Rfc8410 {
    fn id(self) -> i32 {
        match self {
            Self::Ed25519 => sys::EVP_PKEY_ED25519,
            Self::X25519 => sys::EVP_PKEY_X25519,
        }
    }

    /// PKCS#8 of a 32-byte private key.
    pub(in crate::hsm) fn private(self, value: &[u8]) -> Result<SecretBytes> {
        // SAFETY: pointer and length are of one slice; the function checks the length.
        let made =
            unsafe { sys::EVP_PKEY_new_raw_private_key(self.id(), ptr::null_mut(), value.as_ptr(), value.len()) };
        Pkey::own(made)?.marshal_private()
    }

    /// SubjectPublicKeyInfo of a 32-byte public key.
    pub(in crate::hsm) fn public(self, value: &[u8]) -> Result<Vec<u8>> {
        // SAFETY: pointer and length are of one slice; the function checks the length.
        let made = unsafe { sys::EVP_PKEY_new_raw_public_key(self.id(), ptr::null_mut(), value.as_ptr(), value.len()) };
        Pkey::own(made)?.marshal_public()
    }
}

impl Pkey {
    pub(super) fn own(made: *mut sys::EVP_PKEY) -> Result<Self> {
        NonNull::new(made).map(Self).ok_or_else(failure)
    }

    pub(super) fn new() -> Result<Self> {
        // SAFETY: EVP_PKEY_new has no preconditions; NULL is turned into an error.
        Self::own(unsafe { sys::EVP_PKEY_new() })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::EVP_PKEY {
        self.0.as_ptr()
    }

    fn from_ec(key: &EcKey) -> Result<Self> {
        let pkey = Self::new()?;
        // SAFETY: both are valid; the EVP_PKEY takes a reference of its own.
        match unsafe { sys::EVP_PKEY_set1_EC_KEY(pkey.as_ptr(), key.as_ptr()) } {
            1 => Ok(pkey),
            _ => Err(failure()),
        }
    }

    fn parse(der: &[u8]) -> Option<Self> {
        let mut cbs = sys::CBS { data: ptr::null(), len: 0 };
        // SAFETY: pointer and length are of one slice, which outlives the CBS.
        let pkey = unsafe {
            sys::CBS_init(&mut cbs, der.as_ptr(), der.len());
            sys::EVP_parse_private_key(&mut cbs)
        };
        Self::own(pkey).ok().filter(|_| cbs.len == 0)
    }

    fn raw_private(&self, len: usize) -> Result<SecretBytes> {
        SecretBytes::fill(len, |out| {
            let mut written = out.len();
            // SAFETY: the EVP_PKEY is valid and `out` is writable for `written` bytes.
            let got = unsafe { sys::EVP_PKEY_get_raw_private_key(self.as_ptr(), out.as_mut_ptr(), &mut written) };
            if got == 1 && written == out.len() { Ok(()) } else { Err(failure()) }
        })
    }

    fn marshal_private(&self) -> Result<SecretBytes> {
        // SAFETY: the builder that `marshal` passes and the EVP_PKEY are valid.
        marshal(|cbb| unsafe { sys::EVP_marshal_private_key(cbb, self.as_ptr()) == 1 }, SecretBytes::copy_of)
    }

    fn marshal_public(&self) -> Result<Vec<u8>> {
        // SAFETY: the builder that `marshal` passes and the EVP_PKEY are valid.
        marshal(|cbb| unsafe { sys::EVP_marshal_public_key(cbb, self.as_ptr()) == 1 }, |der| Ok(der.to_vec()))
    }
}

impl Drop for Pkey {
    fn drop(&mut self) {
        // SAFETY: self owns the EVP_PKEY, and nothing uses it after this.
        unsafe { sys::EVP_PKEY_free(self.0.as_ptr()) }
    }
}

/// Runs `write` on a byte builder and `copy` on what it built; AWS-LC wipes the builder's memory.
fn marshal<T>(write: impl FnOnce(*mut sys::CBB) -> bool, copy: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let mut cbb = std::mem::MaybeUninit::<sys::CBB>::uninit();
    let (mut data, mut len) = (ptr::null_mut(), 0);
    // SAFETY: CBB_init initialises the builder, and after its success exactly one of CBB_finish,
    // which moves the bytes out, and CBB_cleanup ends it.
    let built = unsafe {
        if sys::CBB_init(cbb.as_mut_ptr(), 512) != 1 {
            return Err(failure());
        }
        let built = write(cbb.as_mut_ptr()) && sys::CBB_finish(cbb.as_mut_ptr(), &mut data, &mut len) == 1;
        if !built {
            sys::CBB_cleanup(cbb.as_mut_ptr());
        }
        built
    };
    if !built || data.is_null() {
        return Err(failure());
    }
    // SAFETY: CBB_finish gave `len` initialised bytes at `data`, which are freed below only.
    let result = copy(unsafe { std::slice::from_raw_parts(data, len) });
    // SAFETY: `data` came from AWS-LC's allocator and is not used after this. OPENSSL_free wipes.
    unsafe { sys::OPENSSL_free(data.cast()) };
    result
}

impl RsaParts {
    /// The parts of `rsa`.
    ///
    /// # Safety
    /// `rsa` is NULL or valid for the duration of the call.
    pub(super) unsafe fn copy_of(rsa: *const sys::RSA) -> Result<Self> {
        if rsa.is_null() {
            return Err(failure());
        }
        let secret = |raw: *const sys::BIGNUM| {
            // SAFETY: a part of the key, which is valid by this function's contract, or NULL.
            unsafe { Bn::copy_of(raw) }?.map(|bn| bn.to_secret()).transpose()
        };
        let public = |raw: *const sys::BIGNUM| {
            // SAFETY: as above.
            unsafe { Bn::copy_of(raw) }?.map(|bn| bn.to_bytes()).transpose()
        };
        // SAFETY: `rsa` is valid; the pointers are used at once.
        unsafe {
            Ok(Self {
                n: public(sys::RSA_get0_n(rsa))?.unwrap_or_default(),
                e: public(sys::RSA_get0_e(rsa))?,
                d: secret(sys::RSA_get0_d(rsa))?,
                p: secret(sys::RSA_get0_p(rsa))?,
                q: secret(sys::RSA_get0_q(rsa))?,
                dp: secret(sys::RSA_get0_dmp1(rsa))?,
                dq: secret(sys::RSA_get0_dmq1(rsa))?,
                qi: secret(sys::RSA_get0_iqmp(rsa))?,
            })
        }
    }
}
