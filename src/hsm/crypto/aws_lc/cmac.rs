//! AES-CMAC (SP 800-38B).

use std::ptr;

use aws_lc_sys as lc;

use super::aes::BLOCK;
use super::{check, failure};
use crate::error::{ErrorKind, Result};

/// A keyed CMAC: schedule and subkeys. Computations start from a copy.
pub(in crate::hsm) struct CmacKey(Context);

impl CmacKey {
    /// CKR_KEY_SIZE_RANGE unless the key has 16, 24 or 32 bytes.
    pub(in crate::hsm) fn new(key: &[u8]) -> Result<Self> {
        // SAFETY: these take nothing and return a pointer to a static.
        let cipher = unsafe {
            match key.len() {
                16 => lc::EVP_aes_128_cbc(),
                24 => lc::EVP_aes_192_cbc(),
                32 => lc::EVP_aes_256_cbc(),
                _ => return Err(ErrorKind::KeySizeRange.into()),
            }
        };
        let context = Context::new()?;
        // SAFETY: the context is valid; the key has the cipher's length; no engine is given.
        check(unsafe { lc::CMAC_Init(context.0, key.as_ptr().cast(), key.len(), cipher, ptr::null_mut()) })?;
        Ok(Self(context))
    }

    /// A computation that starts here.
    pub(in crate::hsm) fn start(&self) -> Result<CmacState> {
        let context = Context::new()?;
        // SAFETY: both contexts are valid; the source is only read.
        check(unsafe { lc::CMAC_CTX_copy(context.0, self.0.0) })?;
        Ok(CmacState(context))
    }
}

/// A CMAC being computed.
pub(in crate::hsm) struct CmacState(Context);

impl CmacState {
    pub(in crate::hsm) fn update(&mut self, input: &[u8]) -> Result<()> {
        // SAFETY: the context is initialised; pointer and length are those of `input`.
        check(unsafe { lc::CMAC_Update(self.0.0, input.as_ptr(), input.len()) })
    }

    pub(in crate::hsm) fn finish(&mut self) -> Result<[u8; BLOCK]> {
        let (mut out, mut len) = ([0; BLOCK], 0);
        // SAFETY: the context is initialised; a CMAC is one block.
        check(unsafe { lc::CMAC_Final(self.0.0, out.as_mut_ptr(), &mut len) })?;
        if len == out.len() { Ok(out) } else { Err(failure()) }
    }
}

/// An owned `CMAC_CTX`; AWS-LC cleanses what it frees.
struct Context(*mut lc::CMAC_CTX);

// SAFETY: the context is owned by one value and has no affinity to a thread.
unsafe impl Send for Context {}
// SAFETY: through a shared reference it is only copied from, which reads it.
unsafe impl Sync for Context {}

impl Context {
    fn new() -> Result<Self> {
        // SAFETY: takes nothing; NULL is checked below.
        let context = Self(unsafe { lc::CMAC_CTX_new() });
        if context.0.is_null() { Err(failure()) } else { Ok(context) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer came from CMAC_CTX_new (or is NULL, which is allowed) and is freed
        // once.
        unsafe { lc::CMAC_CTX_free(self.0) }
    }
}
