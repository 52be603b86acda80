//! The store, through its public interface: in one process, in many, and across forks. What holds for
//! both stores is tested over both.

mod audit;
mod fork;
mod governed;
mod home;
mod managed;
#[cfg(feature = "fleet")]
mod migrate;
mod one_process;
#[cfg(feature = "fleet")]
mod postgres;
mod processes;
mod schema_1;
#[cfg(feature = "fleet")]
#[path = "../support/postgres.rs"]
mod support;

use std::path::Path;

use conclave::hsm::{
    Columns, DomainChange, DomainKeyId, DomainToken, ObjectChange, ObjectId, PinRecord, Record, Role, Sealed,
};
use conclave::store::{Directory, Filter, SqliteStore};

pub const SECRET_KEY: u64 = 4;

pub fn domain(version: u64) -> DomainToken {
    DomainToken { version, bytes: format!("domain {version}").into_bytes() }
}

pub fn pin(role: Role, generation: u64) -> PinRecord {
    PinRecord { role, generation, sealed: vec![generation as u8; 40] }
}

pub fn entry(version: u64) -> Vec<u8> {
    format!("entry {version}").into_bytes()
}

/// The change to `version` with so many entries of the log.
pub fn change(version: u64, entries: u64, pins: Vec<PinRecord>) -> DomainChange {
    let entries = (version + 1 - entries..=version).map(entry).collect();
    DomainChange { domain: domain(version), entries, pins, removed: Vec::new(), objects: ObjectChange::default() }
}

pub fn object(number: u64) -> ObjectId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

pub fn record(number: u64, label: &str) -> Record {
    Record {
        object: object(number),
        generation: 1,
        columns: Columns {
            class: SECRET_KEY,
            key_type: Some(0x1f),
            private: true,
            label: Some(label.as_bytes().to_vec()),
            id: Some(number.to_be_bytes().to_vec()),
            managed: false,
            due: None,
            replicating: false,
        },
        sealed: Sealed::new(vec![number as u8; 600]),
    }
}

pub fn domain_key(key: u8) -> DomainKeyId {
    [key; 16]
}

/// Has the form of a record that is sealed under this domain key (`docs/protocols.md`).
pub fn sealed_under(key: u8, number: u64) -> Sealed {
    let mut header = vec![0xa3, 0x01, 0x03, 0x03, 0x61, b'x', 0x04, 0x50];
    header.extend(domain_key(key));
    let mut sealed = vec![0xd0, 0x83, 0x58, header.len() as u8];
    sealed.extend(header);
    sealed.extend([0xa0, 0x59, 0x02, 0x58]);
    sealed.extend([number as u8; 0x258]);
    Sealed::new(sealed)
}

pub fn by_label(label: &str) -> Filter {
    Filter { labels: Some(vec![label.as_bytes().to_vec()]), ..Filter::default() }
}

pub fn new_token(data: &Path) -> (Directory, SqliteStore) {
    let directory = Directory::open(data).unwrap();
    let slot = directory.free_slot().unwrap();
    let store = directory.create(slot, "label", "0123456789abcdef", &domain(1), &pin(Role::So, 1)).unwrap();
    (directory, store)
}
