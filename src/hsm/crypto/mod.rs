//! Primitives and secret memory. Nothing here is written by hand: it wraps AWS-LC and the
//! RustCrypto crates of the domain protocols.

mod arena;
pub(super) mod aws_lc;
mod entropy;
mod secret;
mod wiped;

pub(super) use entropy::Entropy;
pub(super) use secret::SecretBytes;
pub use wiped::Wiped;

/// To be called in a forked child before anything else: it must not use its parent's secret memory.
/// Async-signal-safe.
pub(super) fn after_fork_in_child() {
    arena::after_fork_in_child();
}

/// SHA-1, for the identifiers and check values that the standards define with it.
pub(super) fn sha1(data: &[u8]) -> [u8; 20] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, data);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}
