//! The slots of fleets, beside those of the data directory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Backend, Embedded, SlotIds};
use crate::channel::{Channel, Remote};
use crate::config::{self, Database, FIRST_SLOT};
use crate::cryptoki::SlotId;
use crate::error::{ErrorKind, Result};
use crate::hsm::{self, DomainToken, PinRecord};
use crate::store::{PostgresStore, SqliteStore, Store};

/// How long what was read of the database is believed while no HSM tells of a commit.
const RECHECK: Duration = Duration::from_secs(1);

/// All slots that the configuration gives: a fleet's by its number, any other of the data directory.
pub(super) struct Mixed {
    embedded: Option<Embedded>,
    fleets: Vec<Fleet>,
}

struct Fleet {
    config: config::Fleet,
    remote: Mutex<Opened>,
}

#[derive(Default)]
enum Opened {
    /// Until first needed.
    #[default]
    No,
    Yes(Remote),
    /// And not opened again: a call may still be inside.
    Closed,
}

impl Mixed {
    pub(super) fn new(embedded: Option<Embedded>, fleets: &[config::Fleet], _settings: hsm::Settings) -> Result<Self> {
        let fleets = fleets.iter().map(|config| Fleet { config: config.clone(), remote: Mutex::default() });
        Ok(Self { embedded, fleets: fleets.collect() })
    }

    fn fleet(&self, slot: SlotId) -> Option<&Fleet> {
        self.fleets.iter().find(|fleet| SlotId::from(fleet.config.slot) == slot)
    }

    /// What has the slots of the data directory. CKR_SLOT_ID_INVALID if nothing has.
    fn embedded(&self, slot: SlotId) -> Result<&Embedded> {
        let below = slot < SlotId::from(FIRST_SLOT);
        self.embedded.as_ref().filter(|_| below).ok_or_else(|| ErrorKind::SlotIdInvalid.into())
    }
}

impl Fleet {
    /// None before the fleet's first HSM was provisioned.
    fn remote(&self) -> Result<Option<Remote>> {
        let mut held = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Opened::No => {}
            Opened::Yes(remote) => return Ok(Some(remote.clone())),
            Opened::Closed => return Err(ErrorKind::CryptokiNotInitialized.into()),
        }
        let store: Arc<dyn Store> = match &self.config.database {
            Database::Sqlite(path) if !path.is_dir() => return Ok(None),
            Database::Sqlite(path) => Arc::new(SqliteStore::open(path)?),
            Database::Postgres(url) => Arc::new(PostgresStore::open(url, RECHECK)?),
        };
        let remote = Remote::new(&self.config, store)?;
        *held = Opened::Yes(remote.clone());
        Ok(Some(remote))
    }
}

impl Backend for Mixed {
    fn slots(&self) -> Result<SlotIds> {
        let mut ids = match &self.embedded {
            Some(embedded) => embedded.slots()?,
            None => SlotIds::default(),
        };
        ids.tokens.extend(self.fleets.iter().map(|fleet| SlotId::from(fleet.config.slot)));
        ids.tokens.sort_unstable();
        Ok(ids)
    }

    fn store(&self, slot: SlotId) -> Result<Option<Arc<dyn Store>>> {
        match self.fleet(slot) {
            Some(fleet) => Ok(fleet.remote()?.map(|remote| remote.store())),
            None => self.embedded(slot)?.store(slot),
        }
    }

    fn create(
        &self,
        slot: SlotId,
        label: &str,
        serial: &str,
        domain: &DomainToken,
        so_pin: &PinRecord,
    ) -> Result<Arc<dyn Store>> {
        self.check_init(slot)?;
        self.embedded(slot)?.create(slot, label, serial, domain, so_pin)
    }

    fn destroy(&self, slot: SlotId) -> Result<()> {
        self.check_init(slot)?;
        self.embedded(slot)?.destroy(slot)
    }

    fn channel(&self, slot: SlotId) -> Result<Box<dyn Channel>> {
        let Some(fleet) = self.fleet(slot) else { return self.embedded(slot)?.channel(slot) };
        Ok(Box::new(fleet.remote()?.ok_or(ErrorKind::TokenNotRecognized)?))
    }

    fn describe(&self, slot: SlotId) -> Option<String> {
        let config = &self.fleet(slot)?.config;
        let name = config.label.as_ref().unwrap_or(&config.region);
        Some(format!("Conclave fleet {name}"))
    }

    fn check_init(&self, slot: SlotId) -> Result<()> {
        match self.fleet(slot) {
            None => Ok(()),
            Some(_) => Err(ErrorKind::TokenWriteProtected
                .with("a fleet's token is governed by its operators: it is neither initialised nor destroyed here")),
        }
    }

    fn close(&self) {
        for fleet in &self.fleets {
            *fleet.remote.lock().unwrap_or_else(PoisonError::into_inner) = Opened::Closed;
        }
    }
}
