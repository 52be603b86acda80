//! The database file: how it is made, opened, migrated, and how its errors are told.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{Error, ErrorKind, Result};
use crate::store::io_error;
use crate::store::write::Write;

/// "CNCV": tells our files from other SQLite databases.
const APPLICATION_ID: i32 = 0x434e_4356;

/// The step from each schema version to the next, beginning with 0, the empty file. A step that
/// was released is never changed.
///
/// The indexes by label and CKA_ID answer a search without a look at the rows, which with their
/// blobs are many pages; having `row` in them, they give it in order. An object's `domain_key` is
/// NULL if it was last written under schema 1. `managed_keys` has how many managed keys there are, without
/// public halves (class 2), so that each commit that makes one need not count them.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        label TEXT NOT NULL,
        serial TEXT NOT NULL
    ) STRICT;
    CREATE TABLE domain (version INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
    CREATE TABLE pins (
        role INTEGER NOT NULL,
        name TEXT NOT NULL,
        generation INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (role, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE objects (
        row INTEGER PRIMARY KEY,
        object BLOB NOT NULL UNIQUE CHECK (length(object) = 16),
        generation INTEGER NOT NULL,
        class INTEGER NOT NULL,
        key_type INTEGER,
        private INTEGER NOT NULL,
        label BLOB,
        ckaid BLOB,
        sealed BLOB NOT NULL
    ) STRICT;
    CREATE INDEX objects_label ON objects (label, row, object, class, key_type, private) WHERE label IS NOT NULL;
    CREATE INDEX objects_ckaid ON objects (ckaid, row, object, class, key_type, private) WHERE ckaid IS NOT NULL;
    CREATE INDEX objects_class ON objects (class);
    CREATE INDEX objects_class_type ON objects (class, key_type) WHERE key_type IS NOT NULL;
",
    "
    CREATE TABLE log (version INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
    CREATE TABLE proposals (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE CHECK (length(id) = 32),
        bytes BLOB NOT NULL
    ) STRICT;
    CREATE TABLE recovery (one INTEGER PRIMARY KEY CHECK (one = 1), sealed BLOB NOT NULL) STRICT;
    ALTER TABLE objects ADD COLUMN domain_key BLOB CHECK (length(domain_key) = 16);
    CREATE INDEX objects_domain_key ON objects (domain_key);
",
    "
    ALTER TABLE objects ADD COLUMN managed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE objects ADD COLUMN due INTEGER;
    ALTER TABLE objects ADD COLUMN replicating INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX objects_managed ON objects (row, object, class) WHERE managed = 1;
    CREATE INDEX objects_replicating ON objects (row, object, class) WHERE replicating = 1;
    CREATE INDEX objects_due ON objects (due, row, object) WHERE due IS NOT NULL;
    CREATE TABLE managed_keys (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL) STRICT;
    INSERT INTO managed_keys (one, count) VALUES (1, 0);
    CREATE TRIGGER managed_key_added AFTER INSERT ON objects WHEN NEW.managed = 1 AND NEW.class <> 2
        BEGIN UPDATE managed_keys SET count = count + 1; END;
    CREATE TRIGGER managed_key_removed AFTER DELETE ON objects WHEN OLD.managed = 1 AND OLD.class <> 2
        BEGIN UPDATE managed_keys SET count = count - 1; END;
    CREATE TRIGGER managed_key_changed AFTER UPDATE OF managed, class ON objects
        WHEN (OLD.managed = 1 AND OLD.class <> 2) <> (NEW.managed = 1 AND NEW.class <> 2)
        BEGIN UPDATE managed_keys SET count = count + iif(NEW.managed = 1 AND NEW.class <> 2, 1, -1); END;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        instance BLOB NOT NULL CHECK (length(instance) = 16),
        number INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        UNIQUE (instance, number)
    ) STRICT;
    CREATE TABLE audit_tips (
        instance BLOB PRIMARY KEY CHECK (length(instance) = 16),
        seq INTEGER NOT NULL,
        hash BLOB NOT NULL CHECK (length(hash) = 48),
        closed INTEGER NOT NULL,
        moved INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX audit_tips_moved ON audit_tips (instance) WHERE moved = 1;
",
];

/// How long SQLite itself waits, for what our lock does not cover: recovery of the log by another
/// process, the last close, a foreign `sqlite3` shell.
const BUSY: Duration = Duration::from_secs(5);

/// What every connection is set to. FULL makes each commit in WAL mode an fsync.
const PRAGMAS: &str = "
    PRAGMA synchronous = FULL;
    PRAGMA secure_delete = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA cache_size = -2048;
";

/// Makes the file with its first content. The directory is the caller's alone, and is not synced.
pub(super) fn create(path: &Path, content: &Write) -> Result<()> {
    let mut connection = make(path)?;
    content.commit_alone(&mut connection).map_err(|failure| failure.into_error(path))?;
    connection.close().map_err(|(_, error)| sql_error(path, error))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| io_error(path, &error))
}

/// Makes the file with its tables.
pub(super) fn make(path: &Path) -> Result<Connection> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| io_error(path, &error))?;
    let mut connection = connect(path)?;
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|error| sql_error(path, error))?;
    if mode != "wal" {
        let detail = format!("{}: this file system has no shared memory, which the store needs", path.display());
        return Err(ErrorKind::DeviceError.with(detail));
    }
    migrate(&mut connection, path, MIGRATIONS)?;
    Ok(connection)
}

