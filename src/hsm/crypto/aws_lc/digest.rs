//! SHA-1, SHA-2 and SHA-3.

use std::mem::MaybeUninit;
use std::ptr;

use aws_lc_sys as lc;

use super::{check, cleanse, failure};
use crate::error::{ErrorKind, Result};

/// The longest digest, in bytes.
pub(in crate::hsm) const MAX_DIGEST: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512_224,
    Sha512_256,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

impl Hash {
    pub(in crate::hsm) const COUNT: usize = Self::Sha3_512 as usize + 1;

    /// Length of the digest in bytes.
    pub(in crate::hsm) fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha512_224 | Self::Sha3_224 => 28,
            Self::Sha256 | Self::Sha512_256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// AWS-LC's description of the hash, a static.
    pub(in crate::hsm::crypto) fn evp_md(self) -> *const lc::EVP_MD {
        // SAFETY: these functions take nothing and return a pointer to a static.
        unsafe {
            match self {
                Self::Sha1 => lc::EVP_sha1(),
                Self::Sha224 => lc::EVP_sha224(),
                Self::Sha256 => lc::EVP_sha256(),
                Self::Sha384 => lc::EVP_sha384(),
                Self::Sha512 => lc::EVP_sha512(),
                Self::Sha512_224 => lc::EVP_sha512_224(),
                Self::Sha512_256 => lc::EVP_sha512_256(),
                Self::Sha3_224 => lc::EVP_sha3_224(),
                Self::Sha3_256 => lc::EVP_sha3_256(),
                Self::Sha3_384 => lc::EVP_sha3_384(),
                Self::Sha3_512 => lc::EVP_sha3_512(),
            }
        }
    }

    /// The digest of `input` in one call; written to the front of the returned array.
    pub(in crate::hsm) fn digest(self, input: &[u8]) -> Result<[u8; MAX_DIGEST]> {
        let mut digester = Digester::new(self)?;
        digester.update(input)?;
        let mut out = [0; MAX_DIGEST];
        digester.finish(&mut out)?;
        Ok(out)
    }
}

/// A digest being computed. Wiped on drop, since a secret key may have gone into it.
pub(in crate::hsm) struct Digester {
    hash: Hash,
    state: State,
}

/// SHA-1 and SHA-2 are flat C structs, kept inline; SHA-3's context is on AWS-LC's heap.
enum State {
    Sha1(lc::SHA_CTX),
    Sha256(lc::SHA256_CTX),
    Sha512(lc::SHA512_CTX),
    Sha3(MdCtx),
}

impl Digester {
    pub(in crate::hsm) fn new(hash: Hash) -> Result<Self> {
        let state = match hash {
            // SAFETY: in each arm the init function fills the whole struct before it is read.
            Hash::Sha1 => State::Sha1(unsafe { initialised(|ctx| lc::SHA1_Init(ctx))? }),
            // SAFETY: as above.
            Hash::Sha224 => State::Sha256(unsafe { initialised(|ctx| lc::SHA224_Init(ctx))? }),
            // SAFETY: as above.
            Hash::Sha256 => State::Sha256(unsafe { initialised(|ctx| lc::SHA256_Init(ctx))? }),
            // SAFETY: as above.
            Hash::Sha384 => State::Sha512(unsafe { initialised(|ctx| lc::SHA384_Init(ctx))? }),
            // SAFETY: as above.
            Hash::Sha512 => State::Sha512(unsafe { initialised(|ctx| lc::SHA512_Init(ctx))? }),
            // SAFETY: as above.
            Hash::Sha512_224 => State::Sha512(unsafe { initialised(|ctx| lc::SHA512_224_Init(ctx))? }),
            // SAFETY: as above.
            Hash::Sha512_256 => State::Sha512(unsafe { initialised(|ctx| lc::SHA512_256_Init(ctx))? }),
            Hash::Sha3_224 | Hash::Sha3_256 | Hash::Sha3_384 | Hash::Sha3_512 => State::Sha3(MdCtx::new(hash)?),
        };
        Ok(Self { hash, state })
    }

