//! How SQLite carries out the writes.

use std::path::Path;
use std::sync::PoisonError;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::schema::sql_error;
use super::{audit, domain, query};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{ObjectChange, ObjectId, PinRecord, Record, Role};
use crate::store::write::{Answer, Write, changed, gone, removed, role_columns};

/// The write was refused, or SQLite failed.
pub(super) enum Failure {
    Refused(Error),
    Sql(rusqlite::Error),
}

impl Failure {
    pub(super) fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::Sql(error) => sql_error(path, error),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

type Applied = std::result::Result<Answer, Failure>;

/// Commits the writes in one transaction; each stands or falls by itself. `mark` is called before
/// the commit and what it answers is dropped after it. The outer error is the whole transaction's.
pub(super) fn commit<M>(
    connection: &mut Connection,
    path: &Path,
    writes: &[Write],
    mark: impl FnOnce() -> M,
) -> Result<Vec<Result<Answer>>> {
    let failed = |error| sql_error(path, error);
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let mut results = Vec::with_capacity(writes.len());
    for write in writes {
        results.push(match write.apply_in_savepoint(&mut transaction) {
            Err(Failure::Sql(error)) if is_fatal(&error) => return Err(failed(error)),
            applied => applied.map_err(|failure| failure.into_error(path)),
        });
    }
    if results.iter().all(|result| matches!(result, Err(_) | Ok(Answer::Deleted(false)))) {
        transaction.rollback().map_err(failed)?;
        return Ok(results);
    }
    let mark = mark();
    let committed = transaction.commit().map_err(failed);
    drop(mark);
    committed.map(|()| results)
}

impl Write {
    /// Commits this write by itself.
    pub(super) fn commit_alone(&self, connection: &mut Connection) -> Applied {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let answer = self.apply(&transaction)?;
        transaction.commit()?;
        Ok(answer)
    }

    fn apply_in_savepoint(&self, transaction: &mut Transaction<'_>) -> Applied {
        let savepoint = transaction.savepoint()?;
        let answer = self.apply(&savepoint)?;
        savepoint.commit()?;
        Ok(answer)
    }

    fn apply(&self, on: &Connection) -> Applied {
        if !matches!(self, Self::Reset { .. }) {
            on.prepare_cached("SELECT 1 FROM meta")?.query_row([], |_| Ok(())).optional()?.ok_or_else(removed)?;
        }
        match self {
            Self::Reset { label, serial, domain, so_pin } => {
                erase(on)?;
                on.execute("INSERT INTO meta (one, label, serial) VALUES (1, ?1, ?2)", params![label, serial])?;
                domain::insert_token(on, domain)?;
                so_pin.iter().try_for_each(|pin| put_pin(on, pin))?;
            }
            Self::Erase => erase(on)?,
            Self::CommitDomain(change) => domain::commit(on, change)?,
            Self::PutProposal { id, bytes } => domain::put_proposal(on, id, bytes)?,
            Self::DeleteProposal(id) => return Ok(Answer::Deleted(domain::delete_proposal(on, id)?)),
            Self::PutRecovery(sealed) => domain::put_recovery(on, sealed)?,
            Self::BeginAttempt { role, limit } => return begin_attempt(on, role, *limit),
            Self::EndAttempt { role, right } => {
                let (kind, name) = role_columns(role);
                let left = if *right { "0" } else { "max(failures - 1, 0)" };
                on.prepare_cached(&format!("UPDATE pins SET failures = {left} WHERE role = ?1 AND name = ?2"))?
                    .execute(params![kind, name])?;
            }
            Self::Insert(records) => records.iter().try_for_each(|record| insert(on, record))?,
            Self::Replace(record) => {
                if !replace(on, record)? {
                    return Err(not_replaced(on, &record.object)?.into());
                }
            }
            Self::ReplaceAll(records) => {
                let replaced: std::result::Result<_, rusqlite::Error> =
                    records.iter().map(|record| replace(on, record)).collect();
                return Ok(Answer::Replaced(replaced?));
            }
            Self::Change(change) => apply_change(on, change)?,
            Self::Delete(object) => {
                if on.prepare_cached("DELETE FROM objects WHERE object = ?1")?.execute([object])? == 0 {
                    return Err(gone().into());
                }
            }
            Self::OpenAudit(opening) => {
                let opening = opening.lock().unwrap_or_else(PoisonError::into_inner).take();
                audit::open(on, opening.ok_or_else(|| Error::from(ErrorKind::GeneralError))?)?;
            }
            Self::AppendAudit(batch) => audit::append(on, batch)?,
        }
        Ok(Answer::Done)
    }
}

fn erase(on: &Connection) -> std::result::Result<(), Failure> {
    Ok(on.execute_batch(
        "DELETE FROM objects; DELETE FROM pins; DELETE FROM domain; DELETE FROM log; DELETE FROM proposals;
         DELETE FROM recovery; DELETE FROM audit; DELETE FROM audit_tips; DELETE FROM meta;",
    )?)
}

pub(super) fn put_pin(on: &Connection, pin: &PinRecord) -> std::result::Result<(), Failure> {
    let (kind, name) = role_columns(&pin.role);
    on.prepare_cached(
        "INSERT OR REPLACE INTO pins (role, name, generation, failures, sealed) VALUES (?1, ?2, ?3, 0, ?4)",
    )?
    .execute(params![kind, name, pin.generation.cast_signed(), pin.sealed])?;
    Ok(())
}

fn begin_attempt(on: &Connection, role: &Role, limit: u32) -> Applied {
    let (kind, name) = role_columns(role);
    let failures: Option<u32> = on
        .prepare_cached("SELECT failures FROM pins WHERE role = ?1 AND name = ?2")?
        .query_row(params![kind, name], |row| row.get(0))
        .optional()?;
    let failures = failures.ok_or_else(|| ErrorKind::UserPinNotInitialized.with("there is no PIN for this user"))?;
    if failures >= limit {
        return Err(Error::from(ErrorKind::PinLocked).into());
    }
    on.prepare_cached("UPDATE pins SET failures = ?3 WHERE role = ?1 AND name = ?2")?.execute(params![
        kind,
        name,
        failures + 1
    ])?;
    Ok(Answer::Failures(failures + 1))
}

fn insert(on: &Connection, record: &Record) -> std::result::Result<(), Failure> {
    let columns = &record.columns;
    on.prepare_cached(
        "INSERT INTO objects (object, generation, class, key_type, private, label, ckaid, sealed, domain_key, managed, due, replicating)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        record.object,
        record.generation.cast_signed(),
        columns.class.cast_signed(),
        columns.key_type.map(u64::cast_signed),
        columns.private,
        columns.label,
        columns.id,
        record.sealed.as_bytes(),
        record.sealed.domain_key(),
        columns.managed,
        columns.due.map(u64::cast_signed),
        columns.replicating,
    ])?;
    Ok(())
}

