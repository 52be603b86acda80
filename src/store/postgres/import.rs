//! Rows as they are, for a migration: read from a database, or written to one that is to be a token.

use std::time::Instant;

use tokio_postgres::types::ToSql;

use super::connection::Session;
use super::failure::Failure;
use super::pool::Pool;
use super::query::{damaged, number};
use super::url::Target as Address;
use super::{PostgresStore, READ_WAIT, schema};
use crate::error::{ErrorKind, Result};
use crate::store::lock::WRITE_WAIT;
use crate::store::migrate::{Kind, Row, Source, TABLES, Table, Target, Value};

impl Source for PostgresStore {
    fn page(&self, table: &Table, after: Option<&Value>, limit: usize) -> Result<Vec<Row>> {
        self.read(async |on| page(on, table, after, limit).await)
    }

    fn count(&self, table: &Table) -> Result<u64> {
        self.read(async |on| count(on, table).await)
    }
}

impl PostgresStore {
    /// Makes the tables, and empties them of what an earlier attempt has left. CKR_FUNCTION_REJECTED if
    /// there is a token.
    pub(in crate::store) fn begin_import(url: &str) -> Result<Import> {
        let import = Import { pool: Pool::new(Address::parse(url)?, false) };
        import.run(schema::create)?;
        import.run(async |on| {
            if on.query_opt("SELECT 1::INT8 FROM token", &[]).await?.is_some() {
                return Err(taken());
            }
            for table in TABLES {
                on.batch(&format!("DELETE FROM {}", table.postgres)).await?;
            }
            Ok(())
        })?;
        Ok(import)
    }
}

/// A token in the making: rows without the one that makes them a token.
pub(in crate::store) struct Import {
    pool: Pool,
}

impl Import {
    /// Tasks that may be repeated.
    fn run<T>(&self, task: impl AsyncFn(&mut Session) -> std::result::Result<T, Failure>) -> Result<T> {
        let wait = READ_WAIT.max(WRITE_WAIT);
        self.pool.read(Instant::now() + wait, task).map_err(|failure| failure.into_error(&self.pool.target))
    }
}

impl Source for Import {
    fn page(&self, table: &Table, after: Option<&Value>, limit: usize) -> Result<Vec<Row>> {
        self.run(async |on| page(on, table, after, limit).await)
    }

    fn count(&self, table: &Table) -> Result<u64> {
        self.run(async |on| count(on, table).await)
    }
}

impl Target for Import {
    fn insert(&self, table: &Table, rows: &[Row]) -> Result<()> {
        self.run(async |on| insert(on, table, rows).await)
    }

    fn finish(self: Box<Self>, token: &[Row], counter: u64) -> Result<()> {
        self.run(async |on| {
            let done = finish(on, token, counter).await;
            if done.as_ref().is_err_and(|failure| !failure.is_lost()) {
                on.batch("ROLLBACK").await?;
            }
            done
        })?;
        self.pool.close();
        Ok(())
    }
}

fn taken() -> Failure {
    ErrorKind::FunctionRejected.with("there is a token in the database already").into()
}

const COUNT_UP: &str = "UPDATE state SET counter = $1, anything = $1, meta = $1, objects = $1,
    next_place = 1 + coalesce((SELECT max(place) FROM objects), 0) + coalesce((SELECT max(seq) FROM proposals), 0),
    managed = (SELECT count(*) FROM objects WHERE managed = 1 AND class <> 2),
    total = (SELECT count(*) FROM objects)";
const COUNT_AUDIT: &str = "UPDATE audit_state SET next_id = 1 + coalesce((SELECT max(id) FROM audit), 0)";

