//! The audit log: who did what with which managed key, and how it ended.
//!
//! Each HSM instance writes one chain of *rows*. A chain begins with an *anchor*, goes on with
//! *events*, and has signed *heads* in between; each row after the first names the hash of the row
//! before it, so a valid head vouches for everything up to it. The anchor names how far all other
//! chains had come, so a head also vouches for the chains that were there when its own began:
//! one head kept elsewhere covers the whole log.
//!
//! [`Journal`] takes events from many threads, [`Chain`] makes the rows, [`Verifier`] reads them
//! one by one in the order in which they were stored. All are pure: rows come and go as bytes, time
//! is an argument, in milliseconds since 1970. The format is in `docs/protocols.md`.

mod chain;
mod head;
mod journal;
mod json;
mod record;
mod verify;

pub(super) use chain::{Chain, Opening};
pub(super) use journal::{Batch, Journal, Sign};
pub(super) use json::{line, time};
pub(super) use record::{Action, Context, Event, KeyName, Name, Outcome, TEXT};
pub(super) use verify::{Finding, Verifier};
#[cfg(test)]
use {
    head::Head,
    record::Row,
    verify::{Damage, Report},
};

use sha2::{Digest, Sha384};

pub(super) use super::auditing::AuditTip as Tip;
use super::domain::Hash;

/// The random name of an HSM instance and of its chain.
pub(super) type Instance = [u8; 16];

/// A head vouches for at most this many records that no other does.
const RECORDS_PER_HEAD: u64 = 1000;
/// A record waits this long for a head, in milliseconds.
const HEAD_INTERVAL: u64 = 1000;

/// The hash by which the next row names this one.
fn hash(row: &[u8]) -> Hash {
    Sha384::digest(row).into()
}

#[cfg(test)]
mod tests;
