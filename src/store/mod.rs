//! The store: sealed records and the columns to find them by. It never sees a key in the clear.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{AuditStore, DomainChange, DomainKeyId, DomainToken, ObjectChange, ObjectId, PinRecord, Record, Role};

mod cache;
mod counter;
mod directory;
pub mod fork;
mod group;
mod lock;
#[cfg(feature = "fleet")]
mod migrate;
#[cfg(feature = "fleet")]
mod postgres;
mod sqlite;
mod write;

pub use directory::{Directory, Slot};
#[cfg(feature = "fleet")]
pub use migrate::{Location, Report, migrate};
#[cfg(feature = "fleet")]
pub use postgres::{PostgresStore, RECHECK, is_url};
pub use sqlite::SqliteStore;

/// SHA-256 of what the operators sign.
pub type ProposalId = [u8; 32];

/// How many proposals a token keeps.
pub const PROPOSALS: u64 = 1000;

/// A token's own rows.
#[derive(Debug, Clone)]
pub struct Meta {
    pub label: String,
    /// 16 hexadecimal digits.
    pub serial: String,
    pub domain: DomainToken,
    pub pins: Vec<Pin>,
}

/// A PIN record and its failure counter.
#[derive(Debug, Clone)]
pub struct Pin {
    pub record: PinRecord,
    pub failures: u32,
}

impl Meta {
    pub fn pin(&self, role: &Role) -> Option<&Pin> {
        self.pins.iter().find(|pin| pin.record.role == *role)
    }
}

/// What to look for; None leaves a column open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    pub class: Option<u64>,
    pub key_type: Option<u64>,
    pub private: Option<bool>,
    /// Any of these column values (the label itself, its keyed hash).
    pub labels: Option<Vec<Vec<u8>>>,
    /// Any of these column values of CKA_ID.
    pub ids: Option<Vec<Vec<u8>>>,
    pub object: Option<ObjectId>,
}

/// A row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place in the log.
    pub id: u64,
    /// The chain.
    pub instance: [u8; 16],
    pub bytes: Vec<u8>,
}

/// An object that [`Store::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its place in the order of creation, from 1; not a name for it.
    pub row: u64,
    pub object: ObjectId,
}

/// The records of one token. Every write is durable when it returns; every write but of audit rows
/// moves the counter.
///
/// A writer waits for others, bounded; then it gets CKR_FUNCTION_FAILED, nothing has changed, and
/// the call may be tried again.
pub trait Store: AuditStore {
    /// The commit counter: moves with every commit of every process, but for one of audit rows alone.
    /// Costs no database read, but now and then where others cannot tell of their commits.
    ///
    /// What was read while it had an even value is still true as long as it has that same value.
    /// It is odd while a commit is under way, and after a process died in one until the next
    /// commit or read puts it right: an odd value says nothing, so whoever sees one reads anew.
    fn counter(&self) -> u64;

    /// Whether nothing that was committed since the counter had the even value `since` changed the
    /// object: a newer such value, or None if the object is to be read anew. Costs no database read.
    fn is_unchanged(&self, _object: &ObjectId, since: u64) -> Option<u64> {
        (self.counter() == since).then_some(since)
    }

    /// Somebody says that the counter has come to this value, as [`Self::stamp`] gave it there. If that is
    /// news, [`Self::counter`] says so from now on. Nothing is believed that the store does not confirm.
    fn hint(&self, _counter: u64) {}

    /// The highest even value of the counter that is known, to tell others. Never looks.
    fn stamp(&self) -> u64 {
        self.counter() & !1
    }

    fn meta(&self) -> Result<Meta>;

    /// Forgets what it remembers of [`Self::meta`], in case the counter does not tell.
    fn forget(&self) {}

    /// Erases everything and starts the token anew (C_InitToken). A domain that was founded by a quorum
    /// has no SO PIN.
    fn reset(&self, label: &str, serial: &str, domain: &DomainToken, so_pin: Option<&PinRecord>) -> Result<()>;

    /// Commits a new domain token with its entries of the log, its PIN records and, as
    /// [`Self::commit_change`] does, its change of keys: all or nothing, and only if the store still has
    /// the version that the change was made from and each PIN record's generation is new. A PIN record
    /// that is written starts with no failures. Once there is a log, no version goes without an entry.
    fn commit_domain(&self, change: &DomainChange) -> Result<()>;

    /// The entries of the log that made the versions after `after` up to `up_to`, in order.
    fn log(&self, after: u64, up_to: u64) -> Result<Vec<Vec<u8>>>;

    /// The domain token that the log begins with; None without a log.
    fn origin(&self) -> Result<Option<DomainToken>>;

    /// Keeps a proposal, in the place of one with that id. CKR_DEVICE_MEMORY if there are
    /// [`PROPOSALS`] others.
    fn put_proposal(&self, id: &ProposalId, bytes: &[u8]) -> Result<()>;