    /// Forgets the input and begins anew.
    pub(in crate::hsm) fn reset(&mut self) -> Result<()> {
        self.wipe();
        // SAFETY: in each arm the context is of its function's type and exclusively borrowed; the
        // function fills the whole of it.
        check(unsafe {
            match (&mut self.state, self.hash) {
                (State::Sha1(ctx), _) => lc::SHA1_Init(ctx),
                (State::Sha256(ctx), Hash::Sha224) => lc::SHA224_Init(ctx),
                (State::Sha256(ctx), _) => lc::SHA256_Init(ctx),
                (State::Sha512(ctx), Hash::Sha384) => lc::SHA384_Init(ctx),
                (State::Sha512(ctx), Hash::Sha512_224) => lc::SHA512_224_Init(ctx),
                (State::Sha512(ctx), Hash::Sha512_256) => lc::SHA512_256_Init(ctx),
                (State::Sha512(ctx), _) => lc::SHA512_Init(ctx),
                (State::Sha3(ctx), hash) => {
                    *ctx = MdCtx::new(hash)?;
                    1
                }
            }
        })
    }

    fn wipe(&mut self) {
        match &mut self.state {
            State::Sha1(ctx) => cleanse(ctx),
            State::Sha256(ctx) => cleanse(ctx),
            State::Sha512(ctx) => cleanse(ctx),
            State::Sha3(_) => {}
        }
    }

    pub(in crate::hsm) fn hash(&self) -> Hash {
        self.hash
    }

    pub(in crate::hsm) fn update(&mut self, input: &[u8]) -> Result<()> {
        let (data, len) = (input.as_ptr().cast(), input.len());
        // SAFETY: each context is initialised and exclusively borrowed; `data` and `len` are
        // those of `input`.
        check(unsafe {
            match &mut self.state {
                State::Sha1(ctx) => lc::SHA1_Update(ctx, data, len),
                State::Sha256(ctx) => lc::SHA256_Update(ctx, data, len),
                State::Sha512(ctx) => lc::SHA512_Update(ctx, data, len),
                State::Sha3(ctx) => lc::EVP_DigestUpdate(ctx.0, data, len),
            }
        })
    }

    /// Writes the digest to the front of `out`. The context must not be used afterwards.
    pub(in crate::hsm) fn finish(&mut self, out: &mut [u8; MAX_DIGEST]) -> Result<()> {
        let out = out.as_mut_ptr();
        // SAFETY: each context is initialised and exclusively borrowed; `out` has room for the
        // longest digest, and the final function of the context's own variant writes no more.
        check(unsafe {
            match (&mut self.state, self.hash) {
                (State::Sha1(ctx), _) => lc::SHA1_Final(out, ctx),
                (State::Sha256(ctx), Hash::Sha224) => lc::SHA224_Final(out, ctx),
                (State::Sha256(ctx), _) => lc::SHA256_Final(out, ctx),
                (State::Sha512(ctx), Hash::Sha384) => lc::SHA384_Final(out, ctx),
                (State::Sha512(ctx), Hash::Sha512_224) => lc::SHA512_224_Final(out, ctx),
                (State::Sha512(ctx), Hash::Sha512_256) => lc::SHA512_256_Final(out, ctx),
                (State::Sha512(ctx), _) => lc::SHA512_Final(out, ctx),
                (State::Sha3(ctx), _) => lc::EVP_DigestFinal_ex(ctx.0, out, ptr::null_mut()),
            }
        })
    }

    /// The state: chaining value, count of bits (low, high), and the bytes of the open block.
    /// None for SHA-3. The result is as secret as what was digested.
    pub(in crate::hsm) fn save(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(8 * 8 + 16 + 128);
        match &self.state {
            State::Sha1(ctx) => {
                let words = ctx.h.iter().chain([&ctx.Nl, &ctx.Nh]);
                out.extend(words.flat_map(|word| word.to_le_bytes()));
                out.extend(ctx.data.get(..ctx.num as usize)?);
            }
            State::Sha256(ctx) => {
                let words = ctx.h.iter().chain([&ctx.Nl, &ctx.Nh]);
                out.extend(words.flat_map(|word| word.to_le_bytes()));
                out.extend(ctx.data.get(..ctx.num as usize)?);
            }
            State::Sha512(ctx) => {
                let words = ctx.h.iter().chain([&ctx.Nl, &ctx.Nh]);
                out.extend(words.flat_map(|word| word.to_le_bytes()));
                out.extend(ctx.p.get(..ctx.num as usize)?);
            }
            State::Sha3(_) => return None,
        }
        Some(out)
    }

