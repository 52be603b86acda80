//! The reads.

use cryptoki_sys::CKO_PUBLIC_KEY;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::connection::Session;
use super::failure::Failure;
use super::schema::KEPT;
use super::seen::Look;
use crate::error::ErrorKind;
use crate::hsm::{Columns, DomainKeyId, DomainToken, HIDDEN_CLASSES, ObjectId, PinRecord, Record, Role, Sealed};
use crate::store::{Filter, Found, Meta, Pin};

pub(super) type Read<T> = Result<T, Failure>;

/// How many changed objects a look takes in.
pub(super) const CHANGES: i64 = 4096;

const LOOK: &str = "SELECT s.counter, s.anything, s.meta, s.objects, c.counter, c.object FROM state s
    LEFT JOIN (SELECT counter, object FROM changes WHERE counter > $1 ORDER BY counter LIMIT $2) c ON true";

/// What was committed since the commit `from`.
pub(super) async fn look(session: &mut Session, from: u64) -> Read<Look> {
    let rows = session.query(LOOK, &[&from.cast_signed(), &(CHANGES + 1)]).await?;
    let first = rows.first().ok_or_else(|| damaged("there is no row of its state"))?;
    let counter = number(first, 0)?;
    let mut changes = Vec::new();
    for row in &rows {
        if let Some(changed) = row.try_get::<_, Option<i64>>(4)? {
            changes.push((changed.cast_unsigned(), id(row, 5)?));
        }
    }
    let changes = is_told(counter, from, changes.len()).then_some(changes);
    Ok(Look { counter, anything: number(first, 1)?, meta: number(first, 2)?, objects: number(first, 3)?, changes })
}

/// Whether so many rows of `changes` are all that happened between two commits.
pub(super) fn is_told(counter: u64, from: u64, rows: usize) -> bool {
    let kept = counter.saturating_sub(from) < KEPT.cast_unsigned();
    from > 0 && kept && i64::try_from(rows).is_ok_and(|rows| rows <= CHANGES)
}

/// In one statement, so that all is of one moment.
const META: &str = "
    SELECT 0::INT8, label, serial, 0::INT8, 0::INT8, 0::INT8, NULL::BYTEA FROM token
    UNION ALL SELECT 1, '', '', 0, version, 0, content
        FROM (SELECT version, content FROM domain ORDER BY version DESC LIMIT 1) AS newest
    UNION ALL SELECT 2, name, '', role, generation, failures, sealed FROM pins";

/// None if the token was destroyed.
pub(super) async fn meta(session: &mut Session) -> Read<Option<Meta>> {
    let (mut names, mut domain, mut pins) = (None, None, Vec::new());
    for row in &session.query(META, &[]).await? {
        match row.try_get::<_, i64>(0)? {
            0 => names = Some((row.try_get(1)?, row.try_get(2)?)),
            1 => domain = Some(DomainToken { version: number(row, 4)?, bytes: row.try_get(6)? }),
            _ => pins.push(pin(row)?),
        }
    }
    let Some((label, serial)) = names else { return Ok(None) };
    let domain = domain.ok_or_else(|| damaged("there is no domain token"))?;
    pins.sort_by(|one, other| role_order(one).cmp(&role_order(other)));
    Ok(Some(Meta { label, serial, domain, pins }))
}

fn role_order(pin: &Pin) -> (i64, &str) {
    crate::store::write::role_columns(&pin.record.role)
}

fn pin(row: &Row) -> Read<Pin> {
    let role = match row.try_get::<_, i64>(3)? {
        0 => Role::So,
        1 => Role::User,
        2 => Role::Named(row.try_get(1)?),
        _ => return Err(damaged("a PIN is of an unknown role")),
    };
    let failures = u32::try_from(row.try_get::<_, i64>(5)?).unwrap_or(u32::MAX);
    Ok(Pin { record: PinRecord { role, generation: number(row, 4)?, sealed: row.try_get(6)? }, failures })
}

const GET: &str = "SELECT generation, class, key_type, private, label, ckaid, managed, due, replicating, sealed
    FROM objects WHERE object = $1";

