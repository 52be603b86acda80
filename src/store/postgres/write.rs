//! How PostgreSQL carries out the writes.

use std::collections::HashSet;
use std::sync::PoisonError;

use cryptoki_sys::CKO_PUBLIC_KEY;
use tokio_postgres::types::ToSql;

use super::connection::Session;
use super::failure::Failure;
use super::query::number;
use super::{audit, domain};
use crate::error::{Error, ErrorKind};
use crate::hsm::{AuditBatch, AuditTip, ObjectChange, ObjectId, Record};
use crate::store::write::{Answer, Write, changed, gone, removed};

/// What a transaction has changed of the row of `state`, and of that of `audit_state`.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    pub(super) next_place: u64,
    pub(super) managed: u64,
    pub(super) total: u64,
    pub(super) next_audit: u64,
    /// Whether the token is there.
    pub(super) token: bool,
}

impl Work {
    /// A number above all that were given for objects and proposals.
    pub(super) fn next_place(&mut self) -> i64 {
        let place = self.next_place;
        self.next_place += 1;
        place.cast_signed()
    }

    fn added(&mut self, managed: bool) {
        self.total += 1;
        self.managed += u64::from(managed);
    }

    fn removed(&mut self, managed: bool) {
        self.total = self.total.saturating_sub(1);
        self.managed = self.managed.saturating_sub(u64::from(managed));
    }
}

/// The first rows of a chain, once its function has made them of some tips: that can be asked only once,
/// but the transaction may have to be tried again.
pub(super) type Opened = Option<(Vec<AuditTip>, AuditBatch<'static>)>;

/// Carries out one write. What it has changed when it is refused, the caller undoes.
pub(super) async fn apply(
    session: &mut Session,
    work: &mut Work,
    write: &Write,
    opened: &mut Opened,
) -> Result<Answer, Failure> {
    if !work.token && !matches!(write, Write::Reset { .. }) {
        return Err(removed().into());
    }
    match write {
        Write::Reset { label, serial, domain: first, so_pin } => {
            erase(session, work).await?;
            let sql = "INSERT INTO token (one, label, serial) VALUES (1, $1, $2)";
            session.execute(sql, &[label, serial]).await?;
            work.token = true;
            domain::insert_token(session, first).await?;
            if let Some(pin) = so_pin {
                domain::put_pin(session, pin).await?;
            }
        }
        Write::Erase => erase(session, work).await?,
        Write::CommitDomain(change) => domain::commit(session, work, change).await?,
        Write::PutProposal { id, bytes } => domain::put_proposal(session, work, id, bytes).await?,
        Write::DeleteProposal(id) => return Ok(Answer::Deleted(domain::delete_proposal(session, id).await?)),
        Write::PutRecovery(sealed) => domain::put_recovery(session, sealed).await?,
        Write::BeginAttempt { role, limit } => return domain::begin_attempt(session, role, *limit).await,
        Write::EndAttempt { role, right } => domain::end_attempt(session, role, *right).await?,
        Write::Insert(records) => {
            if !insert(session, work, records).await? {
                return Err(ErrorKind::DeviceError.with("an object of that id is there already").into());
            }
        }
        Write::Replace(record) => {
            if replace(session, work, std::slice::from_ref(record)).await? != [true] {
                return Err(not_replaced(session, &record.object).await?);
            }
        }
        Write::ReplaceAll(records) => return Ok(Answer::Replaced(replace(session, work, records).await?)),
        Write::Change(change) => apply_change(session, work, change).await?,
        Write::Delete(object) => {
            if !delete(session, work, object, None).await? {
                return Err(gone().into());
            }
        }
        Write::OpenAudit(opening) => {
            let seen = audit::moved(session).await?;
            let batch = match opened.take() {
                Some((then, batch)) if then == seen => batch,
                Some(_) => return Err(changed("the audit log").into()),
                None => {
                    let opening = opening.lock().unwrap_or_else(PoisonError::into_inner).take();
                    opening.ok_or_else(|| Error::from(ErrorKind::GeneralError))?(seen.clone())?
                }
            };
            let (_, batch) = opened.insert((seen, batch));
            audit::named(session).await?;
            audit::append(session, &mut work.next_audit, batch).await?;
        }
        Write::AppendAudit(batch) => audit::append(session, &mut work.next_audit, batch).await?,
    }
    Ok(Answer::Done)
}

/// Whether the write may have changed something when it is refused.
pub(super) fn leaves_traces(write: &Write) -> bool {
    match write {
        Write::CommitDomain(_) | Write::Change(_) => true,
        Write::Insert(records) => records.len() > 1,
        _ => false,
    }
}

async fn erase(session: &mut Session, work: &mut Work) -> Result<(), Failure> {
    session
        .batch(
            "DELETE FROM objects; DELETE FROM pins; DELETE FROM domain; DELETE FROM log; DELETE FROM proposals;
             DELETE FROM recovery; DELETE FROM audit; DELETE FROM audit_tips; DELETE FROM token",
        )
        .await?;
    (work.managed, work.total, work.token) = (0, 0, false);
    Ok(())
}

/// One array for each column.
#[derive(Default)]
struct Arrays<'a> {
    object: Vec<&'a [u8]>,
    generation: Vec<i64>,
    class: Vec<i64>,
    key_type: Vec<Option<i64>>,
    private: Vec<i64>,
    label: Vec<Option<&'a [u8]>>,
    ckaid: Vec<Option<&'a [u8]>>,
    sealed: Vec<&'a [u8]>,
    domain_key: Vec<Option<Vec<u8>>>,
    managed: Vec<i64>,
    due: Vec<Option<i64>>,
    replicating: Vec<i64>,
    /// The place of a new record, or the generation that is replaced.
    extra: Vec<i64>,
}

