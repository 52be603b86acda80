//! The rows of the audit log, and how far each chain has come.
//!
//! Their ids are given under the lock of `audit_state`'s row, so that they come in the order of commits.

use super::connection::Session;
use super::failure::Failure;
use super::query::{Read, bound, number, place};
use crate::hsm::{AuditBatch, AuditTip};
use crate::store::AuditRow;

const MOVED: &str = "SELECT instance, seq, hash FROM audit_tips WHERE moved = 1";

/// The tips of the chains that have moved.
pub(super) async fn moved(session: &mut Session) -> Read<Vec<AuditTip>> {
    let mut tips = Vec::new();
    for row in &session.query(MOVED, &[]).await? {
        let hash: &[u8] = row.try_get(2)?;
        let hash = hash.try_into().map_err(|_| super::query::damaged("a hash of the audit log has another length"))?;
        tips.push(AuditTip { instance: super::query::id(row, 0)?, seq: number(row, 1)?, hash });
    }
    tips.sort_unstable_by_key(|tip| tip.instance);
    Ok(tips)
}

/// A chain that was named as closed moves no more, and is forgotten.
pub(super) async fn named(session: &mut Session) -> Result<(), Failure> {
    session.execute("DELETE FROM audit_tips WHERE moved = 1 AND closed = 1", &[]).await?;
    session.execute("UPDATE audit_tips SET moved = 0 WHERE moved = 1", &[]).await?;
    Ok(())
}

const APPEND: &str = "INSERT INTO audit (instance, number, id, content)
    SELECT $1, n.number, n.id, n.content FROM unnest($2::INT8[], $3::INT8[], $4::BYTEA[]) AS n(number, id, content)
    ON CONFLICT (instance, number) DO NOTHING";
const MOVE: &str = "INSERT INTO audit_tips (instance, seq, hash, closed, moved) VALUES ($1, $2, $3, $4, 1)
    ON CONFLICT (instance) DO UPDATE
    SET seq = excluded.seq, hash = excluded.hash, closed = excluded.closed, moved = 1";

/// Adds rows that are not there, with ids from `next_id` on. A batch that is there already changes
/// nothing.
pub(super) async fn append(session: &mut Session, next_id: &mut u64, batch: &AuditBatch<'_>) -> Result<(), Failure> {
    let AuditTip { instance, seq, hash } = &batch.tip;
    let ids: Vec<i64> = batch.rows.iter().zip(*next_id..).map(|(_, id)| id.cast_signed()).collect();
    let numbers: Vec<i64> = batch.rows.iter().zip(batch.first..).map(|(_, number)| number.cast_signed()).collect();
    let rows: Vec<&[u8]> = batch.rows.iter().map(Vec::as_slice).collect();
    let added = session.execute(APPEND, &[&instance.as_slice(), &numbers, &ids, &rows]).await?;
    *next_id += ids.len() as u64;
    if added > 0 {
        let (seq, closed) = (seq.cast_signed(), i64::from(batch.closed));
        session.execute(MOVE, &[&instance.as_slice(), &seq, &hash.as_slice(), &closed]).await?;
    }
    Ok(())
}

const PAGE: &str = "SELECT id, instance, content FROM audit WHERE id > $1 ORDER BY id LIMIT $2";

/// A row that somebody spoiled is for its reader to find.
pub(super) async fn rows(session: &mut Session, after: u64, limit: usize) -> Read<Vec<AuditRow>> {
    let rows = session.query(PAGE, &[&place(after), &bound(limit)]).await?;
    rows.iter()
        .map(|row| {
            let instance: &[u8] = row.try_get(1)?;
            Ok(AuditRow {
                id: number(row, 0)?,
                instance: instance.try_into().unwrap_or_default(),
                bytes: row.try_get(2)?,
            })
        })
        .collect()
}

pub(super) async fn newest(session: &mut Session) -> Read<u64> {
    let row = session.query_opt("SELECT coalesce(max(id), 0) FROM audit", &[]).await?;
    row.map(|row| number(&row, 0)).transpose().map(Option::unwrap_or_default)
}
