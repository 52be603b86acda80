//! The messages on disk: one SQLite file, which this process has for itself.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::address::Address;

/// In seconds.
pub(crate) const MAX_LEASE: u64 = 3600;

const FILE: &str = "messages.db";
const VERSION: i64 = 1;
/// Pages that one sweep gives back to the file system at most.
const VACUUMED: i64 = 4096;

/// `instance` is NULL for whoever answers for the Region; `sender` is an encoded address; times are
/// milliseconds since 1970. The bytes are last, so that no other column is behind them.
const SCHEMA: &str = "
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        region TEXT NOT NULL,
        instance TEXT,
        sender TEXT NOT NULL,
        accepted INTEGER NOT NULL,
        hidden_until INTEGER NOT NULL,
        size INTEGER NOT NULL,
        bytes BLOB NOT NULL
    ) STRICT;
    CREATE INDEX waiting ON messages (region, seq, instance, hidden_until, accepted);
    CREATE INDEX age ON messages (accepted, region, size);
    PRAGMA user_version = 1;";

/// What may wait.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// For one Region.
    pub(crate) messages: u64,
    /// For one Region.
    pub(crate) bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) regions: u64,
    pub(crate) ttl: Duration,
}

/// What waits for one Region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// What waits, by Region; of none that has nothing. Shared with those who only look.
#[derive(Debug, Clone)]
pub(crate) struct Queues {
    limits: Limits,
    waiting: Arc<Mutex<BTreeMap<String, Waiting>>>,
}

impl Queues {
    pub(crate) fn all(&self) -> Vec<(String, Waiting)> {
        self.lock().iter().map(|(region, waiting)| (region.clone(), *waiting)).collect()
    }

    /// Fails, with a sentence, if a message of so many bytes has no room.
    pub(crate) fn room(&self, region: &str, size: u64) -> Result<(), String> {
        let (all, limits) = (self.lock(), &self.limits);
        let Waiting { messages, bytes } = all.get(region).copied().unwrap_or_default();
        if messages >= limits.messages {
            return Err(format!("{messages} messages wait for the Region, the most there may be"));
        }
        if bytes.saturating_add(size) > limits.bytes {
            return Err(format!("{bytes} bytes wait for the Region, and {} are the most there may be", limits.bytes));
        }
        if messages == 0 && all.len() as u64 >= limits.regions {
            return Err(format!("messages wait for {} Regions, the most there may be", all.len()));
        }
        let total: u64 = all.values().map(|waiting| waiting.bytes).sum();
        if total.saturating_add(size) > limits.total_bytes {
            return Err(format!("{total} bytes wait, and {} are the most there may be", limits.total_bytes));
        }
        Ok(())
    }

    fn add(&self, region: &str, size: u64) {
        let mut all = self.lock();
        let waiting = all.entry(region.to_owned()).or_default();
        waiting.messages += 1;
        waiting.bytes += size;
    }

    fn remove(&self, region: &str, messages: u64, bytes: u64) {
        let mut all = self.lock();
        if let Some(waiting) = all.get_mut(region) {
            waiting.messages = waiting.messages.saturating_sub(messages);
            waiting.bytes = waiting.bytes.saturating_sub(bytes);
            if waiting.messages == 0 {
                all.remove(region);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) enum Accepted {
    Id(String),
    /// There is no room; a sentence says why.
    Full(String),
}

pub(crate) enum Taken {
    Message {
        seq: i64,
        id: String,
        /// An encoded address.
        sender: String,
        size: u64,
    },
    /// None now. One that is hidden comes back after this time, unless it is acknowledged.
    None { again: Option<Duration> },
}

pub(crate) struct Store {
    connection: Connection,
    queues: Queues,
    ttl: Duration,
    /// Whether the queues' numbers may differ from what is on disk.
    stale: bool,
}

impl Store {
    /// Fails with a sentence.
    pub(crate) fn open(dir: &Path, limits: Limits) -> Result<Self, String> {
        let about = |what: &dyn std::fmt::Display| format!("data directory {}: {what}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| about(&error))?;
        let path = fs::canonicalize(dir).map_err(|error| about(&error))?.join(FILE);
        // SQLite gives its other files the same mode.
        let made = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        made.map_err(|error| about(&error))?;
        let opened = Self::open_file(&path, limits).map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy) => about(&"another conclave-proxy uses it"),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                about(&format!("{FILE} is damaged: {error}; move it away to begin without the messages in it"))
            }
            _ => about(&format!("{FILE}: {error}")),
        })?;
        opened.ok_or_else(|| about(&format!("{FILE} was written by another version of conclave-proxy")))
    }

