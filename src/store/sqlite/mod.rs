//! The store in a SQLite file: write-ahead log, each commit synced, one file per token.

mod audit;
mod domain;
mod first;
#[cfg(feature = "fleet")]
mod import;
mod query;
mod schema;
mod write;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use rusqlite::Connection;

use super::cache::Cache;
use super::counter::{Sidecar, now};
use super::fork::{self, Connections, Epoch, Pass};
use super::group::{Batch, Group};
use super::lock::{WRITE_WAIT, WriteLock, try_lock};
use super::write::{self as writes, Answer, Write, other_answer};
use super::{AuditRow, Filter, Found, Meta, ProposalId, Store};
use crate::error::Result;
use crate::hsm::{
    AuditBatch, AuditOpening, AuditStore, DomainChange, DomainKeyId, DomainToken, ObjectChange, ObjectId, PinRecord,
    Record, Role,
};

#[cfg(feature = "fleet")]
pub(super) use import::Import;

const DATABASE: &str = "token.db";
const LOCK: &str = "lock";
const COUNTER: &str = "counter";

/// How many idle read connections a process keeps for a token.
const IDLE: usize = 4;
/// How long the counter must stay odd before a reader looks whether the writer is dead, in ns.
const SUSPECT: u64 = 50_000_000;

/// The store of one token.
///
/// After a fork it is of use in the parent only. In the child it answers
/// CKR_CRYPTOKI_NOT_INITIALIZED, and dropping it frees nothing.
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: Epoch,
    database: PathBuf,
    lock: PathBuf,
    sidecar: Sidecar,
    // The connections are used and these locks taken with the fork gate held. The cache and the
    // group may be locked in any thread at a fork; the child does not look at them.
    readers: Mutex<Vec<Connection>>,
    writer: Mutex<Option<Connection>>,
    group: Group,
    cache: Mutex<Cache>,
    odd: OddSince,
}

/// The last odd value a reader saw, and when it saw it first.
#[derive(Default)]
struct OddSince {
    value: AtomicU64,
    since: AtomicU64,
}

impl SqliteStore {
    /// Opens the token in this directory, which [`create`] made, and migrates it if need be.
    pub fn open(directory: &Path) -> Result<Self> {
        fork::register()?;
        let epoch = Epoch::current();
        let database = directory.join(DATABASE);
        let lock = directory.join(LOCK);
        loop {
            let pass = epoch.enter()?;
            // Before the sidecar, which would be made: says so if the token is gone.
            let current = schema::open_current(&database)?;
            let sidecar = Sidecar::open(&directory.join(COUNTER))?;
            let Some(connection) = current else {
                drop(pass);
                let held = WriteLock::acquire(&sidecar, &lock, epoch, Instant::now() + WRITE_WAIT)?;
                schema::upgrade(&database)?;
                drop(held);
                continue;
            };
            let inner = Arc::new(Inner {
                epoch,
                database,
                lock,
                sidecar,
                readers: Mutex::new(vec![connection]),
                writer: Mutex::default(),
                group: Group::default(),
                cache: Mutex::default(),
                odd: OddSince::default(),
            });
            let weak: Weak<Inner> = Arc::downgrade(&inner);
            pass.adopt(weak);
            return Ok(Self { inner });
        }
    }

    /// Deletes all rows, so that every process which has the token open sees that it is gone.
    pub(super) fn erase(&self) -> Result<()> {
        self.write(Write::Erase).map(drop)
    }

    /// Reads with a connection of the pool.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let inner = &*self.inner;
        let pass = inner.epoch.enter()?;
        let idle = lock(&inner.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open(&inner.database)?,
        };
        let answer = query(&connection).map_err(|error| schema::sql_error(&inner.database, error))?;
        let mut idle = lock(&inner.readers);
        if idle.len() < IDLE {
            idle.push(connection);
        }
        drop(idle);
        drop(pass);
        Ok(answer)
    }

    /// Reads; `remember` is called if nothing was committed meanwhile.
    fn read_and_remember<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        remember: impl FnOnce(&mut Cache, u64, &T),
    ) -> Result<T> {
        let inner = &*self.inner;
        let before = inner.sidecar.counter();
        if !before.is_multiple_of(2) {
            inner.look_for_the_dead(before)?;
        }
        let answer = self.read(query)?;
        if before.is_multiple_of(2) && inner.sidecar.counter() == before {
            remember(&mut lock(&inner.cache), before, &answer);
        }
        Ok(answer)
    }

    fn write(&self, write: Write) -> Result<Answer> {
        let inner = &*self.inner;
        inner.epoch.check()?;
        let deadline = Instant::now() + WRITE_WAIT;
        inner.group.submit(write, deadline, |batch| inner.commit(batch, deadline))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        match self.inner.epoch.enter() {
            Ok(_pass) => drop(self.inner.take_connections()),
            Err(_) => std::mem::forget(Arc::clone(&self.inner)),
        }
    }
}

