//! What all calls of a process share.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::auditing::Audits;
use super::connecting::Negotiated;
use super::connection::{Broken, Connection};
use super::domain::Domain;
use super::logins::Logins;
use super::operation::Stream;
use super::pool::{Place, Pool};
use super::telling::{Deaf, Errands};
use crate::config;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::session::{HostKey, Process};
use crate::store::Store;

/// A fleet, as one process uses it.
pub(super) struct Fleet {
    pub(super) config: config::Fleet,
    pub(super) store: Arc<dyn Store>,
    pub(super) domain: Domain,
    pub(super) logins: Logins,
    pub(super) audits: Audits,
    pub(super) pool: Pool<Connection>,
    pub(super) process: Process,
    /// Read when first needed.
    pub(super) host_key: Mutex<Option<Arc<HostKey>>>,
    pub(super) session: Mutex<Negotiated>,
    pub(super) negotiated: Condvar,
    pub(super) home: Mutex<Option<Place>>,
    pub(super) errands: Errands,
    pub(super) deaf: Deaf,
    /// Ends that HSMs have not heard of.
    pub(super) abandoned: Mutex<VecDeque<Stream>>,
    /// The login was ended by the domain, or can be renewed no more.
    pub(super) login_ended: AtomicBool,
}

impl Fleet {
    pub(super) fn new(config: &config::Fleet, store: Arc<dyn Store>) -> Result<Self> {
        let hsms = config.hsms.len();
        Ok(Self {
            domain: Domain::new(Arc::clone(&store), config.trusted()?, config.host_key.as_deref()),
            store,
            logins: Logins::default(),
            audits: Audits::new(hsms),
            pool: Pool::new(hsms, config.pool),
            process: Process::new()?,
            host_key: Mutex::default(),
            session: Mutex::default(),
            negotiated: Condvar::new(),
            home: Mutex::default(),
            errands: Errands::default(),
            deaf: Deaf::new(hsms),
            abandoned: Mutex::default(),
            login_ended: AtomicBool::new(false),
            config: config.clone(),
        })
    }

    /// Whether a store's commits are announced: all processes of one machine see those of its own at once.
    pub(super) fn hears_of_commits(&self) -> bool {
        matches!(self.config.database, config::Database::Postgres(_))
    }

    pub(super) fn home(&self) -> Option<Place> {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn timeout(&self, quick: bool) -> Duration {
        if quick { self.config.timeout } else { self.config.timeout * 6 }
    }

    pub(super) fn give_up(&self, place: Place, broken: &Broken) {
        match self.pool.is_well(place) {
            true => {
                tracing::warn!(hsm = %self.address(place), why = %broken, "an HSM of the fleet is not used for now")
            }
            false => {
                tracing::debug!(hsm = %self.address(place), why = %broken, "an HSM of the fleet is still not used")
            }
        }
        self.pool.failed(place, broken.to_string());
    }

    pub(super) fn address(&self, place: Place) -> String {
        self.config.hsms.get(place).map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn broken(&self, place: Place, broken: &Broken) -> Error {
        ErrorKind::DeviceError.with(format!("{}: {broken}", self.address(place)))
    }

    /// No HSM is there, and why.
    pub(super) fn nobody(&self) -> Error {
        let troubles: Vec<_> = (self.pool.standings().into_iter().enumerate())
            .map(|(place, standing)| {
                let why = standing.trouble.unwrap_or_else(|| "all its connections are in use".to_owned());
                format!("{}: {why}", self.address(place))
            })
            .collect();
        let region = &self.config.region;
        ErrorKind::DeviceError.with(format!("no HSM of the fleet {region} serves this host: {}", troubles.join("; ")))
    }
}

pub(super) fn unexpected() -> Error {
    ErrorKind::DeviceError.with("the HSM answered with another kind of answer")
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