    /// The inverse of [`Self::save`]; CKR_SAVED_STATE_INVALID for anything that it did not make.
    pub(in crate::hsm) fn resume(hash: Hash, saved: &[u8]) -> Result<Self> {
        let mut digester = Self::new(hash)?;
        let restored = match &mut digester.state {
            State::Sha1(ctx) => {
                restore(saved, u32::from_le_bytes, &mut ctx.h, [&mut ctx.Nl, &mut ctx.Nh], &mut ctx.data)
                    .map(|num| ctx.num = num)
            }
            State::Sha256(ctx) => {
                restore(saved, u32::from_le_bytes, &mut ctx.h, [&mut ctx.Nl, &mut ctx.Nh], &mut ctx.data)
                    .map(|num| ctx.num = num)
            }
            State::Sha512(ctx) => {
                restore(saved, u64::from_le_bytes, &mut ctx.h, [&mut ctx.Nl, &mut ctx.Nh], &mut ctx.p)
                    .map(|num| ctx.num = num)
            }
            State::Sha3(_) => None,
        };
        restored.ok_or(ErrorKind::SavedStateInvalid)?;
        Ok(digester)
    }
}

impl Drop for Digester {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Reads `words`, the two halves of the count and the open block from `saved`; gives the open
/// block's length. The count must agree with it.
fn restore<W: Copy + Into<u64>, const SIZE: usize>(
    saved: &[u8],
    from_bytes: fn([u8; SIZE]) -> W,
    words: &mut [W],
    count: [&mut W; 2],
    block: &mut [u8],
) -> Option<u32> {
    let mut rest = saved;
    let [low, high] = count;
    for word in words.iter_mut().chain([&mut *low, high]) {
        let (bytes, tail) = rest.split_first_chunk::<SIZE>()?;
        *word = from_bytes(*bytes);
        rest = tail;
    }
    let open: u64 = (*low).into();
    if rest.len() >= block.len() || open / 8 % block.len() as u64 != rest.len() as u64 {
        return None;
    }
    block.get_mut(..rest.len())?.copy_from_slice(rest);
    u32::try_from(rest.len()).ok()
}

/// A C struct that `init` fills.
///
/// # Safety
/// `init` must initialise all of `T` when it returns 1.
unsafe fn initialised<T>(init: impl FnOnce(*mut T) -> std::os::raw::c_int) -> Result<T> {
    let mut value = MaybeUninit::zeroed();
    check(init(value.as_mut_ptr()))?;
    // SAFETY: the caller's promise.
    Ok(unsafe { value.assume_init() })
}

/// An owned `EVP_MD_CTX`; AWS-LC cleanses what it frees.
struct MdCtx(*mut lc::EVP_MD_CTX);

// SAFETY: the context is owned by one value and has no affinity to a thread.
unsafe impl Send for MdCtx {}

impl MdCtx {
    fn new(hash: Hash) -> Result<Self> {
        // SAFETY: takes nothing; NULL is checked below.
        let ctx = Self(unsafe { lc::EVP_MD_CTX_new() });
        if ctx.0.is_null() {
            return Err(failure());
        }
        // SAFETY: the context is valid, the description is a static, no engine is given.
        check(unsafe { lc::EVP_DigestInit_ex(ctx.0, hash.evp_md(), ptr::null_mut()) })?;
        Ok(ctx)
    }
}

impl Drop for MdCtx {
    fn drop(&mut self) {
        // SAFETY: the pointer came from EVP_MD_CTX_new (or is NULL, which is allowed) and is
        // freed once.
        unsafe { lc::EVP_MD_CTX_free(self.0) }
    }
}
