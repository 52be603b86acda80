//! Where a test's token is: in a directory, or in a database.

use std::path::Path;
#[cfg(feature = "fleet")]
use std::time::Duration;

use conclave::hsm::Role;
#[cfg(feature = "fleet")]
use conclave::store::PostgresStore;
use conclave::store::{Directory, Store};
use tempfile::TempDir;

use super::{domain, pin};

pub(crate) enum Home {
    Sqlite(TempDir),
    #[cfg(feature = "fleet")]
    Postgres(String),
}

impl Home {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    #[cfg(feature = "fleet")]
    pub(crate) fn postgres() -> Self {
        Self::Postgres(super::support::server().database())
    }

    /// How another process finds it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sqlite(data) => data.path().to_str().unwrap().to_owned(),
            #[cfg(feature = "fleet")]
            Self::Postgres(url) => url.clone(),
        }
    }

    pub(crate) fn is_remote(&self) -> bool {
        !matches!(self, Self::Sqlite(_))
    }

    /// Makes the token.
    pub(crate) fn create(&self) -> Box<dyn Store> {
        let (label, serial) = ("label", "0123456789abcdef");
        match self {
            Self::Sqlite(data) => Box::new(super::new_token(data.path()).1),
            #[cfg(feature = "fleet")]
            Self::Postgres(url) => {
                drop(PostgresStore::create(url, label, serial, &domain(1), Some(&pin(Role::So, 1))).unwrap());
                open(url)
            }
        }
    }

    /// Opens the token, as another host does.
    pub(crate) fn open(&self) -> Box<dyn Store> {
        open(&self.name())
    }
}

/// Opens the token of a name. Of the commits of others nobody tells here, so each call looks for itself.
pub(crate) fn open(name: &str) -> Box<dyn Store> {
    #[cfg(feature = "fleet")]
    if conclave::store::is_url(name) {
        return Box::new(PostgresStore::open(name, Duration::ZERO).unwrap());
    }
    Box::new(Directory::open(Path::new(name)).unwrap().store(0).unwrap())
}

/// Each function as a test over each kind of store.
macro_rules! over_both {
    ($($name:ident)*) => {
        mod on_sqlite {
            $(#[test] fn $name() { super::$name(&crate::home::Home::sqlite()); })*
        }
        #[cfg(feature = "fleet")]
        mod on_postgres {
            $(#[test] fn $name() { super::$name(&crate::home::Home::postgres()); })*
        }
    };
}
pub(crate) use over_both;
