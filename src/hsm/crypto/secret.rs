//! Secret memory: wiped on drop.

use zeroize::Zeroizing;

use crate::error::Result;

/// A secret of fixed length. Not `Clone`, not `Debug`: it is copied and shown on purpose or not at all.
pub(in crate::hsm) struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// A copy of `bytes` in secret memory.
    pub(in crate::hsm) fn copy_of(bytes: &[u8]) -> Result<Self> {
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// `len` bytes that `fill` writes in place; they start as zeros.
    pub(in crate::hsm) fn fill(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; len]);
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub(in crate::hsm) fn expose(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::hsm) fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Keeps the first `len` bytes.
    pub(in crate::hsm) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    pub(in crate::hsm) fn len(&self) -> usize {
        self.0.len()
    }
}
