//! The domain: its state and tokens, the PINs that open an embedded one, and sealing under its keys.

pub(super) mod cbor;
mod cose;
mod keys;
mod opened;
mod pin;
mod seal;
mod state;
mod token;

pub(super) use opened::{Circumstances, Opened, check_pin};
pub(super) use seal::{Kind, Sealer, key_id_of, unverified};
pub(super) use token::PublicState;

#[cfg(test)]
mod tests;
