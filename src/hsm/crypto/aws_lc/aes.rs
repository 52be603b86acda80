//! AES: the block cipher, ECB, CBC, CTR and the key wraps of SP 800-38F.

use std::mem::MaybeUninit;
use std::os::raw::{c_int, c_uint};
use std::ptr;

use aws_lc_sys as lc;

use super::{check, cleanse, failure};
use crate::error::{ErrorKind, Result};

pub(in crate::hsm) const BLOCK: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Direction {
    Encrypt,
    Decrypt,
}

impl Direction {
    fn flag(self) -> c_int {
        c_int::from(self == Self::Encrypt)
    }
}

/// Both key schedules of an AES key. Wiped on drop.
pub(in crate::hsm) struct AesKey {
    encrypt: lc::AES_KEY,
    decrypt: lc::AES_KEY,
    /// The key itself, for the bulk modes that only take it so.
    raw: [u8; 32],
    len: usize,
}

impl AesKey {
    /// CKR_KEY_SIZE_RANGE unless the key has 16, 24 or 32 bytes.
    pub(in crate::hsm) fn new(key: &[u8]) -> Result<Self> {
        let bits: c_uint = match key.len() {
            16 => 128,
            24 => 192,
            32 => 256,
            _ => return Err(ErrorKind::KeySizeRange.into()),
        };
        // SAFETY: a schedule is integers only, for which all zeros is valid.
        let zero: lc::AES_KEY = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut made = Self { encrypt: zero, decrypt: zero, raw: [0; 32], len: key.len() };
        made.raw[..key.len()].copy_from_slice(key);
        // SAFETY: `key` has `bits` / 8 bytes; the schedules are valid for writes.
        let status = unsafe {
            lc::AES_set_encrypt_key(key.as_ptr(), bits, &mut made.encrypt)
                | lc::AES_set_decrypt_key(key.as_ptr(), bits, &mut made.decrypt)
        };
        if status == 0 { Ok(made) } else { Err(failure()) }
    }

    fn raw(&self) -> &[u8] {
        &self.raw[..self.len]
    }

