//! Buffers of messages, in which there may be PINs and plaintexts.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::aws_lc;

/// Bytes that are wiped before their memory is given back, also where the buffer grows: as in a
/// `Zeroizing<Vec<u8>>`, but what was used of it only, and with memset rather than byte by byte.
#[derive(Default)]
pub struct Wiped {
    bytes: Vec<u8>,
    /// How many bytes of its memory may hold something.
    used: usize,
}

impl Wiped {
    pub fn zeros(len: usize) -> Self {
        Self { bytes: vec![0; len], used: len }
    }

    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.used = self.used.max(self.bytes.len());
    }

    /// Appends so many zeros, and gives their place.
    pub fn append_zeros(&mut self, len: usize) -> &mut [u8] {
        self.make_room(len);
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        self.used = self.used.max(self.bytes.len());
        self.bytes.get_mut(start..).unwrap_or_default()
    }

    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Empties it. It is wiped later.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Empties it and wipes its memory, which it keeps.
    pub fn wipe(&mut self) {
        self.bytes.resize(self.used, 0);
        aws_lc::cleanse_bytes(&mut self.bytes);
        self.bytes.clear();
        self.used = 0;
    }

    fn make_room(&mut self, more: usize) {
        let needed = self.bytes.len().saturating_add(more);
        if needed > self.bytes.capacity() {
            self.grow(needed);
        }
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let mut larger = Vec::with_capacity(needed.max(2 * self.bytes.capacity()).max(1024));
        larger.extend_from_slice(&self.bytes);
        *self = Self { used: larger.len(), bytes: larger };
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl From<Vec<u8>> for Wiped {
    fn from(bytes: Vec<u8>) -> Self {
        Self { used: bytes.len(), bytes }
    }
}

impl PartialEq for Wiped {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Wiped {}

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wiped({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_is_wiped_as_far_as_it_was_used() {
        let mut buffer = Wiped::from(b"abc".to_vec());
        buffer.append(&[7; 5000]);
        buffer.append_zeros(2).fill(8);
        assert_eq!((&buffer[..4], &buffer[5002..]), (&b"abc\x07"[..], &[7, 8, 8][..]));
        buffer.truncate(3);
        assert_eq!((&*buffer, buffer.used), (&b"abc"[..], 5005));
        buffer.clear();
        buffer.append(b"z");
        buffer.wipe();
        assert!(buffer.is_empty() && buffer.capacity() >= 5005 && buffer.used == 0);
        assert_eq!(*Wiped::zeros(3), [0; 3]);
    }
}
