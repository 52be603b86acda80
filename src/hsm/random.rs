//! Random bytes. Small requests are served from a buffer of the thread, which a fork invalidates.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroize;

use super::crypto::aws_lc;
use crate::error::Result;

const BUFFER: usize = 1024;
/// Requests up to this many bytes come from the buffer.
const SMALL: usize = 64;

static FORKS: AtomicU64 = AtomicU64::new(0);

struct Buffer {
    bytes: [u8; BUFFER],
    /// Bytes from here on are unused.
    at: usize,
    forks: u64,
}

thread_local! {
    // No destructor: a call during the thread's exit finds it still there.
    static UNUSED: RefCell<Buffer> = const { RefCell::new(Buffer { bytes: [0; BUFFER], at: BUFFER, forks: 0 }) };
}

/// Makes a forked child forget what its parent had buffered. Async-signal-safe.
pub(super) fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Fills `output` with random bytes.
pub(super) fn fill(output: &mut [u8]) -> Result<()> {
    if output.len() > SMALL {
        return aws_lc::random::fill(output);
    }
    UNUSED.with(|buffer| {
        let mut buffer = buffer.borrow_mut();
        let buffer = &mut *buffer;
        let forks = FORKS.load(Ordering::Relaxed);
        if buffer.forks != forks || BUFFER - buffer.at < output.len() {
            aws_lc::random::fill(&mut buffer.bytes)?;
            buffer.at = 0;
            buffer.forks = forks;
        }
        let taken = &mut buffer.bytes[buffer.at..buffer.at + output.len()];
        output.copy_from_slice(taken);
        taken.zeroize();
        buffer.at += output.len();
        Ok(())
    })
}

/// A fresh random array.
pub(super) fn array<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_byte_is_given_twice() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..500 {
            assert!(seen.insert(super::array::<16>().unwrap()));
        }
        super::after_fork_in_child();
        assert!(seen.insert(super::array::<16>().unwrap()));
    }
}
