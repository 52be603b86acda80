//! The store of a fleet's host: after each commit the HSMs are told, so that they answer nobody who has
//! not read it.

use std::sync::Arc;

use super::fleet::Fleet;
use crate::error::Result;
use crate::hsm::{
    AuditBatch, AuditOpening, AuditStore, DomainChange, DomainKeyId, DomainToken, ObjectChange, ObjectId, PinRecord,
    Record, Role,
};
use crate::store::{AuditRow, Filter, Found, Meta, ProposalId, Store};

pub(super) struct Announcing {
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
}

impl Announcing {
    pub(super) fn new(store: Arc<dyn Store>, fleet: Arc<Fleet>) -> Self {
        Self { store, fleet }
    }

    fn announced<T>(&self, committed: Result<T>) -> Result<T> {
        if committed.is_ok() {
            self.fleet.announce(self.store.stamp());
        }
        committed
    }
}

/// Methods that go to the store behind this one; the second ones are announced.
macro_rules! pass_on {
    (
        { $($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)* }
        { $($commit:ident($($carg:ident: $cty:ty),*) -> $cout:ty;)* }
    ) => {
        $(fn $name(&self, $($arg: $ty),*) -> $out {
            self.store.$name($($arg),*)
        })*
        $(fn $commit(&self, $($carg: $cty),*) -> $cout {
            self.announced(self.store.$commit($($carg),*))
        })*
    };
}

impl Store for Announcing {
    pass_on! {
        {
        counter() -> u64;
        is_unchanged(object: &ObjectId, since: u64) -> Option<u64>;
        hint(counter: u64) -> ();
        stamp() -> u64;
        meta() -> Result<Meta>;
        forget() -> ();
        log(after: u64, up_to: u64) -> Result<Vec<Vec<u8>>>;
        origin() -> Result<Option<DomainToken>>;
        put_proposal(id: &ProposalId, bytes: &[u8]) -> Result<()>;
        proposals() -> Result<Vec<Vec<u8>>>;
        delete_proposal(id: &ProposalId) -> Result<bool>;
        put_recovery(sealed: &[u8]) -> Result<()>;
        recovery() -> Result<Option<Vec<u8>>>;
        begin_attempt(role: &Role, limit: u32) -> Result<u32>;
        end_attempt(role: &Role) -> Result<()>;
        take_back_attempt(role: &Role) -> Result<()>;
        get(object: &ObjectId) -> Result<Option<Record>>;
        managed(after: u64, limit: usize) -> Result<Vec<Found>>;
        count_managed() -> Result<u64>;
        due(by: u64, limit: usize) -> Result<Vec<Found>>;
        replicating(after: u64, limit: usize) -> Result<Vec<Found>>;
        audit(after: u64, limit: usize) -> Result<Vec<AuditRow>>;
        newest_audit_row() -> Result<u64>;
        find(filter: &Filter, after: u64, limit: usize) -> Result<Vec<Found>>;
        count() -> Result<u64>;
        sealed_under_other(active: &DomainKeyId, after: u64, limit: usize) -> Result<Vec<Found>>;
        count_by_domain_key() -> Result<Vec<(Option<DomainKeyId>, u64)>>;
        }
        {
        reset(label: &str, serial: &str, domain: &DomainToken, so_pin: Option<&PinRecord>) -> Result<()>;
        commit_domain(change: &DomainChange) -> Result<()>;
        insert(records: &[Record]) -> Result<()>;
        replace(record: &Record) -> Result<()>;
        replace_all(records: &[Record]) -> Result<Vec<bool>>;
        commit_change(change: &ObjectChange) -> Result<()>;
        delete(object: &ObjectId) -> Result<()>;
        }
    }
}

impl AuditStore for Announcing {
    fn open_audit(&self, opening: AuditOpening) -> Result<()> {
        self.store.open_audit(opening)
    }

    fn append_audit(&self, batch: &AuditBatch<'_>) -> Result<()> {
        self.store.append_audit(batch)
    }
}