    /// Oldest first.
    fn proposals(&self) -> Result<Vec<Vec<u8>>>;

    /// False if there was none.
    fn delete_proposal(&self, id: &ProposalId) -> Result<bool>;

    /// Keeps the sealed keys of an HSM that waits for a recovery, in the place of others; no bytes
    /// delete them.
    fn put_recovery(&self, sealed: &[u8]) -> Result<()>;

    fn recovery(&self) -> Result<Option<Vec<u8>>>;

    /// Counts an attempt *before* the PIN is hashed: CKR_PIN_LOCKED if `limit` failures are
    /// already there, else adds one and answers the new count.
    fn begin_attempt(&self, role: &Role, limit: u32) -> Result<u32>;

    /// The attempt succeeded: no failures are left.
    fn end_attempt(&self, role: &Role) -> Result<()>;

    /// Nobody looked at the PIN: the attempt does not count.
    fn take_back_attempt(&self, role: &Role) -> Result<()>;

    fn get(&self, object: &ObjectId) -> Result<Option<Record>>;

    /// Adds new records, all or none.
    fn insert(&self, records: &[Record]) -> Result<()>;

    /// Replaces a record whose stored generation is `record.generation - 1`; else
    /// CKR_FUNCTION_FAILED if it is another, CKR_OBJECT_HANDLE_INVALID if it is gone.
    fn replace(&self, record: &Record) -> Result<()>;

    /// Each as [`Self::replace`] does, in one transaction. False for one that was changed or
    /// deleted by another, and stays as it is.
    fn replace_all(&self, records: &[Record]) -> Result<Vec<bool>>;

    /// Commits all of a change or nothing. CKR_FUNCTION_FAILED if a record that is to be replaced or
    /// deleted has another generation, CKR_OBJECT_HANDLE_INVALID if it is gone; KMS_R_ALREADY_EXISTS
    /// if one that is to be inserted is there; CKR_TOKEN_RESOURCE_EXCEEDED beyond the limit.
    fn commit_change(&self, change: &ObjectChange) -> Result<()>;

    /// The managed keys, without public halves, in pages as [`Self::find`].
    fn managed(&self, after: u64, limit: usize) -> Result<Vec<Found>>;

    /// How many those are.
    fn count_managed(&self) -> Result<u64>;

    /// Those of which time demands something by then, the most urgent first, at most `limit`.
    fn due(&self, by: u64, limit: usize) -> Result<Vec<Found>>;

    /// What other Regions are still to be told something of, without public halves, in pages as
    /// [`Self::find`].
    fn replicating(&self, after: u64, limit: usize) -> Result<Vec<Found>>;

    /// Rows of the audit log in the order in which they were committed: at most `limit` of those whose
    /// `id` is above `after` (0 to begin).
    fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>>;

    /// The `id` of the newest row of the audit log; 0 if it is empty.
    fn newest_audit_row(&self) -> Result<u64>;

    /// Deletes a record; CKR_OBJECT_HANDLE_INVALID if it is gone.
    fn delete(&self, object: &ObjectId) -> Result<()>;

    /// The objects that match, in order of creation: at most `limit` of those whose `row` is above
    /// `after` (0 to begin). Objects that are deleted meanwhile do not disturb the sequence.
    fn find(&self, filter: &Filter, after: u64, limit: usize) -> Result<Vec<Found>>;

    fn count(&self) -> Result<u64>;

    /// The objects that are not sealed under this domain key, as far as the store can tell, in
    /// pages as [`Self::find`]. A record of an old release counts until it is rewritten.
    fn sealed_under_other(&self, active: &DomainKeyId, after: u64, limit: usize) -> Result<Vec<Found>>;

    /// How many objects each domain key seals, in the order of the ids; None, which comes first, is
    /// for records that an old release wrote. Looks at every object's index entry.
    fn count_by_domain_key(&self) -> Result<Vec<(Option<DomainKeyId>, u64)>>;
}

/// Locks a file that processes share until what is given is dropped; it is made if it is not there. Until
/// then the thread calls no store. CKR_FUNCTION_FAILED after `wait`.
#[cfg(feature = "fleet")]
pub fn lock_file(path: &Path, wait: std::time::Duration) -> Result<impl Sized + use<>> {
    lock::PlainLock::acquire(path, fork::Epoch::current(), wait)
}

/// What a failed call of the file system means to a caller of PKCS#11.
fn io_error(path: &Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::DeviceRemoved,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::DeviceMemory,
        Io::ReadOnlyFilesystem => ErrorKind::TokenWriteProtected,
        _ => ErrorKind::DeviceError,
    };
    kind.with(format!("{}: {error}", path.display()))
}
