//! The domain's rows: its token and PINs, the log, pending commands, and what waits for a recovery.

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, params};

use super::write::{Failure, apply_change, put_pin};
use crate::error::ErrorKind;
use crate::hsm::{DomainChange, DomainToken};
use crate::store::write::{changed, role_columns};
use crate::store::{PROPOSALS, ProposalId};

type Written = std::result::Result<(), Failure>;

pub(super) fn insert_token(on: &Connection, domain: &DomainToken) -> Written {
    on.prepare_cached("INSERT INTO domain (version, bytes) VALUES (?1, ?2)")?
        .execute(params![domain.version.cast_signed(), domain.bytes])?;
    Ok(())
}

/// Compare and set: the newest version must be the one that the change was made from. The two
/// newest tokens are kept, and the one that the log begins with. What the command changes of keys goes
/// with it.
pub(super) fn commit(on: &Connection, change: &DomainChange) -> Written {
    let newest: Option<i64> = on.prepare_cached("SELECT max(version) FROM domain")?.query_row([], |row| row.get(0))?;
    let newest = newest.map_or(0, i64::cast_unsigned);
    if change.base() != Some(newest) {
        return Err(changed("the domain").into());
    }
    let has_log = on.prepare_cached("SELECT 1 FROM log LIMIT 1")?.query_row([], |_| Ok(())).optional()?.is_some();
    if has_log && change.entries.is_empty() {
        return Err(ErrorKind::GeneralError.with("a change without its entry of the log").into());
    }
    let mut append = on.prepare_cached("INSERT INTO log (version, entry) VALUES (?1, ?2)")?;
    for (version, entry) in (newest + 1..).zip(&change.entries) {
        append.execute(params![version.cast_signed(), entry])?;
    }
    insert_token(on, &change.domain)?;
    on.prepare_cached("DELETE FROM domain WHERE version < ?1 AND version IS NOT (SELECT min(version) - 1 FROM log)")?
        .execute([newest.cast_signed()])?;
    for role in &change.removed {
        let (kind, name) = role_columns(role);
        on.prepare_cached("DELETE FROM pins WHERE role = ?1 AND name = ?2")?.execute(params![kind, name])?;
    }
    for pin in &change.pins {
        let (kind, name) = role_columns(&pin.role);
        let stored: Option<i64> = on
            .prepare_cached("SELECT generation FROM pins WHERE role = ?1 AND name = ?2")?
            .query_row(params![kind, name], |row| row.get(0))
            .optional()?;
        if stored.is_some_and(|stored| stored.cast_unsigned() >= pin.generation) {
            return Err(changed("the PIN").into());
        }
        put_pin(on, pin)?;
    }
    apply_change(on, &change.objects)
}

pub(super) fn log(on: &Connection, after: u64, up_to: u64) -> SqlResult<Vec<Vec<u8>>> {
    let bound = |version| i64::try_from(version).unwrap_or(i64::MAX);
    on.prepare_cached("SELECT entry FROM log WHERE version > ?1 AND version <= ?2 ORDER BY version")?
        .query_map([bound(after), bound(up_to)], |row| row.get(0))?
        .collect()
}

pub(super) fn origin(on: &Connection) -> SqlResult<Option<DomainToken>> {
    on.prepare_cached("SELECT version, bytes FROM domain WHERE version = (SELECT min(version) - 1 FROM log)")?
        .query_row([], |row| Ok(DomainToken { version: row.get::<_, i64>(0)?.cast_unsigned(), bytes: row.get(1)? }))
        .optional()
}

/// One that is replaced keeps its place.
pub(super) fn put_proposal(on: &Connection, id: &ProposalId, bytes: &[u8]) -> Written {
    let updated = on.prepare_cached("UPDATE proposals SET bytes = ?2 WHERE id = ?1")?.execute(params![id, bytes])?;
    if updated > 0 {
        return Ok(());
    }
    let pending: i64 = on.prepare_cached("SELECT count(*) FROM proposals")?.query_row([], |row| row.get(0))?;
    if pending.cast_unsigned() >= PROPOSALS {
        let detail = format!("{PROPOSALS} proposals are pending; withdraw those that are no longer wanted");
        return Err(ErrorKind::DeviceMemory.with(detail).into());
    }
    on.prepare_cached("INSERT INTO proposals (id, bytes) VALUES (?1, ?2)")?.execute(params![id, bytes])?;
    Ok(())
}

pub(super) fn proposals(on: &Connection) -> SqlResult<Vec<Vec<u8>>> {
    on.prepare_cached("SELECT bytes FROM proposals ORDER BY seq")?.query_map([], |row| row.get(0))?.collect()
}

pub(super) fn delete_proposal(on: &Connection, id: &ProposalId) -> SqlResult<bool> {
    Ok(on.prepare_cached("DELETE FROM proposals WHERE id = ?1")?.execute([id])? > 0)
}

pub(super) fn put_recovery(on: &Connection, sealed: &[u8]) -> Written {
    if sealed.is_empty() {
        on.execute("DELETE FROM recovery", [])?;
    } else {
        on.execute("INSERT OR REPLACE INTO recovery (one, sealed) VALUES (1, ?1)", [sealed])?;
    }
    Ok(())
}

pub(super) fn recovery(on: &Connection) -> SqlResult<Option<Vec<u8>>> {
    on.prepare_cached("SELECT sealed FROM recovery")?.query_row([], |row| row.get(0)).optional()
}
