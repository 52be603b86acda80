//! The domain: its state and tokens, the PINs that open an embedded one, and sealing under its keys.

mod apply;
pub(super) mod cbor;
mod change;
mod command;
mod control;
pub(super) mod cose;
mod embedded;
mod execute;
pub mod governance;
mod identity;
pub(super) mod json;
pub(super) mod keys;
mod log;
mod opened;
mod pin;
mod recovery;
mod refusal;
mod rules;
mod seal;
mod state;
mod token;

pub(super) use change::{Change, RegionKeys};
pub(super) use command::SignedCommand;
pub(super) use control::{ControlledKey, KeyControl, KeyUse};
pub(super) use execute::Executed;
#[cfg(test)]
pub(super) use identity::Claim;
pub(super) use log::{ends_pin, members_ever};
pub(super) use opened::{Circumstances, Opened, OwnKeys, SigningKey, check_pin, pin_cost};
pub(super) use refusal::Refusal;
pub(super) use seal::{DomainId, IndexKey, Keys, Kind, Sealer, expand, gcm_open, gcm_seal, key_id_of, unverified};
pub(super) use state::{Hash, State, TrustedRegion, decode_role, encode_role};
pub(super) use token::PublicState;

#[cfg(test)]
pub(in crate::hsm) mod tests;
