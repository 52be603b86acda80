//! The domain's rows: its token and PINs, the log, pending commands, and what waits for a recovery.

use super::connection::Session;
use super::failure::Failure;
use super::query::{Read, number, place};
use super::write::{Work, apply_change};
use crate::error::{Error, ErrorKind};
use crate::hsm::{DomainChange, DomainToken, PinRecord, Role};
use crate::store::write::{Answer, changed, role_columns};
use crate::store::{PROPOSALS, ProposalId};

type Written = Result<(), Failure>;

pub(super) async fn insert_token(session: &mut Session, domain: &DomainToken) -> Written {
    let sql = "INSERT INTO domain (version, content) VALUES ($1, $2)";
    session.execute(sql, &[&domain.version.cast_signed(), &domain.bytes]).await?;
    Ok(())
}

/// Compare and set: the newest version must be the one that the change was made from. The two
/// newest tokens are kept, and the one that the log begins with. What the command changes of keys goes
/// with it.
pub(super) async fn commit(session: &mut Session, work: &mut Work, change: &DomainChange) -> Written {
    let held = "SELECT coalesce((SELECT max(version) FROM domain), 0), (SELECT count(*) FROM log)";
    let row = session.query_opt(held, &[]).await?.ok_or_else(|| Error::from(ErrorKind::GeneralError))?;
    let (newest, entries) = (number(&row, 0)?, number(&row, 1)?);
    if change.base() != Some(newest) {
        return Err(changed("the domain").into());
    }
    if entries > 0 && change.entries.is_empty() {
        return Err(ErrorKind::GeneralError.with("a change without its entry of the log").into());
    }
    for (version, entry) in (newest + 1..).zip(&change.entries) {
        let sql = "INSERT INTO log (version, entry) VALUES ($1, $2)";
        session.execute(sql, &[&version.cast_signed(), entry]).await?;
    }
    insert_token(session, &change.domain).await?;
    let old = "DELETE FROM domain WHERE version < $1 AND version <> coalesce((SELECT min(version) - 1 FROM log), -1)";
    session.execute(old, &[&newest.cast_signed()]).await?;
    for role in &change.removed {
        let (kind, name) = role_columns(role);
        session.execute("DELETE FROM pins WHERE role = $1 AND name = $2", &[&kind, &name]).await?;
    }
    for pin in &change.pins {
        let (kind, name) = role_columns(&pin.role);
        let sql = "SELECT generation FROM pins WHERE role = $1 AND name = $2";
        if let Some(row) = session.query_opt(sql, &[&kind, &name]).await?
            && number(&row, 0)? >= pin.generation
        {
            return Err(changed("the PIN").into());
        }
        put_pin(session, pin).await?;
    }
    apply_change(session, work, &change.objects).await
}

pub(super) async fn put_pin(session: &mut Session, pin: &PinRecord) -> Written {
    let (kind, name) = role_columns(&pin.role);
    let sql = "INSERT INTO pins (role, name, generation, failures, sealed) VALUES ($1, $2, $3, 0, $4)
        ON CONFLICT (role, name) DO UPDATE
        SET generation = excluded.generation, failures = 0, sealed = excluded.sealed";
    session.execute(sql, &[&kind, &name, &pin.generation.cast_signed(), &pin.sealed]).await?;
    Ok(())
}

pub(super) async fn begin_attempt(session: &mut Session, role: &Role, limit: u32) -> Result<Answer, Failure> {
    let (kind, name) = role_columns(role);
    let count = "UPDATE pins SET failures = failures + 1 WHERE role = $1 AND name = $2 AND failures < $3
        RETURNING failures";
    if let Some(row) = session.query_opt(count, &[&kind, &name, &i64::from(limit)]).await? {
        return Ok(Answer::Failures(u32::try_from(row.try_get::<_, i64>(0)?).unwrap_or(u32::MAX)));
    }
    let known = "SELECT 1::INT8 FROM pins WHERE role = $1 AND name = $2";
    Err(match session.query_opt(known, &[&kind, &name]).await? {
        Some(_) => Error::from(ErrorKind::PinLocked),
        None => ErrorKind::UserPinNotInitialized.with("there is no PIN for this user"),
    }
    .into())
}

pub(super) async fn end_attempt(session: &mut Session, role: &Role, right: bool) -> Written {
    let (kind, name) = role_columns(role);
    let sql = match right {
        true => "UPDATE pins SET failures = 0 WHERE role = $1 AND name = $2",
        false => "UPDATE pins SET failures = failures - 1 WHERE role = $1 AND name = $2 AND failures > 0",
    };
    session.execute(sql, &[&kind, &name]).await?;
    Ok(())
}

pub(super) async fn log(session: &mut Session, after: u64, up_to: u64) -> Read<Vec<Vec<u8>>> {
    let sql = "SELECT entry FROM log WHERE version > $1 AND version <= $2 ORDER BY version";
    let rows = session.query(sql, &[&place(after), &place(up_to)]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn origin(session: &mut Session) -> Read<Option<DomainToken>> {
    let sql = "SELECT version, content FROM domain WHERE version = (SELECT min(version) - 1 FROM log)";
    let Some(row) = session.query_opt(sql, &[]).await? else { return Ok(None) };
    Ok(Some(DomainToken { version: number(&row, 0)?, bytes: row.try_get(1)? }))
}

/// One that is replaced keeps its place.
pub(super) async fn put_proposal(session: &mut Session, work: &mut Work, id: &ProposalId, bytes: &[u8]) -> Written {
    let (id, sql) = (id.as_slice(), "UPDATE proposals SET content = $2 WHERE id = $1");
    if session.execute(sql, &[&id, &bytes]).await? > 0 {
        return Ok(());
    }
    let pending = session.query_opt("SELECT count(*) FROM proposals", &[]).await?;
    let pending = pending.map(|row| number(&row, 0)).transpose()?.unwrap_or_default();
    if pending >= PROPOSALS {
        let detail = format!("{PROPOSALS} proposals are pending; withdraw those that are no longer wanted");
        return Err(ErrorKind::DeviceMemory.with(detail).into());
    }
    let sql = "INSERT INTO proposals (id, seq, content) VALUES ($1, $2, $3)";
    session.execute(sql, &[&id, &work.next_place(), &bytes]).await?;
    Ok(())
}

pub(super) async fn proposals(session: &mut Session) -> Read<Vec<Vec<u8>>> {
    let rows = session.query("SELECT content FROM proposals ORDER BY seq", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn delete_proposal(session: &mut Session, id: &ProposalId) -> Read<bool> {
    Ok(session.execute("DELETE FROM proposals WHERE id = $1", &[&id.as_slice()]).await? > 0)
}

pub(super) async fn put_recovery(session: &mut Session, sealed: &[u8]) -> Written {
    session.execute("DELETE FROM recovery", &[]).await?;
    if !sealed.is_empty() {
        session.execute("INSERT INTO recovery (one, sealed) VALUES (1, $1)", &[&sealed]).await?;
    }
    Ok(())
}

pub(super) async fn recovery(session: &mut Session) -> Read<Option<Vec<u8>>> {
    let row = session.query_opt("SELECT sealed FROM recovery", &[]).await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}
