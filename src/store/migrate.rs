//! A token's whole store, moved from one place to another: a directory, or a database.
//!
//! Rows are copied as they are, in pages, in the order of a key; the records in them are sealed, and the
//! same on both sides. The target is no token until all rows are there and were read back: a migration
//! that ends early leaves nothing that anybody could open, and the next one starts over.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::postgres::{self, PostgresStore};
use super::sqlite::{self, SqliteStore};
use super::{Directory, Slot, Store};
use crate::error::{Error, ErrorKind, Result};

/// Rows of a page.
const PAGE: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Bytes(Vec<u8>),
    Text(String),
}

pub(super) type Row = Vec<Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Bytes,
    Text,
}

/// A column, by its names in PostgreSQL and in SQLite.
pub(super) struct Column {
    pub(super) postgres: &'static str,
    pub(super) sqlite: &'static str,
    pub(super) kind: Kind,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { postgres: name, sqlite: name, kind }
}

/// A table. The first column is the key by which pages go; with `short` it is no key, but the table fits
/// into one page.
pub(super) struct Table {
    pub(super) postgres: &'static str,
    pub(super) sqlite: &'static str,
    pub(super) short: bool,
    pub(super) columns: &'static [Column],
}

use Kind::{Bytes, Integer, Text};

pub(super) const TOKEN: Table =
    Table { postgres: "token", sqlite: "meta", short: true, columns: &[column("label", Text), column("serial", Text)] };

/// All but [`TOKEN`].
pub(super) const TABLES: &[Table] = &[
    Table {
        postgres: "domain",
        sqlite: "domain",
        short: false,
        columns: &[column("version", Integer), Column { postgres: "content", sqlite: "bytes", kind: Bytes }],
    },
    Table {
        postgres: "pins",
        sqlite: "pins",
        short: true,
        columns: &[
            column("role", Integer),
            column("name", Text),
            column("generation", Integer),
            column("failures", Integer),
            column("sealed", Bytes),
        ],
    },
    Table {
        postgres: "log",
        sqlite: "log",
        short: false,
        columns: &[column("version", Integer), column("entry", Bytes)],
    },
    Table {
        postgres: "proposals",
        sqlite: "proposals",
        short: false,
        columns: &[
            column("seq", Integer),
            column("id", Bytes),
            Column { postgres: "content", sqlite: "bytes", kind: Bytes },
        ],
    },
    Table {
        postgres: "recovery",
        sqlite: "recovery",
        short: true,
        columns: &[column("one", Integer), column("sealed", Bytes)],
    },
    Table {
        postgres: "audit_tips",
        sqlite: "audit_tips",
        short: false,
        columns: &[
            column("instance", Bytes),
            column("seq", Integer),
            column("hash", Bytes),
            column("closed", Integer),
            column("moved", Integer),
        ],
    },
    Table {
        postgres: "audit",
        sqlite: "audit",
        short: false,
        columns: &[
            column("id", Integer),
            column("instance", Bytes),
            column("number", Integer),
            Column { postgres: "content", sqlite: "bytes", kind: Bytes },
        ],
    },
    Table {
        postgres: "objects",
        sqlite: "objects",
        short: false,
        columns: &[
            Column { postgres: "place", sqlite: "row", kind: Integer },
            column("object", Bytes),
            column("generation", Integer),
            column("class", Integer),
            column("key_type", Integer),
            column("private", Integer),
            column("label", Bytes),
            column("ckaid", Bytes),
            column("sealed", Bytes),
            column("domain_key", Bytes),
            column("managed", Integer),
            column("due", Integer),
            column("replicating", Integer),
        ],
    },
];

/// What rows are read from.
pub(super) trait Source {
    /// At most `limit` rows in the order of the key, of those whose key is above `after`; all rows of a
    /// short table, in any order.
    fn page(&self, table: &Table, after: Option<&Value>, limit: usize) -> Result<Vec<Row>>;

    fn count(&self, table: &Table) -> Result<u64>;
}

/// What rows are written to.
pub(super) trait Target: Source {
    fn insert(&self, table: &Table, rows: &[Row]) -> Result<()>;

    /// Makes it a token, the counter of which is above the one given.
    fn finish(self: Box<Self>, token: &[Row], counter: u64) -> Result<()>;
}

/// Where a token is, or is to be.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A URL, which may hold a password.
    Postgres(String),
    /// The token's own directory.
    Directory(PathBuf),
}

impl Location {
    /// `postgresql://…`, `sqlite:DIR`, the path of a token's directory, or a slot of the data directory.
    pub fn parse(text: &str, data: &Path) -> Self {
        if postgres::is_url(text) {
            return Self::Postgres(text.to_owned());
        }
        match text.parse::<Slot>() {
            Ok(slot) => Self::Directory(data.join("tokens").join(slot.to_string())),
            Err(_) => Self::Directory(text.strip_prefix("sqlite:").unwrap_or(text).into()),
        }
    }
}

