//! Where slots, stores and HSMs come from: the data directory in embedded mode, and the fleets that the
//! configuration lists.

#[cfg(feature = "fleet")]
mod fleet;

use std::path::Path;
use std::sync::Arc;

use super::SlotId;
use crate::channel::{Channel, InProcess};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::hsm::{self, DomainToken, Hsm, PinRecord};
use crate::store::{Directory, Slot, Store};

/// What a back end has to offer at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SlotIds {
    /// Slots with an initialised token, ascending.
    pub(super) tokens: Vec<SlotId>,
    /// The slot where the next token will be, unless it is hidden.
    pub(super) free: Option<SlotId>,
}

pub(super) trait Backend: Send + Sync {
    fn slots(&self) -> Result<SlotIds>;

    /// The store of a slot's token; None while it has none.
    fn store(&self, slot: SlotId) -> Result<Option<Arc<dyn Store>>>;

    /// Puts a new token into a free slot; CKR_FUNCTION_FAILED if another process was first.
    fn create(
        &self,
        slot: SlotId,
        label: &str,
        serial: &str,
        domain: &DomainToken,
        so_pin: &PinRecord,
    ) -> Result<Arc<dyn Store>>;

    /// Deletes a slot's token.
    fn destroy(&self, slot: SlotId) -> Result<()>;

    /// A way to an HSM for a slot's token: in this process a fresh instance that holds no domain yet.
    fn channel(&self, slot: SlotId) -> Result<Box<dyn Channel>>;

    /// What C_GetSlotInfo calls the slot, if it has a name of its own.
    fn describe(&self, _slot: SlotId) -> Option<String> {
        None
    }

    /// CKR_TOKEN_WRITE_PROTECTED where C_InitToken makes no token.
    fn check_init(&self, _slot: SlotId) -> Result<()> {
        Ok(())
    }

    /// Lets go of connections and databases: the library is finalised, and its memory stays.
    fn close(&self) {}
}

/// What the configuration asks for.
pub(super) fn open(config: &Config, settings: hsm::Settings) -> Result<Box<dyn Backend>> {
    let embedded = match config.embedded {
        true => {
            config.prepare_data_dir()?;
            Some(Embedded::open(config, settings)?)
        }
        false => None,
    };
    #[cfg(feature = "fleet")]
    {
        Ok(Box::new(fleet::Mixed::new(embedded, &config.fleets, settings)?))
    }
    #[cfg(not(feature = "fleet"))]
    match embedded {
        Some(embedded) if config.fleets.is_empty() => Ok(Box::new(embedded)),
        _ => Err(ErrorKind::GeneralError.with("this build has embedded HSMs only: it knows no [[fleet]]")),
    }
}

/// Tokens in a data directory, HSMs in this process.
pub(super) struct Embedded {
    directory: Directory,
    settings: hsm::Settings,
    free_slot: bool,
}

impl Embedded {
    pub(super) fn open(config: &Config, settings: hsm::Settings) -> Result<Self> {
        Self::at(&config.data_dir, settings, config.free_slot)
    }

    /// The data directory `data`, which exists.
    pub(super) fn at(data: &Path, settings: hsm::Settings, free_slot: bool) -> Result<Self> {
        Ok(Self { directory: Directory::open(data)?, settings, free_slot })
    }
}

impl Backend for Embedded {
    fn slots(&self) -> Result<SlotIds> {
        let tokens = self.directory.list()?.into_iter().map(SlotId::from).collect();
        let free = if self.free_slot { Some(self.directory.free_slot()?.into()) } else { None };
        Ok(SlotIds { tokens, free })
    }

    fn store(&self, slot: SlotId) -> Result<Option<Arc<dyn Store>>> {
        match self.directory.store(number(slot)?) {
            Ok(store) => Ok(Some(Arc::new(store))),
            Err(error) if error.kind() == ErrorKind::TokenNotPresent => Ok(None),
            Err(error) => Err(error),
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
        Ok(Arc::new(self.directory.create(number(slot)?, label, serial, domain, so_pin)?))
    }

    fn destroy(&self, slot: SlotId) -> Result<()> {
        self.directory.destroy(number(slot)?)
    }

    fn channel(&self, _slot: SlotId) -> Result<Box<dyn Channel>> {
        Ok(Box::new(InProcess::new(Hsm::new(self.settings)?)))
    }
}

fn number(slot: SlotId) -> Result<Slot> {
    Slot::try_from(slot).map_err(|_| ErrorKind::SlotIdInvalid.into())
}
