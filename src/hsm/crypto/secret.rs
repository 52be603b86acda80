//! Secret memory: locked, out of core dumps, wiped on fork and on drop (see `arena.rs`).

use super::arena::Region;
use crate::error::Result;

/// A secret. Not `Clone`, not `Debug`: it is copied and shown on purpose or not at all.
pub(in crate::hsm) struct SecretBytes {
    region: Region,
    len: usize,
}

impl SecretBytes {
    /// A copy of `bytes` in secret memory.
    pub(in crate::hsm) fn copy_of(bytes: &[u8]) -> Result<Self> {
        Self::fill(bytes.len(), |copy| {
            copy.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// `len` bytes that `fill` writes in place; they start as zeros.
    pub(in crate::hsm) fn fill(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        let mut region = Region::new(len)?;
        fill(region.bytes_mut(len))?;
        Ok(Self { region, len })
    }

    pub(in crate::hsm) fn expose(&self) -> &[u8] {
        self.region.bytes(self.len)
    }

    pub(in crate::hsm) fn expose_mut(&mut self) -> &mut [u8] {
        self.region.bytes_mut(self.len)
    }

    /// Keeps the first `len` bytes.
    pub(in crate::hsm) fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.expose_mut()[len..].fill(0);
            self.len = len;
        }
    }

    pub(in crate::hsm) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn holds_what_it_was_given() {
        let mut secret = SecretBytes::copy_of(b"correct horse").unwrap();
        assert_eq!(secret.expose(), b"correct horse");
        secret.truncate(7);
        secret.truncate(9);
        assert_eq!((secret.expose(), secret.len()), (&b"correct"[..], 7));
        let failed = SecretBytes::fill(8, |_| Err(ErrorKind::DataInvalid.into()));
        assert_eq!(failed.err().unwrap().kind(), ErrorKind::DataInvalid);
    }
}