/// False if the stored record is not the one before this.
fn replace(on: &Connection, record: &Record) -> rusqlite::Result<bool> {
    let columns = &record.columns;
    let rows = on
        .prepare_cached(
            "UPDATE objects SET generation = ?2, class = ?3, key_type = ?4, private = ?5, label = ?6, ckaid = ?7,
             sealed = ?8, domain_key = ?9, managed = ?10, due = ?11, replicating = ?12
             WHERE object = ?1 AND generation = ?13",
        )?
        .execute(params![
            record.object,
            record.generation.cast_signed(),
            columns.class.cast_signed(),
            columns.key_type.map(u64::cast_signed),
            columns.private,
            columns.label,
            columns.id,
            record.sealed.as_bytes(),
            record.sealed.domain_key(),
            columns.managed,
            columns.due.map(u64::cast_signed),
            columns.replicating,
            record.generation.wrapping_sub(1).cast_signed(),
        ])?;
    Ok(rows > 0)
}

pub(super) fn apply_change(on: &Connection, change: &ObjectChange) -> std::result::Result<(), Failure> {
    for record in &change.insert {
        insert(on, record).map_err(|failure| match failure {
            Failure::Sql(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Error::from(ErrorKind::KmsAlreadyExists).into()
            }
            failure => failure,
        })?;
    }
    for record in &change.replace {
        if !replace(on, record)? {
            return Err(not_replaced(on, &record.object)?.into());
        }
    }
    let mut delete = on.prepare_cached("DELETE FROM objects WHERE object = ?1 AND generation = ?2")?;
    for (object, generation) in &change.delete {
        if delete.execute(params![object, generation.cast_signed()])? == 0 {
            return Err(not_replaced(on, object)?.into());
        }
    }
    let mut purge = on.prepare_cached("DELETE FROM objects WHERE object = ?1")?;
    for object in &change.purge {
        purge.execute([object])?;
    }
    if let Some(limit) = change.limit
        && query::count_managed(on)? > limit
    {
        return Err(ErrorKind::TokenResourceExceeded.with(format!("there are {limit} managed keys already")).into());
    }
    Ok(())
}

fn not_replaced(on: &Connection, object: &ObjectId) -> rusqlite::Result<Error> {
    let known =
        on.prepare_cached("SELECT 1 FROM objects WHERE object = ?1")?.query_row([object], |_| Ok(())).optional()?;
    Ok(if known.is_some() { changed("the object") } else { gone() })
}

/// An error after which the rest of the transaction cannot go on.
fn is_fatal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    matches!(
        error.sqlite_error_code(),
        Some(
            Code::DiskFull
                | Code::OutOfMemory
                | Code::SystemIoFailure
                | Code::DatabaseCorrupt
                | Code::NotADatabase
                | Code::ReadOnly
                | Code::DatabaseBusy
                | Code::OperationInterrupted
        )
    )
}
