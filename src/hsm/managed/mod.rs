//! Managed keys: the life cycle of a cloud KMS key inside a token. Pure functions of a key's
//! attributes, the request and the time; sealing and storing is the caller's.

mod attributes;
mod context;
mod creation;
mod data_key;
mod describe;
mod envelope;
mod import;
mod lifecycle;
mod material;
mod metadata;
mod refused;
mod requested;
mod spec;
mod states;
mod tags;

use refused::{Answer, Reason, Refused};