impl<'a> Arrays<'a> {
    fn of(records: impl Iterator<Item = &'a Record>, mut extra: impl FnMut(&Record) -> i64) -> Self {
        let mut arrays = Self::default();
        for record in records {
            let columns = &record.columns;
            arrays.object.push(&record.object);
            arrays.generation.push(record.generation.cast_signed());
            arrays.class.push(columns.class.cast_signed());
            arrays.key_type.push(columns.key_type.map(u64::cast_signed));
            arrays.private.push(i64::from(columns.private));
            arrays.label.push(columns.label.as_deref());
            arrays.ckaid.push(columns.id.as_deref());
            arrays.sealed.push(record.sealed.as_bytes());
            arrays.domain_key.push(record.sealed.domain_key().map(|key| key.to_vec()));
            arrays.managed.push(i64::from(columns.managed));
            arrays.due.push(columns.due.map(u64::cast_signed));
            arrays.replicating.push(i64::from(columns.replicating));
            arrays.extra.push(extra(record));
        }
        arrays
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.object,
            &self.generation,
            &self.class,
            &self.key_type,
            &self.private,
            &self.label,
            &self.ckaid,
            &self.sealed,
            &self.domain_key,
            &self.managed,
            &self.due,
            &self.replicating,
            &self.extra,
        ]
    }
}

const INSERT: &str = "INSERT INTO objects (object, generation, class, key_type, private, label, ckaid, sealed,
        domain_key, managed, due, replicating, place)
    SELECT * FROM unnest($1::BYTEA[], $2::INT8[], $3::INT8[], $4::INT8[], $5::INT8[], $6::BYTEA[], $7::BYTEA[],
        $8::BYTEA[], $9::BYTEA[], $10::INT8[], $11::INT8[], $12::INT8[], $13::INT8[])
    ON CONFLICT (object) DO NOTHING";
const UPDATE: &str = "UPDATE objects SET generation = n.generation, class = n.class, key_type = n.key_type,
        private = n.private, label = n.label, ckaid = n.ckaid, sealed = n.sealed, domain_key = n.domain_key,
        managed = n.managed, due = n.due, replicating = n.replicating
    FROM unnest($1::BYTEA[], $2::INT8[], $3::INT8[], $4::INT8[], $5::INT8[], $6::BYTEA[], $7::BYTEA[],
            $8::BYTEA[], $9::BYTEA[], $10::INT8[], $11::INT8[], $12::INT8[], $13::INT8[])
        AS n(object, generation, class, key_type, private, label, ckaid, sealed, domain_key, managed, due,
            replicating, before), objects AS old
    WHERE objects.object = n.object AND objects.generation = n.before AND old.object = objects.object
    RETURNING old.object, old.managed, old.class, n.managed, n.class";

