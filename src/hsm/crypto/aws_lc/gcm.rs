//! AES-GCM: one call through a keyed AEAD context, parts of an encryption through EVP.

use std::os::raw::c_int;
use std::ptr;

use aws_lc_sys as lc;

use super::aes::CipherCtx;
use super::{check, clear_errors, failure};
use crate::error::{ErrorKind, Result};

/// Length of the full tag in bytes.
pub(in crate::hsm) const TAG: usize = 16;

/// The longest plaintext in bytes (SP 800-38D §5.2.1.1).
pub(in crate::hsm) const MAX_DATA: u64 = (1 << 36) - 32;

/// A keyed GCM. It can be shared by threads, and takes IVs of any length but zero.
pub(in crate::hsm) struct GcmKey {
    context: *mut lc::EVP_AEAD_CTX,
    tag_len: usize,
}

// SAFETY: AWS-LC documents that a context may be used by several threads at once; sealing and
// opening take it as const.
unsafe impl Send for GcmKey {}
// SAFETY: as above.
unsafe impl Sync for GcmKey {}

impl GcmKey {
    /// For tags of `tag_len` bytes, 16 at most. CKR_KEY_SIZE_RANGE for a wrong length of key.
    pub(in crate::hsm) fn new(key: &[u8], tag_len: usize) -> Result<Self> {
        // SAFETY: these take nothing and return a pointer to a static.
        let aead = unsafe {
            match key.len() {
                16 => lc::EVP_aead_aes_128_gcm(),
                24 => lc::EVP_aead_aes_192_gcm(),
                32 => lc::EVP_aead_aes_256_gcm(),
                _ => return Err(ErrorKind::KeySizeRange.into()),
            }
        };
        // SAFETY: pointer and length are those of `key`, which has the AEAD's key length.
        let context = unsafe { lc::EVP_AEAD_CTX_new(aead, key.as_ptr(), key.len(), tag_len) };
        if context.is_null() { Err(failure()) } else { Ok(Self { context, tag_len }) }
    }

    /// Encrypts `input` into `output`, of the same length, and gives the tag, of which the first
    /// `tag_len` bytes count.
    pub(in crate::hsm) fn seal(&self, iv: &[u8], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<[u8; TAG]> {
        if input.len() != output.len() || input.len() as u64 > MAX_DATA {
            return Err(ErrorKind::DataLenRange.into());
        }
        let (mut tag, mut tag_len) = ([0; TAG], 0);
        // SAFETY: the context is valid; `output` is as long as `input`; the tag's capacity is
        // passed; there is no extra input.
        check(unsafe {
            lc::EVP_AEAD_CTX_seal_scatter(
                self.context,
                output.as_mut_ptr(),
                tag.as_mut_ptr(),
                &mut tag_len,
                tag.len(),
                iv.as_ptr(),
                iv.len(),
                input.as_ptr(),
                input.len(),
                ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        })?;
        Ok(tag)
    }

    /// Decrypts `input` into `output`, of the same length. CKR_ENCRYPTED_DATA_INVALID, and zeros
    /// in `output`, if the tag is not right.
    pub(in crate::hsm) fn open(
        &self,
        iv: &[u8],
        aad: &[u8],
        input: &[u8],
        tag: &[u8],
        output: &mut [u8],
    ) -> Result<()> {
        if input.len() != output.len() || input.len() as u64 > MAX_DATA || tag.len() != self.tag_len {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        }
        // SAFETY: the context is valid; `output` is as long as `input`; pointers and lengths are
        // those of the slices.
        let status = unsafe {
            lc::EVP_AEAD_CTX_open_gather(
                self.context,
                output.as_mut_ptr(),
                iv.as_ptr(),
                iv.len(),
                input.as_ptr(),
                input.len(),
                tag.as_ptr(),
                tag.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        if status == 1 {
            return Ok(());
        }
        output.fill(0);
        clear_errors();
        Err(ErrorKind::EncryptedDataInvalid.into())
    }
}

impl Drop for GcmKey {
    fn drop(&mut self) {
        // SAFETY: the pointer came from EVP_AEAD_CTX_new and is freed once; AWS-LC cleanses it.
        unsafe { lc::EVP_AEAD_CTX_free(self.context) }
    }
}

/// An encryption in parts.
pub(in crate::hsm) struct GcmStream {
    context: CipherCtx,
    done: u64,
}

impl GcmStream {
    pub(in crate::hsm) fn encrypt(key: &[u8], iv: &[u8], aad: &[u8]) -> Result<Self> {
        // SAFETY: these take nothing and return a pointer to a static.
        let cipher = unsafe {
            match key.len() {
                16 => lc::EVP_aes_128_gcm(),
                24 => lc::EVP_aes_192_gcm(),
                32 => lc::EVP_aes_256_gcm(),
                _ => return Err(ErrorKind::KeySizeRange.into()),
            }
        };
        let (Ok(iv_len), false) = (c_int::try_from(iv.len()), iv.is_empty()) else {
            return Err(ErrorKind::MechanismParamInvalid.into());
        };
        let mut context = CipherCtx::new()?;
        // SAFETY: the context is valid. The cipher is set, then the IV's length, then the key of
        // the cipher's length and the IV of that length.
        unsafe {
            let ctx = context.as_ptr();
            check(lc::EVP_CipherInit_ex(ctx, cipher, ptr::null_mut(), ptr::null(), ptr::null(), 1))?;
            check(lc::EVP_CIPHER_CTX_ctrl(ctx, lc::EVP_CTRL_AEAD_SET_IVLEN, iv_len, ptr::null_mut()))?;
            check(lc::EVP_CipherInit_ex(ctx, ptr::null(), ptr::null_mut(), key.as_ptr(), iv.as_ptr(), 1))?;
        }
        for part in aad.chunks(1 << 30) {
            let mut written = 0;
            // SAFETY: without an output the input is AAD; its length fits an `int`.
            check(unsafe {
                lc::EVP_CipherUpdate(
                    context.as_ptr(),
                    ptr::null_mut(),
                    &mut written,
                    part.as_ptr(),
                    part.len() as c_int,
                )
            })?;
        }
        Ok(Self { context, done: 0 })
    }

    /// Encrypts `input` into `output`, of the same length.
    pub(in crate::hsm) fn update(&mut self, input: &[u8], output: &mut [u8]) -> Result<()> {
        self.done = self.done.saturating_add(input.len() as u64);
        if self.done > MAX_DATA {
            return Err(ErrorKind::DataLenRange.into());
        }
        self.context.update(input, output)
    }

    /// The tag of all that was encrypted.
    pub(in crate::hsm) fn tag(&mut self) -> Result<[u8; TAG]> {
        let (mut tag, mut last, mut written) = ([0u8; TAG], [0u8; TAG], 0);
        let ctx = self.context.as_ptr();
        // SAFETY: the context is valid; GCM writes nothing at the end, and there is room for a
        // block; then the tag is fetched into an array of its length.
        unsafe {
            check(lc::EVP_CipherFinal_ex(ctx, last.as_mut_ptr(), &mut written))?;
            check(lc::EVP_CIPHER_CTX_ctrl(ctx, lc::EVP_CTRL_AEAD_GET_TAG, TAG as c_int, tag.as_mut_ptr().cast()))?;
        }
        Ok(tag)
    }
}