    pub(in crate::hsm) fn encrypt_block(&self, block: &[u8; BLOCK]) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        // SAFETY: both arrays are one block; the schedule is initialised.
        unsafe { lc::AES_encrypt(block.as_ptr(), out.as_mut_ptr(), &self.encrypt) }
        out
    }

    pub(in crate::hsm) fn decrypt_block(&self, block: &[u8; BLOCK]) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        // SAFETY: both arrays are one block; the schedule is initialised.
        unsafe { lc::AES_decrypt(block.as_ptr(), out.as_mut_ptr(), &self.decrypt) }
        out
    }

    fn schedule(&self, direction: Direction) -> &lc::AES_KEY {
        match direction {
            Direction::Encrypt => &self.encrypt,
            Direction::Decrypt => &self.decrypt,
        }
    }

    /// Whole blocks of `input` into `output`, which are of the same length.
    pub(in crate::hsm) fn ecb(&self, direction: Direction, input: &[u8], output: &mut [u8]) -> Result<()> {
        /// From here on the pipelined code is worth its set-up.
        const BULK: usize = 512;
        whole_blocks(input, output)?;
        if input.len() >= BULK {
            return self.ecb_bulk(direction, input, output);
        }
        for (from, to) in input.chunks_exact(BLOCK).zip(output.chunks_exact_mut(BLOCK)) {
            // SAFETY: both chunks are one block; the schedule fits the direction.
            unsafe {
                lc::AES_ecb_encrypt(from.as_ptr(), to.as_mut_ptr(), self.schedule(direction), direction.flag());
            }
        }
        Ok(())
    }

    fn ecb_bulk(&self, direction: Direction, input: &[u8], output: &mut [u8]) -> Result<()> {
        // SAFETY: takes nothing and returns a pointer to a static.
        let cipher = unsafe {
            match self.len {
                16 => lc::EVP_aes_128_ecb(),
                24 => lc::EVP_aes_192_ecb(),
                _ => lc::EVP_aes_256_ecb(),
            }
        };
        let mut context = CipherCtx::new()?;
        // SAFETY: the context is valid, the key has the length of the cipher, ECB has no IV.
        check(unsafe {
            lc::EVP_CipherInit_ex(
                context.as_ptr(),
                cipher,
                ptr::null_mut(),
                self.raw().as_ptr(),
                ptr::null(),
                direction.flag(),
            )
        })?;
        // SAFETY: the context is valid.
        check(unsafe { lc::EVP_CIPHER_CTX_set_padding(context.as_ptr(), 0) })?;
        context.update(input, output)
    }

    /// Whole blocks of `input` into `output`, which are of the same length. `iv` becomes the one
    /// that continues.
    pub(in crate::hsm) fn cbc(
        &self,
        direction: Direction,
        iv: &mut [u8; BLOCK],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<()> {
        whole_blocks(input, output)?;
        if input.is_empty() {
            return Ok(());
        }
        // SAFETY: input and output have the same length, whole blocks; the IV is one block; the
        // schedule fits the direction.
        unsafe {
            lc::AES_cbc_encrypt(
                input.as_ptr(),
                output.as_mut_ptr(),
                input.len(),
                self.schedule(direction),
                iv.as_mut_ptr(),
                direction.flag(),
            );
        }
        Ok(())
    }

    /// Any number of bytes of counter mode; the whole block is the counter.
    pub(in crate::hsm) fn ctr(&self, state: &mut CtrState, input: &[u8], output: &mut [u8]) -> Result<()> {
        same_length(input, output)?;
        if input.is_empty() {
            return Ok(());
        }
        // SAFETY: input and output have the same length; counter and key stream are one block;
        // `used` stays below the block size, as only this function sets it.
        unsafe {
            lc::AES_ctr128_encrypt(
                input.as_ptr(),
                output.as_mut_ptr(),
                input.len(),
                &self.encrypt,
                state.counter.as_mut_ptr(),
                state.stream.as_mut_ptr(),
                &mut state.used,
            );
        }
        Ok(())
    }

    /// AES key wrap (RFC 3394). `output` is 8 bytes longer than `input`, which has whole 8-byte
    /// blocks, at least two. None: the default IV. CKR_DATA_LEN_RANGE for other lengths.
    pub(in crate::hsm) fn wrap(&self, iv: Option<&[u8; 8]>, input: &[u8], output: &mut [u8]) -> Result<()> {
        if input.len().checked_add(8) != Some(output.len()) {
            return Err(ErrorKind::DataLenRange.into());
        }
        // SAFETY: `output` has room for 8 bytes more than `input`; an IV is NULL or 8 bytes.
        let written = unsafe {
            lc::AES_wrap_key(&self.encrypt, iv_pointer(iv), output.as_mut_ptr(), input.as_ptr(), input.len())
        };
        if usize::try_from(written) == Ok(output.len()) { Ok(()) } else { Err(ErrorKind::DataLenRange.into()) }
    }

    /// The inverse; `output` is 8 bytes shorter than `input`. CKR_ENCRYPTED_DATA_INVALID (and
    /// wiped output) if the integrity check fails.
    pub(in crate::hsm) fn unwrap(&self, iv: Option<&[u8; 8]>, input: &[u8], output: &mut [u8]) -> Result<()> {
        if output.len().checked_add(8) != Some(input.len()) {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        }
        // SAFETY: `output` has room for `input` less 8 bytes; an IV is NULL or 8 bytes.
        let written = unsafe {
            lc::AES_unwrap_key(&self.decrypt, iv_pointer(iv), output.as_mut_ptr(), input.as_ptr(), input.len())
        };
        if usize::try_from(written) == Ok(output.len()) {
            return Ok(());
        }
        output.fill(0);
        super::clear_errors();
        Err(ErrorKind::EncryptedDataInvalid.into())
    }

    /// AES key wrap with padding (RFC 5649, SP 800-38F KWP). `output` has the padded length and 8
    /// more.
    pub(in crate::hsm) fn wrap_padded(&self, input: &[u8], output: &mut [u8]) -> Result<()> {
        let mut len = 0;
        // SAFETY: the output's length is passed as its capacity.
        let status = unsafe {
            lc::AES_wrap_key_padded(
                &self.encrypt,
                output.as_mut_ptr(),
                &mut len,
                output.len(),
                input.as_ptr(),
                input.len(),
            )
        };
        if status == 1 && len == output.len() { Ok(()) } else { Err(ErrorKind::DataLenRange.into()) }
    }

    /// The inverse; `output` is 8 bytes shorter than `input`. Gives the length of the plaintext at
    /// its front. CKR_ENCRYPTED_DATA_INVALID (and wiped output) if the integrity check fails.
    pub(in crate::hsm) fn unwrap_padded(&self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        if !input.len().is_multiple_of(8) || output.len().checked_add(8) != Some(input.len()) {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        }
        let mut len = 0;
        // SAFETY: the output's length is passed as its capacity.
        let status = unsafe {
            lc::AES_unwrap_key_padded(
                &self.decrypt,
                output.as_mut_ptr(),
                &mut len,
                output.len(),
                input.as_ptr(),
                input.len(),
            )
        };
        if status == 1 && len <= output.len() {
            return Ok(len);
        }
        output.fill(0);
        super::clear_errors();
        Err(ErrorKind::EncryptedDataInvalid.into())
    }
}

