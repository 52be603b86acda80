//! The stores of fleets, without their HSMs: making one, and reading the domain's history.

use std::path::Path;

use conclave::config::{Config, Database};
use conclave::error::{Error, ErrorKind};
use conclave::hsm::DomainToken;
use conclave::hsm::{governance, session};
use conclave::store::{PostgresStore, RECHECK, SqliteStore, Store};
use serde_json::Value;

use crate::args::FleetDatabase;
use crate::output::Failure;

/// What `--database` names.
pub(super) fn database(text: &str) -> Result<Database, Failure> {
    Database::parse(text, &Path::to_owned).map_err(|why| Failure::usage(format!("--database {why}")))
}

/// Fails if there is a token already.
pub(super) fn check_free(database: &Database) -> Result<(), Failure> {
    match database {
        Database::Sqlite(path) if path.exists() => {
            Err(Failure::new(format!("{} exists already: give a new directory", path.display())))
        }
        Database::Sqlite(_) => Ok(()),
        Database::Postgres(url) => {
            match PostgresStore::open(url, RECHECK).and_then(|store| store.meta()) {
                Ok(_) => Err(Failure::new("the database has a token already: give another, or another schema")),
                // No tables, or no rows.
                Err(error) if matches!(error.kind(), ErrorKind::TokenNotRecognized | ErrorKind::DeviceRemoved) => {
                    Ok(())
                }
                Err(error) => Err(unread(&error)),
            }
        }
    }
}

/// Makes the store of a new domain; what its token says.
pub(super) fn make(database: &Database, label: &str, domain: &DomainToken) -> Result<Value, Failure> {
    let failed = |error: Error| Failure::while_("cannot make the store", &error);
    let described = governance::describe_token(&domain.bytes).map_err(failed)?;
    let serial = described["serial"].as_str().unwrap_or_default();
    match database {
        Database::Sqlite(path) => SqliteStore::create(path, label, serial, domain).map(drop),
        Database::Postgres(url) => PostgresStore::create(url, label, serial, domain, None).map(drop),
    }
    .map_err(failed)?;
    Ok(described)
}

/// A domain's public history, verified in itself.
pub(super) struct History {
    pub(super) origin: DomainToken,
    pub(super) newest: DomainToken,
    /// Of the versions after the origin's.
    pub(super) entries: Vec<Vec<u8>>,
    /// What the newest token says.
    pub(super) described: Value,
}

impl History {
    pub(super) fn read(from: &FleetDatabase) -> Result<Self, Failure> {
        let store: Box<dyn Store> = match place(from)? {
            Database::Sqlite(path) => Box::new(SqliteStore::open(&path).map_err(|error| unread(&error))?),
            Database::Postgres(url) => Box::new(PostgresStore::open(&url, RECHECK).map_err(|error| unread(&error))?),
        };
        let read = || -> Result<Self, Error> {
            let newest = store.meta()?.domain;
            // Before the founding there is no log.
            let origin = store.origin()?.unwrap_or_else(|| newest.clone());
            let entries = store.log(origin.version, newest.version)?;
            let described = governance::describe_token(&newest.bytes)?;
            Ok(Self { origin, newest, entries, described })
        };
        let history = read().map_err(|error| unread(&error))?;
        let hash = history.described["hash"].as_str().and_then(crate::session::unhex);
        let hash = hash.and_then(|hash| hash.try_into().ok()).ok_or_else(|| Failure::new("the token has no hash"))?;
        session::replay(&history.origin.bytes, &history.newest.bytes, &history.entries, &hash)
            .map_err(|error| Failure::while_("the domain's log does not verify", &error))?;
        Ok(history)
    }
}

/// The store that is meant.
fn place(from: &FleetDatabase) -> Result<Database, Failure> {
    if let Some(text) = &from.database {
        return database(text);
    }
    let config = Config::load().map_err(|error| Failure::while_("cannot read the configuration", &error))?;
    let named = |fleet: &&conclave::config::Fleet| match &from.fleet {
        Some(name) => fleet.label.as_ref() == Some(name) || fleet.region == *name,
        None => true,
    };
    let mut found = config.fleets.iter().filter(named);
    match (found.next(), found.next()) {
        (Some(fleet), None) => Ok(fleet.database.clone()),
        (None, _) => Err(Failure::usage("conclave.toml has no such [[fleet]]: give --database")),
        _ => Err(Failure::usage("conclave.toml has several fleets: say which with --fleet")),
    }
}

fn unread(error: &Error) -> Failure {
    Failure::while_("cannot read the store", error)
}
