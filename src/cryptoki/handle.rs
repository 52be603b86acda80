//! Handles: never reused, and not to be guessed from one run to the next.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys as ck;

/// Issues the handles of sessions and objects of one [`super::Module`].
pub(super) struct Handles(AtomicU64);

impl Handles {
    /// Starts at an unpredictable place that leaves room below 2^31, which Java and 32-bit callers
    /// can hold.
    pub(super) fn new() -> Self {
        let start = RandomState::new().hash_one(0_u8) % (1 << 28);
        Self(AtomicU64::new(start + (1 << 16)))
    }

    pub(super) fn next(&self) -> ck::CK_ULONG {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// A hasher for keys that nobody outside chooses: handles and the HSM's random object names.
#[derive(Default)]
pub(super) struct FastHasher(u64);

pub(super) type Fast = BuildHasherDefault<FastHasher>;

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(MULTIPLIER);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    /// The product's high bits are the mixed ones, and the table takes the low ones.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
