//! Primitives and secret memory. Nothing here is written by hand: it wraps AWS-LC and the
//! RustCrypto crates of the domain protocols.

pub(super) mod aws_lc;
mod secret;

pub(super) use secret::SecretBytes;
