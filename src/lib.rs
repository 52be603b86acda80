//! Conclave: a PKCS#11 module backed by a software HSM.
//!
//! Dependencies point downwards only: [`abi`] → [`cryptoki`] → [`store`], [`channel`] → [`hsm`].
//! See `ARCHITECTURE.md`.

pub mod abi;
pub mod channel;
pub mod config;
pub mod cryptoki;
pub mod error;
pub mod hsm;
pub mod log;
pub mod store;
pub mod text;