/// Opens the file, which must have the schema of this release.
pub(super) fn open(path: &Path) -> Result<Connection> {
    open_current(path)?.ok_or_else(|| ErrorKind::DeviceError.with(format!("{}: has an old schema", path.display())))
}

/// Opens the file; None if its schema is older. The caller then takes the write lock and calls
/// [`upgrade`].
pub(super) fn open_current(path: &Path) -> Result<Option<Connection>> {
    let connection = connect(path)?;
    match version(&connection, path)? {
        found if found > MIGRATIONS.len() => Err(too_new(path, found)),
        found => Ok((found == MIGRATIONS.len()).then_some(connection)),
    }
}

/// Brings the file to the schema of this release. The caller holds the write lock.
pub(super) fn upgrade(path: &Path) -> Result<()> {
    migrate(&mut connect(path)?, path, MIGRATIONS)
}

fn connect(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(64);
        // Else SQLite plans a query anew for each value that is bound.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.execute_batch(PRAGMAS)?;
        Ok(connection)
    };
    open().map_err(|error| match path.try_exists() {
        Ok(false) => ErrorKind::DeviceRemoved.with(format!("{}: the token is gone", path.display())),
        _ => sql_error(path, error),
    })
}

/// The file's schema version, once it is known to be ours.
fn version(connection: &Connection, path: &Path) -> Result<usize> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let read = || Ok((number("application_id")?, number("user_version")?));
    let (application, version) = read().map_err(|error| sql_error(path, error))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    match application == APPLICATION_ID || (application == 0 && version == 0) {
        true => Ok(version),
        false => Err(ErrorKind::TokenNotRecognized.with(format!("{}: is not a token's database", path.display()))),
    }
}

fn migrate(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<()> {
    let failed = |error| sql_error(path, error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found = version(&transaction, path)?;
    if found > steps.len() {
        return Err(too_new(path, found));
    }
    for step in steps.iter().skip(found) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", i64::try_from(steps.len()).unwrap_or(i64::MAX)).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn too_new(path: &Path, found: usize) -> Error {
    ErrorKind::TokenNotRecognized.with(format!(
        "{}: has schema version {found}, written by a newer release; this one knows up to {}",
        path.display(),
        MIGRATIONS.len()
    ))
}

/// What an error of SQLite means to a caller of PKCS#11.
pub(super) fn sql_error(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let kind = match error.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => ErrorKind::FunctionFailed,
        Some(Code::DiskFull) => ErrorKind::DeviceMemory,
        Some(Code::OutOfMemory) => ErrorKind::HostMemory,
        Some(Code::ReadOnly) => ErrorKind::TokenWriteProtected,
        Some(Code::NotADatabase | Code::DatabaseCorrupt | Code::CannotOpen | Code::PermissionDenied) => {
            ErrorKind::TokenNotRecognized
        }
        _ => ErrorKind::DeviceError,
    };
    kind.with(format!("{}: {error}", path.display()))
}

/// An empty database with the schema of this release.
#[cfg(test)]
pub(super) fn for_tests(path: &Path) -> Connection {
    OpenOptions::new().write(true).create_new(true).open(path).unwrap();
    upgrade(path).unwrap();
    open(path).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(path: &Path) -> Connection {
        OpenOptions::new().write(true).create_new(true).open(path).unwrap();
        connect(path).unwrap()
    }

    #[test]
    fn steps_are_applied_once_and_from_where_the_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.db");
        let mut connection = empty(&path);
        let steps = ["CREATE TABLE a (x)", "CREATE TABLE b (x)", "CREATE TABLE c (x)"];
        migrate(&mut connection, &path, &steps[..1]).unwrap();
        migrate(&mut connection, &path, &steps).unwrap();
        migrate(&mut connection, &path, &steps).unwrap();
        assert_eq!(version(&connection, &path).unwrap(), 3);
    }

    #[test]
    fn a_failing_step_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.db");
        let mut connection = empty(&path);
        migrate(&mut connection, &path, &["CREATE TABLE a (x)"]).unwrap();
        let bad = ["CREATE TABLE a (x)", "CREATE TABLE b (x); CREATE TABLE a (x)"];
        migrate(&mut connection, &path, &bad).unwrap_err();
        assert_eq!(version(&connection, &path).unwrap(), 1);
        connection.execute_batch("CREATE TABLE b (x)").unwrap();
    }

    #[test]
    fn newer_and_foreign_files_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.db");
        let mut connection = empty(&path);
        migrate(&mut connection, &path, MIGRATIONS).unwrap();
        assert!(open_current(&path).unwrap().is_some());
        connection.pragma_update(None, "user_version", 999).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TokenNotRecognized);
        assert!(error.to_string().contains("schema version 999"), "{error}");
        connection.pragma_update(None, "application_id", 5).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("not a token's database"));

        let path = dir.path().join("text");
        std::fs::write(&path, [b'x'; 8192]).unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::TokenNotRecognized);
        assert_eq!(open(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::DeviceRemoved);
    }
}
