//! HMAC with the hashes of [`super::digest`].

use std::mem::MaybeUninit;
use std::ptr;

use aws_lc_sys as lc;

use super::check;
use super::digest::{Hash, MAX_DIGEST};
use crate::error::Result;

/// A keyed HMAC: inner and outer state after the key. Cheap to start a computation from.
pub(in crate::hsm) struct HmacKey(Box<Context>);

impl HmacKey {
    pub(in crate::hsm) fn new(hash: Hash, key: &[u8]) -> Result<Self> {
        // SAFETY: all zeros is what HMAC_CTX_init makes of a context.
        let mut context = Box::new(Context(unsafe { MaybeUninit::zeroed().assume_init() }));
        // SAFETY: the context is valid; the key's pointer is not NULL even if it is empty; the
        // description is a static; no engine is given.
        check(unsafe {
            lc::HMAC_Init_ex(&mut context.0, key.as_ptr().cast(), key.len(), hash.evp_md(), ptr::null_mut())
        })?;
        Ok(Self(context))
    }

    /// A computation that starts here.
    pub(in crate::hsm) fn start(&self) -> HmacState {
        HmacState(Context(self.0.0))
    }
}

/// An HMAC being computed.
pub(in crate::hsm) struct HmacState(Context);

impl HmacState {
    pub(in crate::hsm) fn update(&mut self, input: &[u8]) -> Result<()> {
        // SAFETY: the context was initialised by `HmacKey::new`; pointer and length are those of
        // `input`.
        check(unsafe { lc::HMAC_Update(&mut self.0.0, input.as_ptr(), input.len()) })
    }

    /// Begins again with the same key, after [`Self::finish`]. Cheaper than another start.
    pub(in crate::hsm) fn restart(&mut self) -> Result<()> {
        // SAFETY: the context was initialised by `HmacKey::new`; without a key and a description
        // the function keeps those it has.
        check(unsafe { lc::HMAC_Init_ex(&mut self.0.0, ptr::null(), 0, ptr::null(), ptr::null_mut()) })
    }

    /// Writes the MAC to the front of `out`.
    pub(in crate::hsm) fn finish(&mut self, out: &mut [u8; MAX_DIGEST]) -> Result<()> {
        // SAFETY: the context was initialised by `HmacKey::new`; `out` has room for the longest
        // MAC.
        check(unsafe { lc::HMAC_Final(&mut self.0.0, out.as_mut_ptr(), ptr::null_mut()) })
    }
}

/// A flat C struct: its pointers are to statics, so that it may be copied and moved, and AWS-LC's
/// own copy function is a plain copy as well. Wiped on drop.
struct Context(lc::HMAC_CTX);

// SAFETY: the pointers inside are to immutable statics.
unsafe impl Send for Context {}
// SAFETY: as above; shared, it is only copied from.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is valid and exclusively borrowed; this wipes it and frees nothing.
        unsafe { lc::HMAC_CTX_cleanup(&mut self.0) }
    }
}
