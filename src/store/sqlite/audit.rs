//! The rows of the audit log, and how far each chain has come.

use rusqlite::{Connection, Result as SqlResult, Row, params};

use super::write::Failure;
use crate::hsm::{AuditBatch, AuditOpening, AuditTip};
use crate::store::AuditRow;

type Written = std::result::Result<(), Failure>;

/// A chain that was named as closed moves no more, and is forgotten.
const NAMED: &str = "DELETE FROM audit_tips WHERE moved = 1 AND closed = 1;
    UPDATE audit_tips SET moved = 0 WHERE moved = 1;";
const MOVED: &str = "SELECT instance, seq, hash FROM audit_tips WHERE moved = 1 ORDER BY instance";
const PAGE: &str = "SELECT id, instance, bytes FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2";

/// Begins a chain with what `opening` makes of the tips that have moved.
pub(super) fn open(on: &Connection, opening: AuditOpening) -> Written {
    let tip = |row: &Row<'_>| {
        Ok(AuditTip { instance: row.get(0)?, seq: row.get::<_, i64>(1)?.cast_unsigned(), hash: row.get(2)? })
    };
    let seen = on.prepare_cached(MOVED)?.query_map([], tip)?.collect::<SqlResult<Vec<_>>>()?;
    let batch = opening(seen)?;
    on.execute_batch(NAMED)?;
    append(on, &batch)
}

/// Adds rows that are not there. A batch that is there already changes nothing.
pub(super) fn append(on: &Connection, batch: &AuditBatch<'_>) -> Written {
    let AuditTip { instance, seq, hash } = &batch.tip;
    let mut insert = on.prepare_cached(
        "INSERT INTO audit (instance, number, bytes) VALUES (?1, ?2, ?3) ON CONFLICT (instance, number) DO NOTHING",
    )?;
    let mut added = 0;
    for (number, row) in (batch.first..).zip(batch.rows.iter()) {
        added += insert.execute(params![instance, number.cast_signed(), row])?;
    }
    if added > 0 {
        on.prepare_cached(
            "INSERT OR REPLACE INTO audit_tips (instance, seq, hash, closed, moved) VALUES (?1, ?2, ?3, ?4, 1)",
        )?
        .execute(params![instance, seq.cast_signed(), hash, batch.closed])?;
    }
    Ok(())
}

/// A row that somebody spoiled is for its reader to find.
pub(super) fn rows(on: &Connection, after: u64, limit: usize) -> SqlResult<Vec<AuditRow>> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    on.prepare_cached(PAGE)?
        .query_map([after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            let bytes =
                |at| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_bytes_or_null()?.unwrap_or_default().to_vec());
            Ok(AuditRow {
                id: row.get::<_, i64>(0)?.cast_unsigned(),
                instance: bytes(1)?.try_into().unwrap_or_default(),
                bytes: bytes(2)?,
            })
        })?
        .collect()
}

pub(super) fn newest(on: &Connection) -> SqlResult<u64> {
    on.prepare_cached("SELECT coalesce(max(id), 0) FROM audit")?
        .query_row([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema;

    #[test]
    fn a_chain_that_moved_is_found_by_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::for_tests(&dir.path().join("token.db"));
        for (sql, index) in [(MOVED, "INDEX audit_tips_moved"), (PAGE, "INTEGER PRIMARY KEY (rowid>?)")] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = statement.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
            assert_eq!(plan.len(), 1, "{plan:?}");
            assert!(plan[0].contains(index), "{plan:?}");
        }
    }
}