    fn open_file(path: &Path, limits: Limits) -> rusqlite::Result<Option<Self>> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(1))?;
        // FULL: what is committed survives the loss of power.
        connection.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 134217728; PRAGMA cache_size = -8192;
             BEGIN EXCLUSIVE; COMMIT;",
        )?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?,
            VERSION => {}
            _ => return Ok(None),
        }
        let ttl = limits.ttl;
        let mut store = Self { connection, queues: Queues { limits, waiting: Arc::default() }, ttl, stale: true };
        store.begin()?;
        store.commit()?;
        Ok(Some(store))
    }

    pub(crate) fn queues(&self) -> Queues {
        self.queues.clone()
    }

    pub(crate) fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        if self.stale {
            let mut statement =
                self.connection.prepare("SELECT region, count(*), sum(size) FROM messages GROUP BY region")?;
            let rows = statement
                .query_map([], |row| Ok((row.get(0)?, Waiting { messages: row.get(1)?, bytes: row.get(2)? })))?;
            let counted = rows.collect::<rusqlite::Result<_>>()?;
            *self.queues.lock() = counted;
            self.stale = false;
        }
        Ok(())
    }

    /// What was done since `begin` is durable when this returns.
    pub(crate) fn commit(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    pub(crate) fn roll_back(&mut self) {
        self.stale = true;
        // SQLite itself ends a transaction in which the disk was full.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    /// `id` is new and cannot be guessed.
    pub(crate) fn accept(
        &mut self,
        id: &str,
        to: &Address,
        from: &Address,
        bytes: &[u8],
    ) -> rusqlite::Result<Accepted> {
        let size = bytes.len() as u64;
        if let Err(full) = self.queues.room(&to.region, size) {
            return Ok(Accepted::Full(full));
        }
        self.connection
            .prepare_cached(
                "INSERT INTO messages (id, region, instance, sender, accepted, hidden_until, size, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)",
            )?
            .execute(params![id, to.region, to.instance, from.encoded(), now(), size, bytes])?;
        self.queues.add(&to.region, size);
        Ok(Accepted::Id(id.to_owned()))
    }

    /// The oldest message that is for the Region or the instance, which is hidden from now on for
    /// the time of the lease.
    pub(crate) fn take(&mut self, region: &str, instance: Option<&str>, lease: Duration) -> rusqlite::Result<Taken> {
        let now = now();
        // A clock that was set back must not hide a message for longer than any lease.
        let latest = now.saturating_add(MAX_LEASE * 1000);
        let oldest = now.saturating_sub(millis(self.ttl));
        let found = self
            .connection
            .prepare_cached(
                "SELECT seq, id, sender, size FROM messages WHERE seq = (
                     SELECT seq FROM messages WHERE region = ?1 AND (instance IS NULL OR instance = ?2)
                     AND (hidden_until <= ?3 OR hidden_until > ?4) AND accepted > ?5 ORDER BY seq LIMIT 1)",
            )?
            .query_row(params![region, instance, now, latest, oldest], |row| {
                Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((seq, id, sender, size)) = found else {
            let next: Option<u64> = self
                .connection
                .prepare_cached(
                    "SELECT min(hidden_until) FROM messages WHERE region = ?1 AND (instance IS NULL OR instance = ?2)
                     AND hidden_until > ?3 AND accepted > ?4",
                )?
                .query_row(params![region, instance, now, oldest], |row| row.get(0))?;
            return Ok(Taken::None { again: next.map(|next| Duration::from_millis(next.saturating_sub(now))) });
        };
        self.connection
            .prepare_cached("UPDATE messages SET hidden_until = ?2 WHERE seq = ?1")?
            .execute(params![seq, now.saturating_add(millis(lease))])?;
        Ok(Taken::Message { seq, id, sender, size })
    }

    /// The bytes of a message; None if it has ended.
    pub(crate) fn bytes(&mut self, seq: i64) -> rusqlite::Result<Option<Vec<u8>>> {
        let mut statement = self.connection.prepare_cached("SELECT bytes FROM messages WHERE seq = ?1")?;
        statement.query_row([seq], |row| row.get(0)).optional()
    }

    /// Shows a message again at once.
    pub(crate) fn show(&mut self, seq: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("UPDATE messages SET hidden_until = 0 WHERE seq = ?1")?.execute([seq])?;
        Ok(())
    }

    /// Whether there was such a message.
    pub(crate) fn acknowledge(&mut self, region: &str, id: &str) -> rusqlite::Result<bool> {
        let size: Option<u64> = self
            .connection
            .prepare_cached("DELETE FROM messages WHERE id = ?1 AND region = ?2 RETURNING size")?
            .query_row([id, region], |row| row.get(0))
            .optional()?;
        if let Some(size) = size {
            self.queues.remove(region, 1, size);
        }
        Ok(size.is_some())
    }

    /// Ends what is too old, and returns how many messages of which Regions that were.
    pub(crate) fn expire(&mut self) -> rusqlite::Result<Vec<(String, u64)>> {
        let oldest = now().saturating_sub(millis(self.ttl));
        let mut statement = self
            .connection
            .prepare_cached("SELECT region, count(*), sum(size) FROM messages WHERE accepted <= ?1 GROUP BY region")?;
        let rows = statement.query_map([oldest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let ended: Vec<(String, u64, u64)> = rows.collect::<rusqlite::Result<_>>()?;
        self.connection.prepare_cached("DELETE FROM messages WHERE accepted <= ?1")?.execute([oldest])?;
        for (region, messages, bytes) in &ended {
            self.queues.remove(region, *messages, *bytes);
        }
        // Each step gives one page back.
        let mut vacuum = self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUMED})"))?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(ended.into_iter().map(|(region, messages, _)| (region, messages)).collect())
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
