//! The reads.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Result, Row, params, params_from_iter};

use cryptoki_sys::CKO_PUBLIC_KEY;

use crate::hsm::{Columns, DomainKeyId, DomainToken, HIDDEN_CLASSES, ObjectId, PinRecord, Record, Role, Sealed};
use crate::store::{Filter, Found, Meta, Pin};

/// None if the token was destroyed.
pub(super) fn meta(on: &Connection) -> Result<Option<Meta>> {
    // One transaction, so that all is of one moment; dropping it ends it.
    let on = on.unchecked_transaction()?;
    let names = on
        .prepare_cached("SELECT label, serial FROM meta")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((label, serial)) = names else { return Ok(None) };
    let domain = on
        .prepare_cached("SELECT version, bytes FROM domain ORDER BY version DESC LIMIT 1")?
        .query_row([], |row| Ok(DomainToken { version: row.get::<_, i64>(0)?.cast_unsigned(), bytes: row.get(1)? }))?;
    let pins = on
        .prepare_cached("SELECT role, name, generation, failures, sealed FROM pins ORDER BY role, name")?
        .query_map([], pin)?
        .collect::<Result<_>>()?;
    Ok(Some(Meta { label, serial, domain, pins }))
}

fn pin(row: &Row<'_>) -> Result<Pin> {
    let role = match row.get(0)? {
        0 => Role::So,
        1 => Role::User,
        2 => Role::Named(row.get(1)?),
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
    };
    let record = PinRecord { role, generation: row.get::<_, i64>(2)?.cast_unsigned(), sealed: row.get(4)? };
    Ok(Pin { record, failures: row.get(3)? })
}

pub(super) fn get(on: &Connection, object: &ObjectId) -> Result<Option<Record>> {
    on.prepare_cached(
        "SELECT generation, class, key_type, private, label, ckaid, sealed, managed, due, replicating FROM objects WHERE object = ?1",
    )?
    .query_row([object], |row| {
        let number = |index| row.get::<_, Option<i64>>(index).map(|number| number.map(i64::cast_unsigned));
        Ok(Record {
            object: *object,
            generation: row.get::<_, i64>(0)?.cast_unsigned(),
            columns: Columns {
                class: row.get::<_, i64>(1)?.cast_unsigned(),
                key_type: number(2)?,
                private: row.get(3)?,
                label: row.get(4)?,
                id: row.get(5)?,
                managed: row.get(7)?,
                due: number(8)?,
                replicating: row.get(9)?,
            },
            sealed: Sealed::new(row.get(6)?),
        })
    })
    .optional()
}

pub(super) fn find(on: &Connection, filter: &Filter, after: u64, limit: usize) -> Result<Vec<Found>> {
    let Some((sql, mut values)) = search(filter) else { return Ok(Vec::new()) };
    values.push(integer(after));
    values.push(integer(limit.try_into().unwrap_or(u64::MAX)));
    on.prepare_cached(&sql)?.query_map(params_from_iter(values), found)?.collect()
}

fn found(row: &Row<'_>) -> Result<Found> {
    Ok(Found { row: row.get::<_, i64>(0)?.cast_unsigned(), object: row.get(1)? })
}

/// Without the public halves of pairs.
const MANAGED: &str =
    "SELECT row, object FROM objects WHERE managed = 1 AND row > ?1 AND class <> ?2 ORDER BY row LIMIT ?3";
const COUNT_MANAGED: &str = "SELECT count FROM managed_keys";
const REPLICATING: &str =
    "SELECT row, object FROM objects WHERE replicating = 1 AND row > ?1 AND class <> ?2 ORDER BY row LIMIT ?3";
const DUE: &str = "SELECT row, object FROM objects WHERE due <= ?1 ORDER BY due, row LIMIT ?2";

pub(super) fn managed(on: &Connection, after: u64, limit: usize) -> Result<Vec<Found>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    on.prepare_cached(MANAGED)?
        .query_map(params![after.cast_signed(), CKO_PUBLIC_KEY.cast_signed(), limit], found)?
        .collect()
}