pub(super) async fn get(session: &mut Session, object: &ObjectId) -> Read<Option<Record>> {
    let Some(row) = session.query_opt(GET, &[&object.as_slice()]).await? else { return Ok(None) };
    let optional = |at: usize| row.try_get::<_, Option<i64>>(at).map(|number| number.map(i64::cast_unsigned));
    let truth = |at: usize| row.try_get::<_, i64>(at).map(|number| number != 0);
    Ok(Some(Record {
        object: *object,
        generation: number(&row, 0)?,
        columns: Columns {
            class: number(&row, 1)?,
            key_type: optional(2)?,
            private: truth(3)?,
            label: row.try_get(4)?,
            id: row.try_get(5)?,
            managed: truth(6)?,
            due: optional(7)?,
            replicating: truth(8)?,
        },
        sealed: Sealed::new(row.try_get(9)?),
    }))
}

/// The objects that match. Where one of several labels or ids is wanted, each has a look-up of its own,
/// in order and limited: no engine's planner is tempted to walk the table instead.
pub(super) async fn find(session: &mut Session, filter: &Filter, after: u64, limit: usize) -> Read<Vec<Found>> {
    let rest = Rest::of(filter);
    let after = place(after);
    let limit = bound(limit);
    let object = filter.object.as_ref().map(ObjectId::as_slice);
    let (column, values, others) = match (&filter.ids, &filter.labels) {
        (Some(ids), labels) => ("ckaid", Some(ids), labels.as_ref()),
        (None, Some(labels)) => ("label", Some(labels), None),
        (None, None) => ("", None, None),
    };
    if [values, others].into_iter().flatten().any(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let mut sql = String::from("SELECT place, object FROM (");
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&after, &limit];
    let values: Vec<&[u8]> = values.into_iter().flatten().map(Vec::as_slice).collect();
    let others: Vec<&[u8]> = others.into_iter().flatten().map(Vec::as_slice).collect();
    let mut conditions = rest.conditions(&mut params);
    if !others.is_empty() {
        params.push(&others);
        conditions.push_str(&format!(" AND label = ANY(${})", params.len()));
    }
    if object.is_some() {
        params.push(&object);
        conditions.push_str(&format!(" AND object = ${}", params.len()));
    }
    for branch in 0..values.len().max(1) {
        let union = if branch == 0 { "" } else { " UNION " };
        sql.push_str(union);
        sql.push_str("(SELECT place, object FROM objects WHERE place > $1");
        if let Some(value) = values.get(branch) {
            params.push(value);
            sql.push_str(&format!(" AND {column} = ${}", params.len()));
        }
        sql.push_str(&conditions);
        sql.push_str(" ORDER BY place LIMIT $2)");
    }
    sql.push_str(") AS matching ORDER BY place LIMIT $2");
    // A statement is kept for the usual numbers of values only.
    let rows = match values.len() <= 4 {
        true => session.query(&sql, &params).await?,
        false => session.client().query(&sql, &params).await?,
    };
    rows.iter().map(found).collect()
}

/// The columns that are compared, but for label and CKA_ID.
struct Rest {
    class: Option<i64>,
    key_type: Option<i64>,
    private: Option<i64>,
    hidden: Vec<i64>,
}

impl Rest {
    fn of(filter: &Filter) -> Self {
        let hidden = if filter.class.is_none() { HIDDEN_CLASSES } else { &[] };
        Self {
            class: filter.class.map(u64::cast_signed),
            key_type: filter.key_type.map(u64::cast_signed),
            private: filter.private.map(i64::from),
            hidden: hidden.iter().map(|class| class.cast_signed()).collect(),
        }
    }

    fn conditions<'a>(&'a self, params: &mut Vec<&'a (dyn ToSql + Sync)>) -> String {
        let mut sql = String::new();
        let equal = [("class", &self.class), ("key_type", &self.key_type), ("private", &self.private)];
        for (name, value) in equal {
            if value.is_some() {
                params.push(value);
                sql.push_str(&format!(" AND {name} = ${}", params.len()));
            }
        }
        for class in &self.hidden {
            params.push(class);
            sql.push_str(&format!(" AND class <> ${}", params.len()));
        }
        sql
    }
}

/// Without the public halves of pairs.
const MANAGED: &str =
    "SELECT place, object FROM objects WHERE managed = 1 AND place > $1 AND class <> $3 ORDER BY place LIMIT $2";