impl Store for SqliteStore {
    fn counter(&self) -> u64 {
        self.inner.sidecar.counter()
    }

    fn is_unchanged(&self, object: &ObjectId, since: u64) -> Option<u64> {
        self.inner.sidecar.is_unchanged(object, since)
    }

    fn meta(&self) -> Result<Meta> {
        self.inner.epoch.check()?;
        if let Some(meta) = lock(&self.inner.cache).meta(self.counter()) {
            return Ok(meta);
        }
        let remember = |cache: &mut Cache, counter, meta: &Option<Meta>| {
            if let Some(meta) = meta {
                cache.put_meta(counter, meta);
            }
        };
        self.read_and_remember(query::meta, remember)?.ok_or_else(writes::removed)
    }

    fn forget(&self) {
        lock(&self.inner.cache).forget_meta();
    }

    fn reset(&self, label: &str, serial: &str, domain: &DomainToken, so_pin: Option<&PinRecord>) -> Result<()> {
        self.write(Write::first(label, serial, domain, so_pin)).map(drop)
    }

    fn commit_domain(&self, change: &DomainChange) -> Result<()> {
        self.write(Write::CommitDomain(change.clone())).map(drop)
    }

    fn log(&self, after: u64, up_to: u64) -> Result<Vec<Vec<u8>>> {
        self.read(|on| domain::log(on, after, up_to))
    }

    fn origin(&self) -> Result<Option<DomainToken>> {
        self.read(domain::origin)
    }

    fn put_proposal(&self, id: &ProposalId, bytes: &[u8]) -> Result<()> {
        self.write(Write::PutProposal { id: *id, bytes: bytes.to_vec() }).map(drop)
    }

    fn proposals(&self) -> Result<Vec<Vec<u8>>> {
        self.read(domain::proposals)
    }

    fn delete_proposal(&self, id: &ProposalId) -> Result<bool> {
        match self.write(Write::DeleteProposal(*id))? {
            Answer::Deleted(deleted) => Ok(deleted),
            _ => Err(other_answer()),
        }
    }

    fn put_recovery(&self, sealed: &[u8]) -> Result<()> {
        self.write(Write::PutRecovery(sealed.to_vec())).map(drop)
    }

    fn recovery(&self) -> Result<Option<Vec<u8>>> {
        self.read(domain::recovery)
    }

    fn begin_attempt(&self, role: &Role, limit: u32) -> Result<u32> {
        match self.write(Write::BeginAttempt { role: role.clone(), limit })? {
            Answer::Failures(failures) => Ok(failures),
            _ => Err(other_answer()),
        }
    }

    fn end_attempt(&self, role: &Role) -> Result<()> {
        self.write(Write::EndAttempt { role: role.clone(), right: true }).map(drop)
    }

    fn take_back_attempt(&self, role: &Role) -> Result<()> {
        self.write(Write::EndAttempt { role: role.clone(), right: false }).map(drop)
    }

    fn get(&self, object: &ObjectId) -> Result<Option<Record>> {
        self.read_and_remember(|on| query::get(on, object), |_, _, _| ())
    }

    fn insert(&self, records: &[Record]) -> Result<()> {
        self.write(Write::Insert(records.to_vec())).map(drop)
    }

    fn replace(&self, record: &Record) -> Result<()> {
        self.write(Write::Replace(record.clone())).map(drop)
    }

    fn replace_all(&self, records: &[Record]) -> Result<Vec<bool>> {
        match self.write(Write::ReplaceAll(records.to_vec()))? {
            Answer::Replaced(replaced) => Ok(replaced),
            _ => Err(other_answer()),
        }
    }

    fn commit_change(&self, change: &ObjectChange) -> Result<()> {
        self.write(Write::Change(change.clone())).map(drop)
    }