/// Without a password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => f.write_str(&postgres::without_secrets(url)),
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What was copied, and read back.
#[derive(Debug, Clone)]
pub struct Report {
    pub label: String,
    pub serial: String,
    /// How many rows of each table.
    pub rows: Vec<(&'static str, u64)>,
    /// SHA-256 over all rows.
    pub digest: [u8; 32],
}

/// Copies the token at `from` to `to`, where there is none. `progress` is told how many rows of how many
/// are done; each counts twice, for it is read back. CKR_FUNCTION_REJECTED if there is a token already;
/// CKR_FUNCTION_FAILED if the source was changed meanwhile, or the copy is not what was read.
pub fn migrate(from: &Location, to: &Location, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let (source, store): (Box<dyn Source>, Box<dyn Store>) = match from {
        Location::Postgres(url) => {
            let open = || PostgresStore::open(url, Duration::ZERO);
            (Box::new(open()?), Box::new(open()?))
        }
        Location::Directory(path) => {
            let open = || match path.is_dir() {
                true => SqliteStore::open(path),
                false => Err(ErrorKind::TokenNotPresent.with(format!("{}: no such token", path.display()))),
            };
            (Box::new(open()?), Box::new(open()?))
        }
    };
    let meta = store.meta()?;
    let state = || Ok::<_, Error>((store.counter(), store.newest_audit_row()?));
    let before = state()?;
    let token = source.page(&TOKEN, None, PAGE)?;
    let target: Box<dyn Target> = match to {
        Location::Postgres(url) => Box::new(PostgresStore::begin_import(url)?),
        Location::Directory(path) => {
            Directory::check_new(path)?;
            Box::new(sqlite::Import::begin(path)?)
        }
    };
    let mut counts = Vec::new();
    for table in TABLES {
        counts.push((table.postgres, source.count(table)?));
    }
    let total = 2 * counts.iter().map(|(_, count)| count).sum::<u64>();
    let mut done = 0;
    let mut rows = |rows: usize| {
        done += rows as u64;
        progress(done, total);
    };
    let read = walk(&*source, &mut |table, page| {
        target.insert(table, page)?;
        rows(page.len());
        Ok(())
    })?;
    let written = walk(&*target, &mut |_, page| {
        rows(page.len());
        Ok(())
    })?;
    if state()? != before || before.0 % 2 == 1 {
        return Err(ErrorKind::FunctionFailed
            .with(format!("{from}: was changed meanwhile; stop what uses it, and start over: nothing was made")));
    }
    if read != written {
        return Err(ErrorKind::FunctionFailed.with(format!("{to}: has not the rows that were read; nothing was made")));
    }
    target.finish(&token, before.0)?;
    Ok(Report { label: meta.label, serial: meta.serial, rows: read.rows, digest: read.digest })
}

#[derive(PartialEq, Eq)]
struct Walk {
    rows: Vec<(&'static str, u64)>,
    digest: [u8; 32],
}

/// Reads all rows of all tables.
fn walk(source: &dyn Source, each: &mut dyn FnMut(&Table, &[Row]) -> Result<()>) -> Result<Walk> {
    let mut hash = Sha256::new();
    let mut rows = Vec::new();
    for table in TABLES {
        let (mut count, mut after) = (0, None);
        hash.update(table.postgres);
        loop {
            let mut page = source.page(table, after.as_ref(), PAGE)?;
            if table.short {
                // Not every database sorts texts alike.
                page.sort_by(|one, other| sorting(one).cmp(&sorting(other)));
            }
            page.iter().for_each(|row| digest(&mut hash, row));
            each(table, &page)?;
            count += page.len() as u64;
            after = page.last().and_then(|row| row.first()).cloned();
            if table.short || page.len() < PAGE {
                break;
            }
        }
        hash.update(count.to_be_bytes());
        rows.push((table.postgres, count));
    }
    Ok(Walk { rows, digest: hash.finalize().into() })
}

/// The first two columns.
fn sorting(row: &Row) -> (i64, &str) {
    let integer = row.first().map_or(0, |value| if let Value::Integer(number) = value { *number } else { 0 });
    let text = row.get(1).map_or("", |value| if let Value::Text(text) = value { text } else { "" });
    (integer, text)
}

fn digest(hash: &mut Sha256, row: &Row) {
    for value in row {
        let (kind, bytes): (u8, &[u8]) = match value {
            Value::Null => (0, &[]),
            Value::Integer(number) => {
                hash.update([1]);
                hash.update(number.to_be_bytes());
                continue;
            }
            Value::Bytes(bytes) => (2, bytes),
            Value::Text(text) => (3, text.as_bytes()),
        };
        hash.update([kind]);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
}