const REPLICATING: &str =
    "SELECT place, object FROM objects WHERE replicating = 1 AND place > $1 AND class <> $3 ORDER BY place LIMIT $2";
const DUE: &str = "SELECT place, object FROM objects WHERE due <= $1 ORDER BY due, place LIMIT $2";

pub(super) async fn managed(session: &mut Session, after: u64, limit: usize) -> Read<Vec<Found>> {
    page(session, MANAGED, &[&place(after), &bound(limit), &CKO_PUBLIC_KEY.cast_signed()]).await
}

pub(super) async fn replicating(session: &mut Session, after: u64, limit: usize) -> Read<Vec<Found>> {
    page(session, REPLICATING, &[&place(after), &bound(limit), &CKO_PUBLIC_KEY.cast_signed()]).await
}

pub(super) async fn due(session: &mut Session, by: u64, limit: usize) -> Read<Vec<Found>> {
    page(session, DUE, &[&place(by), &bound(limit)]).await
}

async fn page(session: &mut Session, sql: &str, params: super::connection::Params<'_>) -> Read<Vec<Found>> {
    session.query(sql, params).await?.iter().map(found).collect()
}

/// How many managed keys and how many objects there are.
pub(super) async fn counts(session: &mut Session) -> Read<(u64, u64)> {
    let row = session.query_opt("SELECT managed, total FROM state", &[]).await?;
    let row = row.ok_or_else(|| damaged("there is no row of its state"))?;
    Ok((number(&row, 0)?, number(&row, 1)?))
}

const NEXT_DOMAIN_KEY: &str = "SELECT domain_key FROM objects WHERE domain_key > $1 ORDER BY domain_key LIMIT 1";
const SEALED_UNDER: &str =
    "SELECT place, object FROM objects WHERE domain_key = $3 AND place > $1 ORDER BY place LIMIT $2";
const SEALED_UNDER_NONE: &str =
    "SELECT place, object FROM objects WHERE domain_key IS NULL AND place > $1 ORDER BY place LIMIT $2";

/// In the order of creation. There are few domain keys, so each has its look-up in the index. One that
/// comes between two statements is for the next page, or the next sweep.
pub(super) async fn sealed_under_other(
    session: &mut Session,
    active: &DomainKeyId,
    after: u64,
    limit: usize,
) -> Read<Vec<Found>> {
    let (after, rows) = (place(after), bound(limit));
    let mut found = page(session, SEALED_UNDER_NONE, &[&after, &rows]).await?;
    let mut key: Vec<u8> = Vec::new();
    while let Some(row) = session.query_opt(NEXT_DOMAIN_KEY, &[&key]).await? {
        key = row.try_get(0)?;
        if key != active {
            found.append(&mut page(session, SEALED_UNDER, &[&after, &rows, &key]).await?);
        }
    }
    found.sort_unstable_by_key(|found| found.row);
    found.dedup();
    found.truncate(limit);
    Ok(found)
}

pub(super) async fn count_by_domain_key(session: &mut Session) -> Read<Vec<(Option<DomainKeyId>, u64)>> {
    let rows = session.query("SELECT domain_key, count(*) FROM objects GROUP BY domain_key", &[]).await?;
    let mut counts = rows
        .iter()
        .map(|row| {
            let key: Option<Vec<u8>> = row.try_get(0)?;
            let key = key.map(|key| key.try_into().map_err(|_| damaged("a domain key's id is too long")));
            Ok((key.transpose()?, number(row, 1)?))
        })
        .collect::<Read<Vec<_>>>()?;
    counts.sort_unstable();
    Ok(counts)
}

fn found(row: &Row) -> Read<Found> {
    Ok(Found { row: number(row, 0)?, object: id(row, 1)? })
}

pub(super) fn number(row: &Row, at: usize) -> Read<u64> {
    Ok(row.try_get::<_, i64>(at)?.cast_unsigned())
}

pub(super) fn id(row: &Row, at: usize) -> Read<ObjectId> {
    let bytes: &[u8] = row.try_get(at)?;
    bytes.try_into().map_err(|_| damaged("an object's id has another length"))
}

pub(super) fn place(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Somebody changed the tables by hand.
pub(super) fn damaged(what: &str) -> Failure {
    ErrorKind::TokenNotRecognized.with(format!("the database is damaged: {what}")).into()
}
