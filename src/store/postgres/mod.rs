//! The store in a database that speaks PostgreSQL's protocol, which many hosts share.
//!
//! The calling thread does all of the work: it takes a connection from a small pool, or makes one, and
//! waits for the answers. Threads that write at the same time share a commit.

mod audit;
mod commit;
mod connection;
mod domain;
mod failure;
mod import;
mod pool;
mod query;
mod schema;
mod seen;
mod url;
mod write;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::connection::Session;
use self::failure::Failure;
use self::pool::Pool;
use self::seen::Seen;
use self::url::Target;
pub use self::url::is_url;
pub(super) use self::url::without_secrets;
use super::cache::Cache;
use super::fork::{self, Connections, Epoch};
use super::group::{Batch, Group};
use super::lock::WRITE_WAIT;
use super::write::{Answer, Write, other_answer, removed};
use super::{AuditRow, Filter, Found, Meta, ProposalId, Store};
use crate::error::{ErrorKind, Result};
use crate::hsm::{
    AuditBatch, AuditOpening, AuditStore, DomainChange, DomainKeyId, DomainToken, ObjectChange, ObjectId, PinRecord,
    Record, Role,
};

/// How many connections a process keeps for a token.
const CONNECTIONS: usize = 8;
const READ_WAIT: Duration = Duration::from_secs(10);
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// How far behind the commits of others one may be that nobody told of.
pub const RECHECK: Duration = Duration::from_secs(1);

/// The store of one token, in a database or schema of its own.
///
/// After a fork it is of use in the parent only. In the child it answers
/// CKR_CRYPTOKI_NOT_INITIALIZED, and dropping it frees nothing.
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: Epoch,
    pool: Pool,
    seen: Seen,
    group: Group,
    /// Searches, by the last commit that changed what they find, and the token's own rows by theirs.
    searches: Mutex<Cache>,
    meta: Mutex<Cache>,
}

impl PostgresStore {
    /// The token at `postgresql://…`, which [`Self::create`] made. Connects when first used. CKR_ARGUMENTS_BAD
    /// for what is no such address. `recheck` is [`RECHECK`] but for those who know better.
    pub fn open(url: &str, recheck: Duration) -> Result<Self> {
        fork::register()?;
        let epoch = Epoch::current();
        let inner = Arc::new(Inner {
            epoch,
            pool: Pool::new(Target::parse(url)?, true),
            seen: Seen::new(recheck),
            group: Group::default(),
            searches: Mutex::default(),
            meta: Mutex::default(),
        });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        epoch.enter()?.adopt(weak);
        Ok(Self { inner })
    }

    /// Makes the tables, if they are not there, and the token in them. CKR_FUNCTION_REJECTED if there is
    /// one already.
    pub fn create(
        url: &str,
        label: &str,
        serial: &str,
        domain: &DomainToken,
        so_pin: Option<&PinRecord>,
    ) -> Result<Self> {
        let maker = Pool::new(Target::parse(url)?, false);
        let made = maker.read(Instant::now() + WRITE_WAIT, schema::create);
        maker.close();
        made.map_err(|failure| failure.into_error(&maker.target))?;
        let store = Self::open(url, RECHECK)?;
        match store.meta() {
            Ok(_) => {
                let detail = format!("{}: there is a token already", store.inner.pool.target);
                return Err(ErrorKind::FunctionRejected.with(detail));
            }
            Err(error) if error.kind() == ErrorKind::DeviceRemoved => {}
            Err(error) => return Err(error),
        }
        store.reset(label, serial, domain, so_pin)?;
        Ok(store)
    }

    /// Deletes all rows, so that every host sees that the token is gone.
    pub fn erase(&self) -> Result<()> {
        self.write(Write::Erase).map(drop)
    }

    fn read<T>(&self, task: impl AsyncFn(&mut Session) -> std::result::Result<T, Failure>) -> Result<T> {
        let inner = &*self.inner;
        inner.epoch.check()?;
        inner.pool.read(Instant::now() + READ_WAIT, task).map_err(|failure| failure.into_error(&inner.pool.target))
    }

    fn write(&self, write: Write) -> Result<Answer> {
        let inner = &*self.inner;
        inner.epoch.check()?;
        let deadline = Instant::now() + WRITE_WAIT;
        inner.group.submit(write, deadline, |batch| inner.commit(batch, deadline))
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        match self.inner.epoch.check() {
            Ok(()) => self.inner.pool.close(),
            Err(_) => std::mem::forget(Arc::clone(&self.inner)),
        }
    }
}

impl Store for PostgresStore {
    fn counter(&self) -> u64 {
        self.inner.look_if_due();
        self.inner.seen.counter()
    }

    fn is_unchanged(&self, object: &ObjectId, since: u64) -> Option<u64> {
        self.inner.seen.is_unchanged(object, since)
    }

