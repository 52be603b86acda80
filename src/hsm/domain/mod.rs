//! The domain: its state and tokens, the PINs that open an embedded one, and sealing under its keys.

pub(super) mod cbor;
mod cose;
mod seal;

pub(super) use seal::{DomainId, IndexKey, KeyId, Kind, Sealer, key_id_of, unverified};

#[cfg(test)]
mod tests;
