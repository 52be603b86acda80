//! The tables: one set per database or schema, for one token. Written for every engine that speaks
//! PostgreSQL's protocol: no triggers, no sequences, no locks by name, indexes with their order spelled
//! out.
//!
//! All numbers are signed 64-bit with the bit pattern of the unsigned ones; what is true or false is 1
//! or 0. `state` has what every commit reads and writes, and so puts the commits of all hosts in one
//! order: their number, the newest ones that changed everything (`anything`), the token's own rows
//! (`meta`) and what searches find (`objects`); the next object's place; how many managed keys there
//! are, without public halves, and how many objects. `commits` and `changes` tell of the last
//! [`KEPT`] commits: their random names, and what they changed or deleted. `audit_state` does for audit
//! rows what `state` does for the others, so that they wait for no one else.

use super::connection::Session;
use super::failure::Failure;
use crate::error::ErrorKind;

pub(super) const VERSION: i64 = 1;
/// Of how many commits it is kept what they were.
pub(super) const KEPT: i64 = 10_000;

const TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS schema_version (one INT8 PRIMARY KEY CHECK (one = 1), version INT8 NOT NULL)",
    "CREATE TABLE IF NOT EXISTS state (
        one INT8 PRIMARY KEY CHECK (one = 1),
        counter INT8 NOT NULL,
        anything INT8 NOT NULL,
        meta INT8 NOT NULL,
        objects INT8 NOT NULL,
        next_place INT8 NOT NULL,
        managed INT8 NOT NULL,
        total INT8 NOT NULL
    )",
    "CREATE TABLE IF NOT EXISTS commits (id BYTEA PRIMARY KEY, counter INT8 NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS commits_counter ON commits (counter ASC)",
    "CREATE TABLE IF NOT EXISTS changes (object BYTEA, counter INT8, PRIMARY KEY (object, counter))",
    "CREATE INDEX IF NOT EXISTS changes_counter ON changes (counter ASC)",
    "CREATE TABLE IF NOT EXISTS token (
        one INT8 PRIMARY KEY CHECK (one = 1),
        label TEXT NOT NULL,
        serial TEXT NOT NULL
    )",
    "CREATE TABLE IF NOT EXISTS domain (version INT8 PRIMARY KEY, content BYTEA NOT NULL)",
    "CREATE TABLE IF NOT EXISTS pins (
        role INT8 NOT NULL,
        name TEXT NOT NULL,
        generation INT8 NOT NULL,
        failures INT8 NOT NULL,
        sealed BYTEA NOT NULL,
        PRIMARY KEY (role, name)
    )",
    "CREATE TABLE IF NOT EXISTS log (version INT8 PRIMARY KEY, entry BYTEA NOT NULL)",
    "CREATE TABLE IF NOT EXISTS proposals (
        id BYTEA PRIMARY KEY CHECK (length(id) = 32),
        seq INT8 NOT NULL,
        content BYTEA NOT NULL
    )",
    "CREATE TABLE IF NOT EXISTS recovery (one INT8 PRIMARY KEY CHECK (one = 1), sealed BYTEA NOT NULL)",
    "CREATE TABLE IF NOT EXISTS audit_state (one INT8 PRIMARY KEY CHECK (one = 1), next_id INT8 NOT NULL)",
    "CREATE TABLE IF NOT EXISTS audit (
        instance BYTEA NOT NULL CHECK (length(instance) = 16),
        number INT8 NOT NULL,
        id INT8 NOT NULL,
        content BYTEA NOT NULL,
        PRIMARY KEY (instance, number)
    )",
    "CREATE UNIQUE INDEX IF NOT EXISTS audit_id ON audit (id ASC)",
    "CREATE TABLE IF NOT EXISTS audit_tips (
        instance BYTEA PRIMARY KEY CHECK (length(instance) = 16),
        seq INT8 NOT NULL,
        hash BYTEA NOT NULL CHECK (length(hash) = 48),
        closed INT8 NOT NULL,
        moved INT8 NOT NULL
    )",
    "CREATE INDEX IF NOT EXISTS audit_tips_moved ON audit_tips (instance ASC) WHERE moved = 1",
    "CREATE TABLE IF NOT EXISTS objects (
        object BYTEA PRIMARY KEY CHECK (length(object) = 16),
        place INT8 NOT NULL,
        generation INT8 NOT NULL,
        class INT8 NOT NULL,
        key_type INT8,
        private INT8 NOT NULL,
        label BYTEA,
        ckaid BYTEA,
        sealed BYTEA NOT NULL,
        domain_key BYTEA CHECK (length(domain_key) = 16),
        managed INT8 NOT NULL,
        due INT8,
        replicating INT8 NOT NULL
    )",
    "CREATE UNIQUE INDEX IF NOT EXISTS objects_place ON objects (place ASC)",
    "CREATE INDEX IF NOT EXISTS objects_label ON objects (label ASC, place ASC) WHERE label IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS objects_ckaid ON objects (ckaid ASC, place ASC) WHERE ckaid IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS objects_class ON objects (class ASC, place ASC)",
    "CREATE INDEX IF NOT EXISTS objects_class_type ON objects (class ASC, key_type ASC, place ASC)
        WHERE key_type IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS objects_domain_key ON objects (domain_key ASC, place ASC)",
    "CREATE INDEX IF NOT EXISTS objects_managed ON objects (place ASC) WHERE managed = 1",
    "CREATE INDEX IF NOT EXISTS objects_replicating ON objects (place ASC) WHERE replicating = 1",
    "CREATE INDEX IF NOT EXISTS objects_due ON objects (due ASC, place ASC) WHERE due IS NOT NULL",
    "INSERT INTO audit_state (one, next_id) VALUES (1, 1) ON CONFLICT (one) DO NOTHING",
    "INSERT INTO state (one, counter, anything, meta, objects, next_place, managed, total)
        VALUES (1, 0, 0, 0, 0, 1, 0, 0) ON CONFLICT (one) DO NOTHING",
];
const DONE: &str = "INSERT INTO schema_version (one, version) VALUES (1, $1) ON CONFLICT (one) DO NOTHING";

/// Makes the tables that are not there. Each statement by itself: not every engine changes its schema in
/// a transaction; and what one attempt left, the next goes on with.
pub(super) async fn create(session: &mut Session) -> Result<(), Failure> {
    for statement in TABLES {
        if let Err(failure) = session.batch(statement).await {
            // Another makes the same table at this moment.
            match failure.is_duplicate() {
                true => session.batch(statement).await?,
                false => return Err(failure),
            }
        }
    }
    session.execute(DONE, &[&VERSION]).await?;
    Ok(())
}

/// CKR_TOKEN_NOT_RECOGNIZED if the tables are not there, or of another release.
pub(super) async fn check(session: &mut Session) -> Result<(), Failure> {
    let found = match session.query_opt("SELECT version FROM schema_version", &[]).await {
        Ok(Some(row)) => row.try_get(0)?,
        Ok(None) => 0,
        Err(failure) if failure.is_missing_table() => 0,
        Err(failure) => return Err(failure),
    };
    match found {
        VERSION => Ok(()),
        0 => Err(unknown("it has not the tables of a token; make them first".to_owned())),
        newer => Err(unknown(format!(
            "its tables have schema version {newer}, of another release; this one knows version {VERSION}"
        ))),
    }
}

fn unknown(why: String) -> Failure {
    ErrorKind::TokenNotRecognized.with(format!("the database: {why}")).into()
}