impl Drop for AesKey {
    fn drop(&mut self) {
        cleanse(&mut self.encrypt);
        cleanse(&mut self.decrypt);
        cleanse(&mut self.raw);
    }
}

/// Where a counter mode stands.
pub(in crate::hsm) struct CtrState {
    counter: [u8; BLOCK],
    /// The key stream of the block that is open, and how much of it is used.
    stream: [u8; BLOCK],
    used: c_uint,
}

impl CtrState {
    pub(in crate::hsm) fn new(counter: [u8; BLOCK]) -> Self {
        Self { counter, stream: [0; BLOCK], used: 0 }
    }
}

impl Drop for CtrState {
    fn drop(&mut self) {
        cleanse(&mut self.stream);
    }
}

fn iv_pointer(iv: Option<&[u8; 8]>) -> *const u8 {
    iv.map_or(ptr::null(), |iv| iv.as_ptr())
}

fn same_length(input: &[u8], output: &[u8]) -> Result<()> {
    if input.len() == output.len() {
        Ok(())
    } else {
        Err(ErrorKind::GeneralError.with("cipher buffers differ in length"))
    }
}

fn whole_blocks(input: &[u8], output: &[u8]) -> Result<()> {
    same_length(input, output)?;
    if input.len().is_multiple_of(BLOCK) { Ok(()) } else { Err(ErrorKind::DataLenRange.into()) }
}

/// An owned `EVP_CIPHER_CTX`; AWS-LC cleanses what it frees.
pub(super) struct CipherCtx(*mut lc::EVP_CIPHER_CTX);

// SAFETY: the context is owned by one value and has no affinity to a thread.
unsafe impl Send for CipherCtx {}

impl CipherCtx {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: takes nothing; NULL is checked below.
        let context = Self(unsafe { lc::EVP_CIPHER_CTX_new() });
        if context.0.is_null() { Err(failure()) } else { Ok(context) }
    }

    pub(super) fn as_ptr(&mut self) -> *mut lc::EVP_CIPHER_CTX {
        self.0
    }

    /// `input` into `output`, of the same length; for ciphers and inputs that leave no remainder.
    pub(super) fn update(&mut self, input: &[u8], output: &mut [u8]) -> Result<()> {
        /// Below the largest `int`, and whole blocks.
        const PART: usize = 1 << 30;
        same_length(input, output)?;
        for (from, to) in input.chunks(PART).zip(output.chunks_mut(PART)) {
            let mut written: c_int = 0;
            // SAFETY: both parts have the same length, which fits an `int`; without padding and
            // remainder the cipher writes as much as it reads.
            check(unsafe {
                lc::EVP_CipherUpdate(self.0, to.as_mut_ptr(), &mut written, from.as_ptr(), from.len() as c_int)
            })?;
            if usize::try_from(written) != Ok(to.len()) {
                return Err(failure());
            }
        }
        Ok(())
    }
}

impl Drop for CipherCtx {
    fn drop(&mut self) {
        // SAFETY: the pointer came from EVP_CIPHER_CTX_new (or is NULL, which is allowed) and is
        // freed once.
        unsafe { lc::EVP_CIPHER_CTX_free(self.0) }
    }
}