/// Made again after its commit was lost, it finds the token that it made.
async fn finish(session: &mut Session, token: &[Row], above: u64) -> std::result::Result<(), Failure> {
    let Some([Value::Text(label), Value::Text(serial)]) = token.first().map(Vec::as_slice) else {
        return Err(damaged("the token has no name"));
    };
    session.batch("BEGIN").await?;
    let state = session.query_opt("SELECT counter FROM state FOR UPDATE", &[]).await?;
    let counter = number(&state.ok_or_else(|| damaged("there is no row of its state"))?, 0)?;
    if let Some(row) = session.query_opt("SELECT label, serial FROM token", &[]).await? {
        let (made, known): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        return if (made, known) == (label, serial) { session.batch("ROLLBACK").await } else { Err(taken()) };
    }
    let counter = (counter.max(above / 2) + 1).cast_signed();
    session.execute(COUNT_UP, &[&counter]).await?;
    session.execute(COUNT_AUDIT, &[]).await?;
    session.execute("INSERT INTO token (one, label, serial) VALUES (1, $1, $2)", &[label, serial]).await?;
    session.batch("COMMIT").await
}

async fn page(
    session: &mut Session,
    table: &Table,
    after: Option<&Value>,
    limit: usize,
) -> std::result::Result<Vec<Row>, Failure> {
    let names: Vec<&str> = table.columns.iter().map(|column| column.postgres).collect();
    let key = names.first().copied().unwrap_or_default();
    let mut sql = format!("SELECT {} FROM {}", names.join(", "), table.postgres);
    let mut params: Vec<&(dyn ToSql + Sync)> = Vec::new();
    match after {
        Some(Value::Integer(number)) => params.push(number),
        Some(Value::Bytes(bytes)) => params.push(bytes),
        _ => {}
    }
    if !params.is_empty() {
        sql.push_str(&format!(" WHERE {key} > $1"));
    }
    if !table.short {
        sql.push_str(&format!(" ORDER BY {key} LIMIT {limit}"));
    }
    let mut page = Vec::new();
    for row in &session.query(&sql, &params).await? {
        let mut values = Row::with_capacity(names.len());
        for (at, column) in table.columns.iter().enumerate() {
            let value = match column.kind {
                Kind::Integer => row.try_get::<_, Option<i64>>(at)?.map(Value::Integer),
                Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Value::Bytes),
                Kind::Text => row.try_get::<_, Option<String>>(at)?.map(Value::Text),
            };
            values.push(value.unwrap_or(Value::Null));
        }
        page.push(values);
    }
    Ok(page)
}

async fn count(session: &mut Session, table: &Table) -> std::result::Result<u64, Failure> {
    let row = session.query_opt(&format!("SELECT count(*) FROM {}", table.postgres), &[]).await?;
    row.map(|row| number(&row, 0)).transpose().map(Option::unwrap_or_default)
}

/// A column's values.
enum Array<'a> {
    Integers(Vec<Option<i64>>),
    Bytes(Vec<Option<&'a [u8]>>),
    Texts(Vec<Option<&'a str>>),
}

/// Rows that are there already stay.
async fn insert(session: &mut Session, table: &Table, rows: &[Row]) -> std::result::Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut arrays = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        let values = rows.iter().map(|row| row.get(at));
        arrays.push(match column.kind {
            Kind::Integer => Array::Integers(
                values
                    .map(|value| if let Some(Value::Integer(number)) = value { Some(*number) } else { None })
                    .collect(),
            ),
            Kind::Bytes => Array::Bytes(
                values
                    .map(|value| if let Some(Value::Bytes(bytes)) = value { Some(bytes.as_slice()) } else { None })
                    .collect(),
            ),
            Kind::Text => Array::Texts(
                values
                    .map(|value| if let Some(Value::Text(text)) = value { Some(text.as_str()) } else { None })
                    .collect(),
            ),
        });
    }
    let names: Vec<&str> = table.columns.iter().map(|column| column.postgres).collect();
    let types = table.columns.iter().enumerate().map(|(at, column)| {
        let name = match column.kind {
            Kind::Integer => "INT8",
            Kind::Bytes => "BYTEA",
            Kind::Text => "TEXT",
        };
        format!("${}::{name}[]", at + 1)
    });
    let sql = format!(
        "INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT DO NOTHING",
        table.postgres,
        names.join(", "),
        types.collect::<Vec<_>>().join(", ")
    );
    let params: Vec<&(dyn ToSql + Sync)> = arrays
        .iter()
        .map(|array| match array {
            Array::Integers(values) => values as &(dyn ToSql + Sync),
            Array::Bytes(values) => values,
            Array::Texts(values) => values,
        })
        .collect();
    session.execute(&sql, &params).await?;
    Ok(())
}
