//! Explicit-state models of replication between Regions.
//!
//! `exchange` is one exchange of messages, with its cryptography; `regions` is a key's life in several
//! Regions. Each check of the module is a switch. With all of them on, no state that an attacker can
//! reach breaks a promise; with any one of them off, the checker finds an attack.

mod cases;
mod exchange;
mod promises;
mod regions;
mod state;
