//! AWS-LC's big integers: what key parsing and key checking need of them.

use std::ptr::{self, NonNull};

use aws_lc_sys as sys;

use super::failure;
use crate::error::Result;
use crate::hsm::crypto::SecretBytes;

/// An unsigned big integer. AWS-LC wipes it when it is freed.
pub(super) struct Bn(NonNull<sys::BIGNUM>);

impl Bn {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: BN_new has no preconditions; NULL is turned into an error.
        NonNull::new(unsafe { sys::BN_new() }).map(Self).ok_or_else(failure)
    }

    /// From big-endian bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        // SAFETY: the pointer and length are of one slice; a NULL result pointer asks for a new BIGNUM.
        let made = unsafe { sys::BN_bin2bn(bytes.as_ptr(), bytes.len(), ptr::null_mut()) };
        NonNull::new(made).map(Self).ok_or_else(failure)
    }

    pub(super) fn from_word(word: u64) -> Result<Self> {
        Self::from_bytes(&word.to_be_bytes())
    }

    /// A copy of the BIGNUM that `raw` points to; None for NULL.
    ///
    /// # Safety
    /// `raw` is NULL or a valid BIGNUM for the duration of the call.
    pub(super) unsafe fn copy_of(raw: *const sys::BIGNUM) -> Result<Option<Self>> {
        if raw.is_null() {
            return Ok(None);
        }
        // SAFETY: not NULL, and valid by this function's contract.
        let made = unsafe { sys::BN_dup(raw) };
        NonNull::new(made).map(|bn| Some(Self(bn))).ok_or_else(failure)
    }

    pub(super) fn as_ptr(&self) -> *const sys::BIGNUM {
        self.0.as_ptr()
    }

    fn as_mut_ptr(&mut self) -> *mut sys::BIGNUM {
        self.0.as_ptr()
    }

    /// Gives the BIGNUM away; the receiver frees it.
    pub(super) fn into_raw(self) -> *mut sys::BIGNUM {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }

    pub(super) fn bits(&self) -> u32 {
        // SAFETY: self holds a valid BIGNUM.
        unsafe { sys::BN_num_bits(self.as_ptr()) }
    }

    /// Length in bytes without leading zeros.
    pub(super) fn len(&self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    pub(super) fn is_zero(&self) -> bool {
        self.bits() == 0
    }

    pub(super) fn is_odd(&self) -> bool {
        // SAFETY: self holds a valid BIGNUM.
        unsafe { sys::BN_is_odd(self.as_ptr()) == 1 }
    }

    /// Big-endian bytes without leading zeros, of a public value.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len()];
        self.write_padded(&mut bytes)?;
        Ok(bytes)
    }

    /// Big-endian bytes without leading zeros, of a secret value.
    pub(super) fn to_secret(&self) -> Result<SecretBytes> {
        SecretBytes::fill(self.len(), |out| self.write_padded(out))
    }

    /// Fills `out` with the value, big-endian with leading zeros; fails if it does not fit.
    pub(super) fn write_padded(&self, out: &mut [u8]) -> Result<()> {
        // SAFETY: self holds a valid BIGNUM and `out` is writable for its length.
        match unsafe { sys::BN_bn2bin_padded(out.as_mut_ptr(), out.len(), self.as_ptr()) } {
            1 => Ok(()),
            _ => Err(failure()),
        }
    }

    pub(super) fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // SAFETY: both hold valid BIGNUMs.
        unsafe { sys::BN_cmp(self.as_ptr(), other.as_ptr()) }.cmp(&0)
    }

    pub(super) fn equals_word(&self, word: u64) -> bool {
        // SAFETY: self holds a valid BIGNUM.
        unsafe { sys::BN_is_word(self.as_ptr(), word as _) == 1 }
    }
}

impl Drop for Bn {
    fn drop(&mut self) {
        // SAFETY: self owns the BIGNUM, and nothing uses it after this.
        unsafe { sys::BN_free(self.0.as_ptr()) }
    }
}

/// Scratch space, and the arithmetic that uses it.
pub(super) struct Arithmetic(NonNull<sys::BN_CTX>);

impl Arithmetic {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: BN_CTX_new has no preconditions; NULL is turned into an error.
        NonNull::new(unsafe { sys::BN_CTX_new() }).map(Self).ok_or_else(failure)
    }

    fn result(&self, compute: impl FnOnce(*mut sys::BIGNUM, *mut sys::BN_CTX) -> bool) -> Result<Bn> {
        let mut out = Bn::new()?;
        if compute(out.as_mut_ptr(), self.0.as_ptr()) { Ok(out) } else { Err(failure()) }
    }

    pub(super) fn add(&self, a: &Bn, b: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs.
        self.result(|r, _| unsafe { sys::BN_add(r, a.as_ptr(), b.as_ptr()) == 1 })
    }

    /// `a - b` for `a >= b`.
    pub(super) fn sub(&self, a: &Bn, b: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs.
        self.result(|r, _| unsafe { sys::BN_usub(r, a.as_ptr(), b.as_ptr()) == 1 })
    }

    pub(super) fn mul(&self, a: &Bn, b: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs and a context.
        self.result(|r, ctx| unsafe { sys::BN_mul(r, a.as_ptr(), b.as_ptr(), ctx) == 1 })
    }

    /// `floor(a / b)`.
    pub(super) fn div(&self, a: &Bn, b: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs and a context; no remainder is asked for.
        self.result(|r, ctx| unsafe { sys::BN_div(r, ptr::null_mut(), a.as_ptr(), b.as_ptr(), ctx) == 1 })
    }

    /// `a mod m`, not negative.
    pub(super) fn rem(&self, a: &Bn, m: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs and a context.
        self.result(|r, ctx| unsafe { sys::BN_nnmod(r, a.as_ptr(), m.as_ptr(), ctx) == 1 })
    }

    pub(super) fn mul_mod(&self, a: &Bn, b: &Bn, m: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs and a context.
        self.result(|r, ctx| unsafe { sys::BN_mod_mul(r, a.as_ptr(), b.as_ptr(), m.as_ptr(), ctx) == 1 })
    }

    /// `a ^ e mod m` for odd `m`, in time that does not depend on `e`.
    pub(super) fn exp_mod(&self, a: &Bn, e: &Bn, m: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs and a context; a NULL BN_MONT_CTX
        // asks for a temporary one.
        self.result(|r, ctx| unsafe {
            sys::BN_mod_exp_mont_consttime(r, a.as_ptr(), e.as_ptr(), m.as_ptr(), ctx, ptr::null()) == 1
        })
    }

    pub(super) fn gcd(&self, a: &Bn, b: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs and a context.
        self.result(|r, ctx| unsafe { sys::BN_gcd(r, a.as_ptr(), b.as_ptr(), ctx) == 1 })
    }

    pub(super) fn halve(&self, a: &Bn) -> Result<Bn> {
        // SAFETY: the pointers are to valid, distinct BIGNUMs.
        self.result(|r, _| unsafe { sys::BN_rshift1(r, a.as_ptr()) == 1 })
    }
}

impl Drop for Arithmetic {
    fn drop(&mut self) {
        // SAFETY: self owns the context, and nothing uses it after this.
        unsafe { sys::BN_CTX_free(self.0.as_ptr()) }
    }
}
