//! The random generator: AWS-LC's CTR-DRBG, per thread, reseeded after a fork.

use super::super::SecretBytes;
use super::check;
use crate::error::Result;

/// Fills `output` with random bytes.
pub(in crate::hsm) fn fill(output: &mut [u8]) -> Result<()> {
    // SAFETY: pointer and length are those of `output`.
    check(unsafe { aws_lc_sys::RAND_bytes(output.as_mut_ptr(), output.len()) })
}

/// A random secret of `len` bytes.
pub(in crate::hsm) fn secret(len: usize) -> Result<SecretBytes> {
    SecretBytes::fill(len, fill)
}