pub(super) fn count_managed(on: &Connection) -> Result<u64> {
    on.prepare_cached(COUNT_MANAGED)?.query_row([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}

pub(super) fn due(on: &Connection, by: u64, limit: usize) -> Result<Vec<Found>> {
    let (by, limit) = (i64::try_from(by).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
    on.prepare_cached(DUE)?.query_map([by, limit], found)?.collect()
}

pub(super) fn replicating(on: &Connection, after: u64, limit: usize) -> Result<Vec<Found>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    on.prepare_cached(REPLICATING)?
        .query_map(params![after.cast_signed(), CKO_PUBLIC_KEY.cast_signed(), limit], found)?
        .collect()
}

pub(super) fn count(on: &Connection) -> Result<u64> {
    on.prepare_cached("SELECT count(*) FROM objects")?.query_row([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}

/// In the order of creation. There are few domain keys, so each has its look-up in the index, and a
/// sweep is not slowed down by what it has left behind.
pub(super) fn sealed_under_other(
    on: &Connection,
    active: &DomainKeyId,
    after: u64,
    limit: usize,
) -> Result<Vec<Found>> {
    let on = on.unchecked_transaction()?;
    let (after, rows) = (after.cast_signed(), i64::try_from(limit).unwrap_or(i64::MAX));
    let mut page = Vec::new();
    let mut search = on.prepare_cached(SEALED_UNDER)?;
    let mut next_key = on.prepare_cached(NEXT_DOMAIN_KEY)?;
    let mut key: Option<Vec<u8>> = None;
    loop {
        if key.as_deref() != Some(active) {
            for one in search.query_map(params![key, after, rows], found)? {
                page.push(one?);
            }
        }
        let next = next_key.query_row([key.unwrap_or_default()], |row| row.get(0)).optional()?;
        let Some(next) = next else { break };
        key = Some(next);
    }
    page.sort_unstable_by_key(|found| found.row);
    page.truncate(limit);
    Ok(page)
}

/// NULL, too, is looked up by the index.
const SEALED_UNDER: &str = "SELECT row, object FROM objects WHERE domain_key IS ?1 AND row > ?2 ORDER BY row LIMIT ?3";
const NEXT_DOMAIN_KEY: &str = "SELECT domain_key FROM objects WHERE domain_key > ?1 ORDER BY domain_key LIMIT 1";

pub(super) fn count_by_domain_key(on: &Connection) -> Result<Vec<(Option<DomainKeyId>, u64)>> {
    on.prepare_cached("SELECT domain_key, count(*) FROM objects GROUP BY domain_key ORDER BY domain_key")?
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
        .collect()
}

/// The query for a filter and its values, without the last two: `after` and the limit. None if
/// nothing can match.
///
/// One index is chosen here and the other columns are kept from SQLite's planner by a `+`: it has
/// no statistics, and might take the class for as selective as the label.
fn search(filter: &Filter) -> Option<(String, Vec<ToSqlOutput<'_>>)> {
    let mut search = Search { sql: "SELECT row, object FROM objects WHERE ".to_owned(), values: Vec::new() };
    let mut indexed = false;
    if let Some(object) = &filter.object {
        search.any("object", [object.as_slice()].into_iter(), &mut indexed);
    }
    for (name, any) in [("ckaid", &filter.ids), ("label", &filter.labels)] {
        match any {
            Some(any) if any.is_empty() => return None,
            Some(any) => search.any(name, any.iter().map(Vec::as_slice), &mut indexed),
            None => {}
        }
    }
    // Class and key type have an index in common; neither of the others is worth one.
    let by_class = !indexed && filter.class.is_some();
    search.equal("class", filter.class, by_class);
    search.equal("key_type", filter.key_type, by_class);
    search.equal("private", filter.private.map(u64::from), false);
    if filter.class.is_none() {
        for class in HIDDEN_CLASSES {
            search.sql.push_str("+class <> ? AND ");
            search.values.push(integer(*class));
        }
    }
    search.sql.push_str("row > ? ORDER BY row LIMIT ?");
    Some((search.sql, search.values))
}

struct Search<'a> {
    sql: String,
    values: Vec<ToSqlOutput<'a>>,
}

impl<'a> Search<'a> {
    /// The column has one of the values. By its index, unless one was chosen already.
    fn any(&mut self, name: &str, values: impl ExactSizeIterator<Item = &'a [u8]>, indexed: &mut bool) {
        self.column(name, !std::mem::replace(indexed, true));
        self.sql.push_str(" IN (?");
        self.sql.extend(std::iter::repeat_n(",?", values.len().saturating_sub(1)));
        self.sql.push_str(") AND ");
        self.values.extend(values.map(|value| ToSqlOutput::Borrowed(ValueRef::Blob(value))));
    }

    fn equal(&mut self, name: &str, value: Option<u64>, by_index: bool) {
        if let Some(value) = value {
            self.column(name, by_index);
            self.sql.push_str(" = ? AND ");
            self.values.push(integer(value));
        }
    }

    fn column(&mut self, name: &str, by_index: bool) {
        self.sql.push_str(if by_index { "" } else { "+" });
        self.sql.push_str(name);
    }
}

/// The bit pattern, as the columns have it.
fn integer(number: u64) -> ToSqlOutput<'static> {
    ToSqlOutput::Borrowed(ValueRef::Integer(number.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::schema;

    fn plan(connection: &Connection, filter: &Filter) -> String {
        let (sql, mut values) = search(filter).unwrap();
        values.extend([integer(0), integer(10)]);
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
        rows.map(|row| row.unwrap()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_sweep_over_domain_keys_uses_their_index() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::for_tests(&dir.path().join("token.db"));
        for (sql, index) in [
            (SEALED_UNDER, "INDEX objects_domain_key (domain_key=? AND rowid>?)"),
            (NEXT_DOMAIN_KEY, "COVERING INDEX objects_domain_key (domain_key>?)"),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = statement.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
            assert_eq!(plan.len(), 1, "{plan:?}");
            assert!(plan[0].contains(index), "{plan:?}");
        }
    }

    #[test]
    fn managed_keys_are_found_by_their_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::for_tests(&dir.path().join("token.db"));
        for (sql, index) in [
            (MANAGED, "COVERING INDEX objects_managed (row>?)"),
            (COUNT_MANAGED, "SCAN managed_keys"),
            (REPLICATING, "COVERING INDEX objects_replicating (row>?)"),
            (DUE, "COVERING INDEX objects_due (due<?)"),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = statement.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
            assert_eq!(plan.len(), 1, "{plan:?}");
            assert!(plan[0].contains(index), "{plan:?}");
        }
    }

    #[test]
    fn each_search_uses_the_index_it_should() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::for_tests(&dir.path().join("token.db"));
        let class = Some(4);
        let one = Some(vec![b"a".to_vec()]);
        let two = Some(vec![b"a".to_vec(), b"b".to_vec()]);
        let filter = Filter::default;
        for (filter, index) in [
            (Filter { labels: one.clone(), ..filter() }, "COVERING INDEX objects_label (label=?"),
            (Filter { labels: two.clone(), ..filter() }, "COVERING INDEX objects_label (label=?"),
            (
                Filter { labels: two.clone(), class, key_type: Some(1), ..filter() },
                "COVERING INDEX objects_label (label=?",
            ),
            (Filter { ids: two.clone(), class, ..filter() }, "COVERING INDEX objects_ckaid (ckaid=?"),
            (Filter { ids: one, labels: two, private: Some(true), ..filter() }, "INDEX objects_ckaid (ckaid=?"),
            (Filter { class, ..filter() }, "INDEX objects_class (class=?"),
            (Filter { class, key_type: Some(3), ..filter() }, "INDEX objects_class_type (class=? AND key_type=?"),
            (Filter { object: Some([1; 16]), class, ..filter() }, "INDEX sqlite_autoindex_objects_1 (object=?"),
            (filter(), "USING INTEGER PRIMARY KEY (rowid>?)"),
        ] {
            let plan = plan(&connection, &filter);
            assert!(plan.contains(index), "{filter:?}: {plan}");
        }
    }
}
