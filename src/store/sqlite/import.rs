//! Rows as they are, for a migration: read from a token's file, or written to one that is to be.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::types::{ToSqlOutput, Value as Sql, ValueRef};
use rusqlite::{Connection, params_from_iter};

use super::{COUNTER, DATABASE, SqliteStore, lock, schema};
use crate::error::Result;
use crate::store::counter::Sidecar;
use crate::store::directory::sync;
use crate::store::fork::{self, Epoch};
use crate::store::io_error;
use crate::store::migrate::{Row, Source, TOKEN, Table, Target, Value};

impl Source for SqliteStore {
    fn page(&self, table: &Table, after: Option<&Value>, limit: usize) -> Result<Vec<Row>> {
        self.read(|on| page(on, table, after, limit))
    }

    fn count(&self, table: &Table) -> Result<u64> {
        self.read(|on| count(on, table))
    }
}

/// A token in the making: in a directory with another name, until it is complete.
pub(in crate::store) struct Import {
    part: PathBuf,
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Import {
    /// What an earlier attempt has left is removed.
    pub(in crate::store) fn begin(path: &Path) -> Result<Self> {
        fork::register()?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".import-{name}"));
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error(&part, &error)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&part).map_err(|error| io_error(&part, &error))?;
        let connection = schema::make(&part.join(DATABASE))?;
        Ok(Self { part, path: path.to_owned(), connection: Mutex::new(Some(connection)) })
    }

    fn with<T>(&self, task: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let _pass = Epoch::current().enter()?;
        let path = self.part.join(DATABASE);
        let mut connection = lock(&self.connection);
        let connection = match &mut *connection {
            Some(connection) => connection,
            closed => closed.insert(schema::open(&path)?),
        };
        task(connection).map_err(|error| schema::sql_error(&path, error))
    }
}

impl Source for Import {
    fn page(&self, table: &Table, after: Option<&Value>, limit: usize) -> Result<Vec<Row>> {
        self.with(|on| page(on, table, after, limit))
    }

    fn count(&self, table: &Table) -> Result<u64> {
        self.with(|on| count(on, table))
    }
}

impl Target for Import {
    fn insert(&self, table: &Table, rows: &[Row]) -> Result<()> {
        self.with(|on| insert(on, table, rows))
    }

    fn finish(self: Box<Self>, token: &[Row], counter: u64) -> Result<()> {
        self.with(|on| {
            let token: Vec<Row> = token.iter().map(|row| [vec![Value::Integer(1)], row.clone()].concat()).collect();
            let columns: Vec<&str> =
                std::iter::once("one").chain(TOKEN.columns.iter().map(|column| column.sqlite)).collect();
            insert_into(on, TOKEN.sqlite, &columns, &token)
        })?;
        let database = self.part.join(DATABASE);
        if let Some(connection) = lock(&self.connection).take() {
            connection.close().map_err(|(_, error)| schema::sql_error(&database, error))?;
        }
        Sidecar::open(&self.part.join(COUNTER))?.start_above(counter);
        fs::File::open(&database).and_then(|file| file.sync_all()).map_err(|error| io_error(&database, &error))?;
        sync(&self.part)?;
        fs::rename(&self.part, &self.path).map_err(|error| io_error(&self.path, &error))?;
        sync(self.path.parent().unwrap_or(&self.path))
    }
}

impl Drop for Import {
    /// Removes what was not finished.
    fn drop(&mut self) {
        drop(lock(&self.connection).take());
        let _ = fs::remove_dir_all(&self.part);
    }
}

fn page(on: &Connection, table: &Table, after: Option<&Value>, limit: usize) -> rusqlite::Result<Vec<Row>> {
    let names: Vec<&str> = table.columns.iter().map(|column| column.sqlite).collect();
    let key = names.first().copied().unwrap_or_default();
    let mut sql = format!("SELECT {} FROM {}", names.join(", "), table.sqlite);
    let mut values = Vec::new();
    if let Some(after) = after {
        sql.push_str(&format!(" WHERE {key} > ?"));
        values.push(bound(after));
    }
    if !table.short {
        sql.push_str(&format!(" ORDER BY {key} LIMIT {limit}"));
    }
    let mut statement = on.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let value = |at| {
            Ok::<_, rusqlite::Error>(match row.get(at)? {
                Sql::Integer(number) => Value::Integer(number),
                Sql::Text(text) => Value::Text(text),
                Sql::Blob(bytes) => Value::Bytes(bytes),
                Sql::Null | Sql::Real(_) => Value::Null,
            })
        };
        page.push((0..names.len()).map(value).collect::<rusqlite::Result<Row>>()?);
    }
    Ok(page)
}

fn count(on: &Connection, table: &Table) -> rusqlite::Result<u64> {
    let sql = format!("SELECT count(*) FROM {}", table.sqlite);
    on.query_row(&sql, [], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
}

fn insert(on: &Connection, table: &Table, rows: &[Row]) -> rusqlite::Result<()> {
    let columns: Vec<&str> = table.columns.iter().map(|column| column.sqlite).collect();
    insert_into(on, table.sqlite, &columns, rows)
}

fn insert_into(on: &Connection, table: &str, columns: &[&str], rows: &[Row]) -> rusqlite::Result<()> {
    let on = on.unchecked_transaction()?;
    let places = vec!["?"; columns.len()].join(", ");
    let mut statement = on.prepare(&format!("INSERT INTO {table} ({}) VALUES ({places})", columns.join(", ")))?;
    for row in rows {
        statement.execute(params_from_iter(row.iter().map(bound)))?;
    }
    drop(statement);
    on.commit()
}

fn bound(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(number) => ValueRef::Integer(*number),
        Value::Bytes(bytes) => ValueRef::Blob(bytes),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
    })
}