    fn managed(&self, after: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(|on| query::managed(on, after, limit))
    }

    fn count_managed(&self) -> Result<u64> {
        self.read(query::count_managed)
    }

    fn due(&self, by: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(|on| query::due(on, by, limit))
    }

    fn replicating(&self, after: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(|on| query::replicating(on, after, limit))
    }

    fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>> {
        self.read(|on| audit::rows(on, after, limit))
    }

    fn newest_audit_row(&self) -> Result<u64> {
        self.read(audit::newest)
    }

    fn delete(&self, object: &ObjectId) -> Result<()> {
        self.write(Write::Delete(*object)).map(drop)
    }

    fn find(&self, filter: &Filter, after: u64, limit: usize) -> Result<Vec<Found>> {
        self.inner.epoch.check()?;
        if after > 0 {
            return self.read(|on| query::find(on, filter, after, limit));
        }
        if let Some(found) = lock(&self.inner.cache).search(self.counter(), filter, limit) {
            return Ok(found);
        }
        let remember = |cache: &mut Cache, counter, found: &Vec<Found>| {
            cache.put_search(counter, filter, limit, found);
        };
        self.read_and_remember(|on| query::find(on, filter, 0, limit), remember)
    }

    fn count(&self) -> Result<u64> {
        self.read(query::count)
    }

    fn sealed_under_other(&self, active: &DomainKeyId, after: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(|on| query::sealed_under_other(on, active, after, limit))
    }

    fn count_by_domain_key(&self) -> Result<Vec<(Option<DomainKeyId>, u64)>> {
        self.read(query::count_by_domain_key)
    }
}

impl AuditStore for SqliteStore {
    fn open_audit(&self, opening: AuditOpening) -> Result<()> {
        self.write(Write::OpenAudit(Mutex::new(Some(opening)))).map(drop)
    }

    fn append_audit(&self, batch: &AuditBatch<'_>) -> Result<()> {
        let rows = Cow::Owned(batch.rows.to_vec());
        self.write(Write::AppendAudit(AuditBatch { rows, ..*batch })).map(drop)
    }
}

impl Inner {
    /// Commits what the batch holds once the lock is there.
    fn commit(&self, batch: &mut Batch<'_>, deadline: Instant) -> Result<Vec<Result<Answer>>> {
        let held = WriteLock::acquire(&self.sidecar, &self.lock, self.epoch, deadline)?;
        let idle = lock(&self.writer).take();
        let mut connection = match idle {
            Some(connection) => connection,
            None => schema::open(&self.database)?,
        };
        let writes = batch.take();
        let mark = || writes::changed_by(&writes).map(|changed| self.sidecar.begin_commit(&changed));
        let results = write::commit(&mut connection, &self.database, &writes, mark)?;
        *lock(&self.writer) = Some(connection);
        drop(held);
        Ok(results)
    }

    fn take_connections(&self) -> Vec<Connection> {
        let mut connections = std::mem::take(&mut *lock(&self.readers));
        connections.extend(lock(&self.writer).take());
        connections
    }

    /// A process that died in a commit leaves the counter odd. If it stays so for long and nobody
    /// holds the write lock, it is put right, so that caches are of use again.
    fn look_for_the_dead(&self, odd: u64) -> Result<()> {
        let now = now();
        if self.odd.value.swap(odd, Ordering::Relaxed) != odd {
            self.odd.since.store(now, Ordering::Relaxed);
        } else if now.saturating_sub(self.odd.since.load(Ordering::Relaxed)) > SUSPECT {
            self.odd.since.store(now, Ordering::Relaxed);
            let _pass = self.epoch.enter()?;
            // A reader that may not write to the directory can do without.
            if let Ok(Some(_held)) = try_lock(&self.lock) {
                self.sidecar.repair();
            }
        }
        Ok(())
    }
}

impl Connections for Inner {
    fn close(&self) {
        drop(self.take_connections());
    }
}

/// Makes a token's files in a directory that is the caller's alone. The caller holds the gate and
/// syncs the directory.
pub(super) fn create(
    _pass: &Pass,
    directory: &Path,
    label: &str,
    serial: &str,
    domain: &DomainToken,
    so_pin: Option<&PinRecord>,
) -> Result<()> {
    schema::create(&directory.join(DATABASE), &Write::first(label, serial, domain, so_pin))?;
    Sidecar::open(&directory.join(COUNTER)).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