    fn hint(&self, counter: u64) {
        self.inner.seen.hint(counter);
    }

    fn stamp(&self) -> u64 {
        self.inner.seen.known() * 2
    }

    fn meta(&self) -> Result<Meta> {
        let inner = &*self.inner;
        inner.epoch.check()?;
        inner.look_if_due();
        let before = inner.seen.meta();
        if let Some(known) = before.and_then(|before| lock(&inner.meta).meta(before)) {
            return Ok(known);
        }
        let meta = self.read(query::meta)?.ok_or_else(removed)?;
        if let Some(before) = before.filter(|before| inner.seen.meta() == Some(*before)) {
            lock(&inner.meta).put_meta(before, &meta);
        }
        Ok(meta)
    }

    fn forget(&self) {
        lock(&self.inner.meta).forget_meta();
    }

    fn reset(&self, label: &str, serial: &str, domain: &DomainToken, so_pin: Option<&PinRecord>) -> Result<()> {
        self.write(Write::first(label, serial, domain, so_pin)).map(drop)
    }

    fn commit_domain(&self, change: &DomainChange) -> Result<()> {
        self.write(Write::CommitDomain(change.clone())).map(drop)
    }

    fn log(&self, after: u64, up_to: u64) -> Result<Vec<Vec<u8>>> {
        self.read(async |on| domain::log(on, after, up_to).await)
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
        self.read(async |on| query::get(on, object).await)
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
        self.read(async |on| query::managed(on, after, limit).await)
    }

    fn count_managed(&self) -> Result<u64> {
        Ok(self.read(query::counts)?.0)
    }

    fn due(&self, by: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(async |on| query::due(on, by, limit).await)
    }

    fn replicating(&self, after: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(async |on| query::replicating(on, after, limit).await)
    }

    fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>> {
        self.read(async |on| audit::rows(on, after, limit).await)
    }

    fn newest_audit_row(&self) -> Result<u64> {
        self.read(audit::newest)
    }

    fn delete(&self, object: &ObjectId) -> Result<()> {
        self.write(Write::Delete(*object)).map(drop)
    }

    fn find(&self, filter: &Filter, after: u64, limit: usize) -> Result<Vec<Found>> {
        let inner = &*self.inner;
        inner.epoch.check()?;
        let search = || self.read(async |on| query::find(on, filter, after, limit).await);
        if after > 0 {
            return search();
        }
        inner.look_if_due();
        let before = inner.seen.objects();
        if let Some(found) = before.and_then(|before| lock(&inner.searches).search(before, filter, limit)) {
            return Ok(found);
        }
        let found = search()?;
        if let Some(before) = before.filter(|before| inner.seen.objects() == Some(*before)) {
            lock(&inner.searches).put_search(before, filter, limit, &found);
        }
        Ok(found)
    }

    fn count(&self) -> Result<u64> {
        Ok(self.read(query::counts)?.1)
    }

    fn sealed_under_other(&self, active: &DomainKeyId, after: u64, limit: usize) -> Result<Vec<Found>> {
        self.read(async |on| query::sealed_under_other(on, active, after, limit).await)
    }

    fn count_by_domain_key(&self) -> Result<Vec<(Option<DomainKeyId>, u64)>> {
        self.read(query::count_by_domain_key)
    }
}

impl AuditStore for PostgresStore {
    fn open_audit(&self, opening: AuditOpening) -> Result<()> {
        self.write(Write::OpenAudit(Mutex::new(Some(opening)))).map(drop)
    }

    fn append_audit(&self, batch: &AuditBatch<'_>) -> Result<()> {
        let rows = Cow::Owned(batch.rows.to_vec());
        self.write(Write::AppendAudit(AuditBatch { rows, ..*batch })).map(drop)
    }
}

impl Inner {
    fn commit(&self, batch: &mut Batch<'_>, deadline: Instant) -> Result<Vec<Result<Answer>>> {
        let writes = batch.take();
        self.commit_writes(&writes, deadline)
    }

    /// Looks at the database if it is time to. Nothing is done in a forked child.
    fn look_if_due(&self) {
        if self.epoch.check().is_err() {
            return;
        }
        let Some(turn) = self.seen.is_due() else { return };
        let look = |from| {
            let found = self.pool.attempt(Instant::now() + LOOK_WAIT, async |on| query::look(on, from).await);
            found.map_err(|failure| failure.into_error(&self.pool.target))
        };
        if self.seen.look(turn, look) {
            tracing::warn!(database = %self.pool.target, "the database went back to an older state");
            if let Err(error) = self.commit_writes(&[], Instant::now() + WRITE_WAIT) {
                tracing::warn!(%error, "other hosts could not be told that the database went back");
            }
        }
    }
}

impl Connections for Inner {
    fn close(&self) {}

    fn abandon(&self) {
        self.pool.sockets.take().for_each(fork::close_inherited);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