fn is_managed_key(managed: bool, class: u64) -> bool {
    managed && class != CKO_PUBLIC_KEY
}

/// False if one was there; then those that were not have been added.
async fn insert(session: &mut Session, work: &mut Work, records: &[Record]) -> Result<bool, Failure> {
    let arrays = Arrays::of(records.iter(), |_| work.next_place());
    let added = session.execute(INSERT, &arrays.params()).await?;
    let columns = records.iter().map(|record| &record.columns);
    columns.for_each(|columns| work.added(is_managed_key(columns.managed, columns.class)));
    Ok(added == records.len() as u64)
}

/// For each record whether the stored one was the one before it.
async fn replace(session: &mut Session, work: &mut Work, records: &[Record]) -> Result<Vec<bool>, Failure> {
    let mut replaced = vec![false; records.len()];
    let mut left: Vec<usize> = (0..records.len()).collect();
    while !left.is_empty() {
        // One that comes again comes after its first.
        let mut round = HashSet::new();
        let (now, later): (Vec<usize>, Vec<usize>) =
            left.into_iter().partition(|at| records.get(*at).is_some_and(|record| round.insert(record.object)));
        let of_round = now.iter().filter_map(|at| records.get(*at));
        let arrays = Arrays::of(of_round, |record| record.generation.wrapping_sub(1).cast_signed());
        let mut done = HashSet::new();
        for row in &session.query(UPDATE, &arrays.params()).await? {
            done.insert(super::query::id(row, 0)?);
            let managed = |at: usize| Ok::<_, Failure>(is_managed_key(number(row, at)? != 0, number(row, at + 1)?));
            work.removed(managed(1)?);
            work.added(managed(3)?);
        }
        for at in now {
            if let (Some(place), Some(record)) = (replaced.get_mut(at), records.get(at)) {
                *place = done.contains(&record.object);
            }
        }
        left = later;
    }
    Ok(replaced)
}

/// False if there was none, of that generation if one is given.
async fn delete(
    session: &mut Session,
    work: &mut Work,
    object: &ObjectId,
    generation: Option<u64>,
) -> Result<bool, Failure> {
    let object = object.as_slice();
    let deleted = match generation {
        None => session.query_opt("DELETE FROM objects WHERE object = $1 RETURNING managed, class", &[&object]).await?,
        Some(generation) => {
            let sql = "DELETE FROM objects WHERE object = $1 AND generation = $2 RETURNING managed, class";
            session.query_opt(sql, &[&object, &generation.cast_signed()]).await?
        }
    };
    let Some(row) = deleted else { return Ok(false) };
    work.removed(is_managed_key(number(&row, 0)? != 0, number(&row, 1)?));
    Ok(true)
}

pub(super) async fn apply_change(session: &mut Session, work: &mut Work, change: &ObjectChange) -> Result<(), Failure> {
    if !change.insert.is_empty() && !insert(session, work, &change.insert).await? {
        return Err(Error::from(ErrorKind::KmsAlreadyExists).into());
    }
    let replaced = replace(session, work, &change.replace).await?;
    if let Some((record, _)) = change.replace.iter().zip(replaced).find(|(_, replaced)| !replaced) {
        return Err(not_replaced(session, &record.object).await?);
    }
    for (object, generation) in &change.delete {
        if !delete(session, work, object, Some(*generation)).await? {
            return Err(not_replaced(session, object).await?);
        }
    }
    for object in &change.purge {
        delete(session, work, object, None).await?;
    }
    match change.limit {
        Some(limit) if work.managed > limit => {
            Err(ErrorKind::TokenResourceExceeded.with(format!("there are {limit} managed keys already")).into())
        }
        _ => Ok(()),
    }
}

/// Why a compare-and-set failed.
async fn not_replaced(session: &mut Session, object: &ObjectId) -> Result<Failure, Failure> {
    let sql = "SELECT 1::INT8 FROM objects WHERE object = $1";
    let known = session.query_opt(sql, &[&object.as_slice()]).await?;
    Ok(if known.is_some() { changed("the object") } else { gone() }.into())
}
