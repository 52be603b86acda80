//! Primitives and secret memory. Nothing here is written by hand: it wraps AWS-LC and the
//! RustCrypto crates of the domain protocols.

mod secret;

pub(super) use secret::SecretBytes;
