//! Conclave: a PKCS#11 module backed by a software HSM.
//!
//! Dependencies point downwards only: [`abi`] → [`cryptoki`] → [`store`], [`channel`] → [`hsm`].
//! See `ARCHITECTURE.md`.

pub mod abi;
pub mod channel;
pub mod config;
pub mod cryptoki;
pub mod error;
#[cfg(feature = "conclaved")]
pub mod fleet;
pub mod hsm;
pub mod log;
#[cfg(any(feature = "conclaved", feature = "proxy"))]
pub mod notify;
pub mod store;
pub mod text;
