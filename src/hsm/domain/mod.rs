//! The domain: its state and tokens, the PINs that open an embedded one, and sealing under its keys.

pub(super) mod cbor;
